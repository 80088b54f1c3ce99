"""Each launcher, end to end, as a user starts it."""
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from mtl_jax.runs import checkpoints
from tests import tiny_runs

LAUNCHERS = ['pretrain', 'meta_train', 'meta_test', 'quickstart', 'reproduce', 'import_weights']
COMMON = {'command', 'seconds', 'device', 'versions', 'seed'}


def _results(workdir):
  return json.loads((workdir / 'results.json').read_text())


def _lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def _leaves(folder):
  """Path -> bytes of each array of a saved tree."""
  def walk(tree, path):
    if not isinstance(tree, dict):
      return {path: tree.tobytes()}
    return {k: v for name, branch in tree.items() for k, v in walk(branch, f'{path}/{name}').items()}
  return walk(checkpoints.load_tree(folder), '')


@pytest.fixture(scope='module')
def meta_tested():
  tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.meta_trained()}',
                     f'--workdir={tiny_runs.shared() / "meta_tested"}')
  return tiny_runs.shared() / 'meta_tested'


def test_pretrain_writes_results_metrics_and_backbone():
  workdir = tiny_runs.pretrained()
  results = _results(workdir)
  assert results.keys() >= COMMON
  assert (results['command'], results['steps'], results['seed']) == ('pretrain', 8, 0)
  assert 0 <= results['validation_accuracy'] <= 1
  lines = _lines(workdir)
  assert [line['step'] for line in lines if 'loss' in line] == [2, 4, 6, 8]
  validated = {line['step']: line['validation_accuracy'] for line in lines if 'validation_accuracy' in line}
  assert list(validated) == [0, 4, 8]
  assert results['validation_accuracy'] == max(validated.values()) == validated[results['best_step']]
  assert any('kernel' in path for path in _leaves(workdir / 'backbone'))


def test_meta_train_writes_results_and_leaves_the_backbone_bitwise_as_it_was():
  workdir = tiny_runs.meta_trained()
  results = _results(workdir)
  assert results.keys() >= COMMON
  assert (results['command'], results['steps']) == ('meta_train', 8)
  assert [line['step'] for line in _lines(workdir) if 'loss' in line] == [4, 8]
  assert all('hard_loss' in line for line in _lines(workdir) if 'loss' in line)
  assert _leaves(workdir / 'backbone') == _leaves(tiny_runs.pretrained() / 'backbone')
  assert {path.split('/')[1] for path in _leaves(workdir / 'meta_params')} == {'scale_shift', 'base_learner'}


def test_meta_test_writes_accuracies_and_their_summary(meta_tested):
  results = _results(meta_tested)
  assert results.keys() >= COMMON | {'accuracy', 'ci95', 'num_tasks', 'way', 'shot', 'query', 'protocol', 'split'}
  assert [results[k] for k in ('command', 'num_tasks', 'way', 'shot', 'query', 'protocol', 'split')] == [
      'meta_test', 10, 3, 1, 4, 'inductive', 'test']
  accuracies = np.load(meta_tested / 'accuracies.npy')
  assert accuracies.shape == (10,)
  np.testing.assert_allclose(accuracies * 12, np.round(accuracies * 12), atol=1e-5)  # 12 queries a task
  assert results['accuracy'] == pytest.approx(accuracies.mean(dtype=np.float64))
  assert results['ci95'] == pytest.approx(1.96 * accuracies.std(dtype=np.float64) / np.sqrt(10))
  assert results['baselines'].keys() == {'update_theta'}


def test_meta_test_of_a_pretraining_writes_into_its_workdir():
  result = tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.pretrained()}', '--protocol=paper')
  written = re.search(r'written to (\S+)/results\.json', result.stdout)
  assert written and written[1].startswith(str(tiny_runs.pretrained() / 'meta_test'))
  with open(written[1] + '/results.json', encoding='utf-8') as file:
    results = json.load(file)
  assert results['method'] == 'update θ' and 'baselines' not in results and results['protocol'] == 'paper'


def test_a_finished_run_says_so_and_changes_nothing(meta_tested):
  again = {'pretrain': (tiny_runs.pretrained(), []),
           'meta_train': (tiny_runs.meta_trained(), [f'--pretrained={tiny_runs.pretrained()}']),
           'meta_test': (meta_tested, [f'--checkpoint={tiny_runs.meta_trained()}'])}
  for name, (workdir, flags) in again.items():
    before = tiny_runs.contents(workdir)
    result = tiny_runs.finished(name, f'--workdir={workdir}', *flags)
    assert result.stderr.splitlines() == [f'the run in {workdir} is finished: nothing to do']
    assert tiny_runs.contents(workdir) == before


