"""`import_weights` as a user starts it, from the authors' files to scores and back."""
import json

import numpy as np
import pytest

from mtl_jax import runs
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.weights import authors_files, correspondence, npy
from tests import tiny_runs
from tests.phases import toy_dataset
from tests.weights import authors_layout, npy_files, pth_files

WAY = 3


def imports(*flags):
  return tiny_runs.start('launch.import_weights', '--image_size=16', *map(str, flags))


@pytest.mark.slow
def test_from_a_pth_to_scores_under_both_protocols_and_back(tmp_path):
  run, tensors = tmp_path / 'run', authors_layout.pytorch(divisor=80, way=WAY)
  source = pth_files.save(tmp_path, tensors)
  result = imports(f'--source={source}', '--format=pytorch', f'--workdir={run}', f'--way={WAY}')
  assert result.returncode == 0, result.stderr
  assert f'meta-trained resnet25 in {run}' in result.stdout
  assert ('left out, having no place here: the second name of the base-learner (2 tensors), '
          'counters of batch norm (28 tensors)\n') in result.stdout
  results = json.loads((run / 'results.json').read_text())
  assert results.keys() >= {'command', 'seconds', 'device', 'versions', 'seed'}
  assert results['source'] == str(source)
  for protocol in ('inductive', 'paper'):
    tiny_runs.finished('meta_test', f'--checkpoint={run}', f'--protocol={protocol}',
                       '--num_tasks=4', f'--workdir={tmp_path / protocol}')
    scored = json.loads((tmp_path / protocol / 'results.json').read_text())
    assert scored['method'] == 'SS[Θ;θ], meta-batch' and 0 <= scored['accuracy'] <= 1
  result = imports(f'--workdir={run}', f'--export={tmp_path / "back.npz"}')
  assert result.returncode == 0, result.stderr
  assert "unlike the authors' code, this run has a width of 2" in result.stdout
  back = npy.read(tmp_path / 'back.npz')
  assert back.keys() == tensors.keys()
  for key, array in tensors.items():
    if not key.endswith('num_batches_tracked'):
      np.testing.assert_array_equal(back[key], array)


@pytest.mark.slow
def test_tensorflow_dictionaries_are_meta_trained_further_by_batch_statistics(tmp_path):
  run, trained, files = tmp_path / 'run', tmp_path / 'trained', tmp_path / 'files'
  files.mkdir()
  tensors = authors_layout.tensorflow(meta_trained=False, way=WAY)
  npy_files.save(files / 'weights_1000.npy', tensors['weights'])
  result = imports(f'--source={files}', '--format=tensorflow', f'--workdir={run}')
  assert result.returncode == 0, result.stderr
  assert 'pre-trained resnet12 in' in result.stdout
  assert 'have no running statistics' in result.stdout
  with pytest.raises(ValueError, match='without running statistics of batch norm: give '
                                       '--batch_stats=batch'):
    runs.meta_train_run(toy_dataset(), pretrained=str(run),
                        config=MetaTrainConfig(way=WAY, query=2),
                        validation=runs.Validation(way=WAY, num_tasks=2), seed=0,
                        workdir=str(trained))
  tiny_runs.finished('meta_train', f'--pretrained={run}', f'--workdir={trained}',
                     '--batch_stats=batch', '--steps=1', '--num_ordinary_tasks=1',
                     '--nohard_tasks', '--gradient_order=first')
  result = imports(f'--workdir={trained}', f'--export={tmp_path / "npy"}')
  assert result.returncode == 0, result.stderr
  assert 'running statistics of batch norm (24 tensors)' in result.stdout
  found = authors_files.read(str(tmp_path / 'npy'), 'tensorflow')
  assert correspondence.is_meta_trained('tensorflow', found)
  for key, array in tensors['weights'].items():
    if key not in ('w5', 'b5'):
      np.testing.assert_array_equal(found[f'weights/{key}'], array)
