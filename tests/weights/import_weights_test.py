"""`launch.import_weights` as a user starts it, from the authors' files to scores and back."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mtl_jax.phases import meta_test
from mtl_jax.phases.meta_train import MetaTrainConfig
from mtl_jax.runs import checkpoints, finished, runs
from mtl_jax.runs.validation import Validation
from mtl_jax.weights import names, npy, sources, workdir
from tests import tiny_runs
from tests.phases import toy_dataset
from tests.weights import authors_layout, pth_files

WAY = 3
OPTIONS = {'way': WAY, 'shot': 1, 'image_size': 16}


def pytorch(meta_trained=True):
  return authors_layout.pytorch(meta_trained=meta_trained, divisor=80, way=WAY)


def write_npy(folder, meta_trained=True):
  """As np.save writes the dictionaries of their TensorFlow code."""
  for name, tensors in authors_layout.tensorflow(meta_trained=meta_trained, way=WAY).items():
    np.save(folder / f'{name}_1000.npy', tensors)
  return folder


def tensorflow(meta_trained=True):
  found = authors_layout.tensorflow(meta_trained=meta_trained, way=WAY)
  return {f'{name}/{key}': array for name, part in found.items() for key, array in part.items()}


def imports(*flags):
  return subprocess.run([sys.executable, '-m', 'launch.import_weights', '--image_size=16', *map(str, flags)],
                        cwd=tiny_runs.ROOT, env=tiny_runs.environment(), capture_output=True, text=True, timeout=300)


def written(folder, format, meta_trained=True):
  """A run made in this process."""
  tensors = {'pytorch': pytorch, 'tensorflow': tensorflow}[format](meta_trained)
  return workdir.write(str(folder), tensors, format, source='file', **OPTIONS)


def test_from_a_pth_to_scores_under_both_protocols_and_back(tmp_path):
  run = tmp_path / 'run'
  source = pth_files.save(tmp_path, pytorch())
  result = imports(f'--source={source}', '--format=pytorch', f'--workdir={run}', f'--way={WAY}')
  assert result.returncode == 0, result.stderr
  assert f'meta-trained resnet25 in {run}' in result.stdout
  assert 'left out, having no place here: base_learner.fc1_b, base_learner.fc1_w, encoder.bn1.num' in result.stdout
  results = json.loads((run / 'results.json').read_text())
  assert results.keys() >= {'command', 'seconds', 'device', 'versions', 'seed'} and results['source'] == str(source)
  for protocol in ('inductive', 'paper'):
    tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--protocol={protocol}', '--num_tasks=4',
                       f'--workdir={tmp_path / protocol}')
    scored = json.loads((tmp_path / protocol / 'results.json').read_text())
    assert scored['method'] == 'SS[Θ;θ], meta-batch' and 0 <= scored['accuracy'] <= 1
  result = imports(f'--workdir={run}', f'--export={tmp_path / "back.npz"}')
  assert result.returncode == 0 and "unlike the authors' code, this run has a width of 2" in result.stdout
  back = npy.read(tmp_path / 'back.npz')
  assert back.keys() == pytorch().keys()
  for key, array in pytorch().items():
    if not key.endswith('num_batches_tracked'):
      np.testing.assert_array_equal(back[key], array)


def test_tensorflow_dictionaries_are_scored_by_batch_statistics_and_meta_trained_further(tmp_path):
  run, trained = tmp_path / 'run', tmp_path / 'trained'
  (tmp_path / 'files').mkdir()
  source = write_npy(tmp_path / 'files', meta_trained=False)
  result = imports(f'--source={source}', '--format=tensorflow', f'--workdir={run}')
  assert result.returncode == 0, result.stderr
  assert 'pre-trained resnet12 in' in result.stdout and 'have no running statistics' in result.stdout
  config, validation = MetaTrainConfig(way=WAY, query=2), Validation(way=WAY, num_tasks=2)
  with pytest.raises(ValueError, match='without running statistics of batch norm: give --batch_stats=batch'):
    runs.meta_train_run(toy_dataset(), pretrained=str(run), config=config, validation=validation, seed=0,
                        workdir=str(trained))
  tiny_runs.finished('meta_train', f'--pretrained={run}', f'--workdir={trained}', '--batch_stats=batch', '--steps=1',
                     '--num_ordinary_tasks=1', '--nohard_tasks', '--gradient_order=first')
  result = imports(f'--workdir={trained}', f'--export={tmp_path / "npy"}')
  assert result.returncode == 0, result.stderr
  found = sources.read(str(tmp_path / 'npy'), 'tensorflow')
  assert names.is_meta_trained('tensorflow', found)
  for key, array in tensorflow(meta_trained=False).items():
    if key not in ('weights/w5', 'weights/b5'):
      np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize('protocol', ['inductive', 'paper'])
def test_scores_of_tensorflow_weights(tmp_path, protocol):
  """Under the inductive protocol they need --batch_stats=batch."""
  written(tmp_path / 'run', 'tensorflow')
  config = meta_test.MetaTestConfig(num_tasks=4, way=WAY, **meta_test.protocol_settings(protocol, 1) | {'query': 2})
  options = {'checkpoint': str(tmp_path / 'run'), 'split': 'test', 'protocol': protocol, 'seed': 0, 'baseline': False}
  if protocol == 'inductive':
    with pytest.raises(ValueError, match='without running statistics .* --batch_stats=batch, or --protocol=paper'):
      runs.meta_test_run(toy_dataset(), config=config, workdir=str(tmp_path / 'refused'), **options)
    config = config._replace(batch_stats_mode='batch')
  results = runs.meta_test_run(toy_dataset(), config=config, workdir=str(tmp_path / 'test'), **options)
  assert 0 <= results['accuracy'] <= 1 and results['num_tasks'] == 4


@pytest.mark.parametrize('legacy', [False, True])
def test_both_forms_of_pth_and_an_export_make_the_same_run(tmp_path, legacy):
  """The digest of the tensors decides, not where they come from: the second import finds the run finished."""
  tensors = pytorch()
  read = sources.read(str(pth_files.save(tmp_path, tensors, legacy=legacy)), 'pytorch')
  sources.write(str(tmp_path / 'file.npz'), tensors, 'pytorch')
  first = workdir.write(str(tmp_path / 'run'), read, 'pytorch', source='file.pth', **OPTIONS)
  before = tiny_runs.contents(tmp_path / 'run')
  again = workdir.write(str(tmp_path / 'run'), sources.read(str(tmp_path / 'file.npz'), 'pytorch'), 'pytorch',
                        source='file.npz', **OPTIONS)
  assert tiny_runs.contents(tmp_path / 'run') == before
  np.testing.assert_equal(again.meta_params.base_learner, first.meta_params.base_learner)
  with pytest.raises(ValueError, match='belongs to a run with other settings: config is .*shot'):
    workdir.write(str(tmp_path / 'run'), tensors, 'pytorch', source='file.npz', **OPTIONS | {'shot': 5})


def test_an_import_that_was_killed_goes_on(tmp_path):
  written(tmp_path / 'whole', 'pytorch')
  shutil.copytree(tmp_path / 'whole', tmp_path / 'cut')
  (tmp_path / 'cut' / 'results.json').unlink()
  shutil.rmtree(tmp_path / 'cut' / 'meta_params')
  with pytest.raises(FileNotFoundError, match='not finished'):
    finished.load(str(tmp_path / 'cut'), (16, 16, 3))
  written(tmp_path / 'cut', 'pytorch')
  for name in ('backbone', 'meta_params'):
    np.testing.assert_equal(checkpoints.load_tree(tmp_path / 'cut' / name),
                            checkpoints.load_tree(tmp_path / 'whole' / name))


@pytest.mark.parametrize('format', names.FORMATS)
@pytest.mark.parametrize('meta_trained', [False, True])
def test_settings_of_an_imported_run(tmp_path, format, meta_trained):
  written(tmp_path, format, meta_trained)
  found = finished.load(str(tmp_path), (16, 16, 3))
  assert (found.meta_params is not None) == meta_trained
  assert found.settings['command'] == ('meta_train' if meta_trained else 'pretrain')
  validation = Validation(**found.settings['validation'])
  assert (validation.way, validation.shot, validation.inner_lr, validation.inner_steps) == (WAY, 1, 0.01, 100)
  expected = {'pytorch': ('running', [125.3 / 255, 123 / 255, 113.9 / 255]), 'tensorflow': ('batch', [0, 0, 0])}[format]
  np.testing.assert_allclose(found.mean, expected[1], rtol=1e-6)
  assert validation.batch_stats_mode == expected[0]


def test_what_their_files_cannot_say_of_a_run(tmp_path):
  written(tmp_path, 'tensorflow')
  assert workdir.unlike_theirs(str(tmp_path)) == ('a width of 4',)
  settings = json.loads((tmp_path / 'settings.json').read_text())
  del settings['backbone']['norm_epsilon'], settings['backbone']['width']
  settings |= {'readout': {'norm': 'l2', 'mirror': False}, 'normalization': {'mean': [0.5] * 3, 'std': [0.25] * 3}}
  settings['config']['adapts'] = 'all'
  (tmp_path / 'settings.json').write_text(json.dumps(settings))
  assert workdir.unlike_theirs(str(tmp_path)) == (
      'an epsilon of batch norm of 1e-05, theirs is 0.001',
      'images normalised by mean [0.5, 0.5, 0.5] and deviation [0.25, 0.25, 0.25], theirs are [0.0, 0.0, 0.0] and '
      '[1.0, 1.0, 1.0]', 'features averaged with those of the mirror image, or of one length',
      'an inner loop that adapts the network')
