"""Each command, end to end, as a user starts it."""
import functools
import json
import os
import re

import jax
import numpy as np
import pytest

from mtl_jax import base_learner, data
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import finished, models, records
from tests import tiny_runs

COMMON = {'command', 'seconds', 'device', 'versions', 'seed'}


def _results(workdir):
  return json.loads((workdir / 'results.json').read_text())


def _lines(workdir):
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{key: value for key, value in line.items() if key != 'checksum'} for line in lines]


def _leaves(workdir, name):
  """Path -> bytes of each array of a tree of a model."""
  def walk(tree, path):
    if not isinstance(tree, dict):
      return {path: tree.tobytes()}
    return {place: content for name, branch in tree.items()
            for place, content in walk(branch, f'{path}/{name}').items()}
  return walk(models.read_tree(workdir, name), '')


@pytest.fixture(scope='module')
def meta_tested():
  tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.meta_trained()}',
                     f'--workdir={tiny_runs.shared() / "meta_tested"}')
  return tiny_runs.shared() / 'meta_tested'


def _phases(meta_tested):
  """Name of the command -> (work directory, what it goes on from)."""
  return {'pretrain': (tiny_runs.pretrained(), []),
          'meta_train': (tiny_runs.meta_trained(), [f'--pretrained={tiny_runs.pretrained()}']),
          'meta_test': (meta_tested, [f'--checkpoint={tiny_runs.meta_trained()}'])}


def test_pretrain_writes_results_metrics_and_backbone():
  workdir = tiny_runs.pretrained()
  results = _results(workdir)
  assert results.keys() >= COMMON
  assert (results['command'], results['steps'], results['seed']) == ('pretrain', 8, 0)
  assert 0 <= results['validation_accuracy'] <= 1
  lines = _lines(workdir)
  assert [line['step'] for line in lines if 'loss' in line] == [2, 4, 6, 8]
  validated = {line['step']: line['validation_accuracy'] for line in lines
               if 'validation_accuracy' in line}
  assert list(validated) == [0, 4, 8]
  best = validated[results['best_step']]
  assert results['validation_accuracy'] == max(validated.values()) == best
  assert any('kernel' in path for path in _leaves(workdir, models.BACKBONE))


def test_meta_train_writes_results_and_leaves_the_backbone_bitwise_as_it_was():
  workdir = tiny_runs.meta_trained()
  results = _results(workdir)
  assert results.keys() >= COMMON
  assert (results['command'], results['steps']) == ('meta_train', 8)
  assert [line['step'] for line in _lines(workdir) if 'loss' in line] == [4, 8]
  assert all('hard_loss' in line for line in _lines(workdir) if 'loss' in line)
  assert (_leaves(workdir, models.BACKBONE)
          == _leaves(tiny_runs.pretrained(), models.BACKBONE))
  learned = {path.split('/')[1] for path in _leaves(workdir, models.META_PARAMS)}
  assert learned == {'scale_shift', 'base_learner'}


def test_meta_test_writes_accuracies_and_their_summary(meta_tested):
  results = _results(meta_tested)
  assert results.keys() >= COMMON | {'accuracy', 'ci95'}
  fields = ('command', 'num_tasks', 'way', 'shot', 'query', 'protocol', 'split')
  assert [results[k] for k in fields] == ['meta_test', 10, 3, 1, 4, 'inductive', 'test']
  accuracies = np.load(meta_tested / 'accuracies.npy')
  assert accuracies.shape == (10,)
  # 12 queries a task.
  np.testing.assert_allclose(accuracies * 12, np.round(accuracies * 12), atol=1e-5)
  assert results['accuracy'] == pytest.approx(accuracies.mean(dtype=np.float64))
  assert results['ci95'] == pytest.approx(1.96 * accuracies.std(dtype=np.float64) / np.sqrt(10))
  assert results['baselines'].keys() == {'update_theta'}


def test_another_way_than_meta_trained_keeps_scale_and_shift_and_starts_from_zero(tmp_path):
  trained = tiny_runs.meta_trained()
  result = tiny_runs.finished('meta_test', f'--checkpoint={trained}', '--way=2',
                              f'--workdir={tmp_path / "two"}')
  assert (f'{trained} was meta-trained 3-way: for 2 ways θ starts from zero, all else as learned'
          in result.stderr)
  run = finished.load(trained)
  pool = data.load('folder', data_dir=tiny_runs.shared() / 'data', image_size=16).test
  config = MetaTestConfig(num_tasks=10, way=2, shot=1, query=4, inner=InnerLoop(lr=0.01, steps=5))
  expected = jax.jit(functools.partial(meta_test.accuracies, backbone=run.backbone, config=config))(
      run.meta_params._replace(base_learner=base_learner.init(run.backbone.feature_dim, 2)),
      run.backbone_vars, pool._replace(normalization=run.normalization),
      meta_test.task_keys(records.stream_key(0, 'test'), 10))
  np.testing.assert_array_equal(np.load(tmp_path / 'two' / 'accuracies.npy'), expected)