def test_images_on_the_host_end_the_same(meta_tested, tmp_path):
  """All three phases, streamed: the accuracies are those of the runs with images in memory."""
  in_memory = {'pretrain': (tiny_runs.pretrained(), []),
               'meta_train': (tiny_runs.meta_trained(), [f'--pretrained={tiny_runs.pretrained()}']),
               'meta_test': (meta_tested, [f'--checkpoint={tiny_runs.meta_trained()}'])}
  for name, (expected, flags) in in_memory.items():
    result = tiny_runs.finished(name, f'--workdir={tmp_path / name}', '--images=host', *flags)
    assert 'images stay in host memory and are streamed' in result.stderr
    for line, other in zip(_lines(tmp_path / name), _lines(expected), strict=True):
      assert line == {key: value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
                      for key, value in other.items()}
  np.testing.assert_array_equal(np.load(tmp_path / 'meta_test' / 'accuracies.npy'),
                                np.load(meta_tested / 'accuracies.npy'))


def test_bfloat16_over_a_float32_pretraining(tmp_path):
  run = tmp_path / 'half'
  tiny_runs.finished('meta_train', f'--pretrained={tiny_runs.pretrained()}', f'--workdir={run}',
                     '--compute_dtype=bfloat16')
  settings = json.loads((run / 'settings.json').read_text())
  assert settings['backbone']['compute_dtype'] == 'bfloat16'
  assert settings['pretrained']['backbone']['compute_dtype'] == 'bfloat16'  # as it was used
  assert json.loads((tiny_runs.pretrained() / 'settings.json').read_text())['backbone']['compute_dtype'] == 'float32'
  assert {leaf.dtype.name for leaf in jax.tree.leaves(checkpoints.load_tree(run / 'meta_params'))} == {'float32'}
  found = {dtype: tmp_path / dtype for dtype in ('bfloat16', 'float32')}
  tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--workdir={found["bfloat16"]}')  # as in the run before
  tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--workdir={found["float32"]}', '--compute_dtype=float32')
  accuracies = {dtype: np.load(folder / 'accuracies.npy') for dtype, folder in found.items()}
  assert np.abs(accuracies['bfloat16'].mean() - accuracies['float32'].mean()) < 0.2


def test_turned_classes_make_other_tasks_over_the_same_validation(tmp_path):
  upright, turned = tiny_runs.meta_trained(), tmp_path / 'turned'
  tiny_runs.finished('meta_train', f'--pretrained={tiny_runs.pretrained()}', '--rotated_classes', f'--workdir={turned}')
  images = {run: json.loads((run / 'settings.json').read_text())['images'] for run in (upright, turned)}
  assert images[turned]['train'] != images[upright]['train'] and images[turned]['val'] == images[upright]['val']
  first, other = _lines(upright), _lines(turned)
  assert first[0] == other[0] and 'validation_accuracy' in first[0]  # before the first step
  assert [line['loss'] for line in first if 'loss' in line] != [line['loss'] for line in other if 'loss' in line]


def test_quickstart_end_to_end(tmp_path):
  """Two steps of pre-training, one cycle of meta-training, on the real built-in data set."""
  result = subprocess.run(
      [sys.executable, '-m', 'launch.quickstart', f'--workdir={tmp_path / "run"}', '--width=4', '--pretrain_steps=1',
       '--meta_steps=1', '--num_tasks=10'], cwd=tiny_runs.ROOT, env=tiny_runs.environment(), capture_output=True,
      text=True, timeout=600)
  assert result.returncode == 0, result.stderr
  results = _results(tmp_path / 'run')
  assert results.keys() >= COMMON | {'pretrain', 'meta_train', 'meta_test', 'accuracy', 'ci95', 'baselines'}
  assert results['command'] == 'quickstart'
  assert results['baselines'].keys() >= {'update_theta', 'ft_theta'}
  for name in ('MTL, HT meta-batch', 'FT θ', 'update θ', 'pre-training', 'meta-test'):
    assert name in result.stdout


@pytest.mark.parametrize('name', LAUNCHERS)
def test_help_explains_every_flag(name):
  result = subprocess.run([sys.executable, '-m', f'launch.{name}', '--help'], cwd=tiny_runs.ROOT,
                          env=tiny_runs.environment(), capture_output=True, text=True, timeout=60)
  assert f'python -m launch.{name}' in result.stdout
  explained = re.findall(r'^  --(?:\[no\])?(\w+):[ \n]*(.*)', result.stdout, re.MULTILINE)
  flags = dict(explained)
  assert {'workdir', *(['seed'] if name != 'import_weights' else [])} <= flags.keys()
  if name not in ('quickstart', 'reproduce', 'import_weights'):  # these have settings of their own
    assert {'dataset', 'data_dir', 'way', 'shot', 'compile_cache'} <= flags.keys()
  without_words = [flag for flag, text in explained if not re.sub(r'<.*?>:?', '', text).strip()]
  assert not without_words