def test_meta_test_of_a_pretraining_writes_into_its_workdir():
  result = tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.pretrained()}',
                              '--protocol=paper')
  written = re.search(r'written to (\S+)/results\.json', result.stdout)
  assert written
  folder = tiny_runs.pretrained() / 'meta_test'
  assert os.path.dirname(written[1]) == str(folder)
  # What is not at its default is in the name, so that other settings have a directory of their own.
  assert os.path.basename(written[1]) == (
      'data_test_3way_1shot_paper_10tasks_query4_test_inner_steps5')
  with open(written[1] + '/results.json', encoding='utf-8') as file:
    results = json.load(file)
  assert results['method'] == 'update θ' and results['protocol'] == 'paper'
  assert 'baselines' not in results


def test_a_finished_run_says_so_and_changes_nothing(meta_tested):
  for name, (workdir, flags) in _phases(meta_tested).items():
    before = tiny_runs.contents(workdir)
    result = tiny_runs.finished(name, f'--workdir={workdir}', *flags)
    assert result.stderr.splitlines() == [f'the run in {workdir} is finished: nothing to do']
    assert tiny_runs.contents(workdir) == before


@pytest.mark.slow
def test_images_on_the_host_end_the_same(meta_tested, tmp_path):
  """All three phases, streamed: the accuracies are those of the runs with images in memory."""
  for name, (expected, flags) in _phases(meta_tested).items():
    result = tiny_runs.finished(name, f'--workdir={tmp_path / name}', '--images=host', *flags)
    assert 'images stay in host memory and are streamed' in result.stderr
    for line, other in zip(_lines(tmp_path / name), _lines(expected), strict=True):
      assert line == {key: value if isinstance(value, str) else pytest.approx(value, rel=1e-4)
                      for key, value in other.items()}
  np.testing.assert_array_equal(np.load(tmp_path / 'meta_test' / 'accuracies.npy'),
                                np.load(meta_tested / 'accuracies.npy'))


@pytest.mark.slow
def test_bfloat16_over_a_float32_pretraining(tmp_path):
  run = tmp_path / 'half'
  tiny_runs.finished('meta_train', f'--pretrained={tiny_runs.pretrained()}', f'--workdir={run}',
                     '--compute_dtype=bfloat16')
  settings = json.loads((run / 'settings.json').read_text())
  assert settings['backbone']['compute_dtype'] == 'bfloat16'
  assert settings['pretrained']['backbone']['compute_dtype'] == 'bfloat16'  # as it was used
  before = json.loads((tiny_runs.pretrained() / 'settings.json').read_text())
  assert before['backbone']['compute_dtype'] == 'float32'
  saved = jax.tree.leaves(models.read_tree(run, models.META_PARAMS))
  assert {leaf.dtype.name for leaf in saved} == {'float32'}
  found = {dtype: tmp_path / dtype for dtype in ('bfloat16', 'float32')}
  # As in the run before.
  tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--workdir={found["bfloat16"]}')
  tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--workdir={found["float32"]}',
                     '--compute_dtype=float32')
  accuracies = {dtype: np.load(folder / 'accuracies.npy') for dtype, folder in found.items()}
  assert np.abs(accuracies['bfloat16'].mean() - accuracies['float32'].mean()) < 0.2


def test_turned_classes_make_other_tasks_over_the_same_validation(tmp_path):
  upright, turned = tiny_runs.meta_trained(), tmp_path / 'turned'
  tiny_runs.finished('meta_train', f'--pretrained={tiny_runs.pretrained()}', '--rotated_classes',
                     f'--workdir={turned}')
  images = {run: json.loads((run / 'settings.json').read_text())['images']
            for run in (upright, turned)}
  assert images[turned]['train'] != images[upright]['train']
  assert images[turned]['val'] == images[upright]['val']
  first, other = _lines(upright), _lines(turned)
  assert first[0] == other[0] and 'validation_accuracy' in first[0]  # before the first step
  assert ([line['loss'] for line in first if 'loss' in line] !=
          [line['loss'] for line in other if 'loss' in line])


def test_a_home_folder_is_found_in_a_path(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.pretrained()}', '--workdir=~/tested')
  assert _results(tmp_path / 'tested')['command'] == 'meta_test'


@pytest.mark.slow
def test_quickstart_end_to_end(tmp_path):
  """Two steps of pre-training, one cycle of meta-training, on the real built-in data set."""
  result = tiny_runs.start(
      'launch.quickstart', f'--workdir={tmp_path / "run"}', '--width=4', '--pretrain_steps=1',
      '--meta_steps=1', '--num_tasks=10', timeout=600)
  assert result.returncode == 0, result.stderr
  results = _results(tmp_path / 'run')
  assert results.keys() >= COMMON | {'pretrain', 'meta_train', 'meta_test', 'accuracy', 'ci95',
                                     'baselines'}
  assert results['command'] == 'quickstart'
  assert results['baselines'].keys() >= {'update_theta', 'ft_theta'}
  for name in ('MTL, HT meta-batch', 'FT θ', 'update θ', 'pre-training', 'meta-test'):
    assert name in result.stdout
