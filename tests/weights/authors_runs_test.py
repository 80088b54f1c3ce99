"""The authors' weights as a run on disk: what it says of itself, and that it is written once."""
import dataclasses
import json
import shutil

import numpy as np
import pytest

from mtl_jax import configs, runs
from mtl_jax.configs import InnerLoop, Learn, MetaTestConfig, MetaTrainConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import models
from mtl_jax.weights import authors_files, authors_runs, correspondence
from tests import tiny_runs
from tests.phases import toy_dataset
from tests.weights import authors_layout, pth_files

WAY = 3
OPTIONS = {'way': WAY, 'shot': 1, 'image_size': 16}


def pytorch(meta_trained=True):
  return authors_layout.pytorch(meta_trained=meta_trained, divisor=80, way=WAY)


def tensorflow(meta_trained=True):
  return authors_layout.flat_tensorflow(meta_trained=meta_trained, way=WAY)


def written(folder, format, meta_trained=True):
  """Writes a run."""
  tensors = {'pytorch': pytorch, 'tensorflow': tensorflow}[format](meta_trained)
  return authors_runs.write(str(folder), tensors, format, source='file', **OPTIONS)


@pytest.mark.parametrize('protocol', ['inductive', 'paper'])
def test_scores_of_tensorflow_weights(tmp_path, protocol):
  """Under the inductive protocol they need --batch_stats=batch."""
  written(tmp_path / 'run', 'tensorflow')
  config = meta_test.apply_protocol(MetaTestConfig(num_tasks=4, way=WAY, shot=1), protocol)
  config = dataclasses.replace(config, query=2)
  options = {'checkpoint': str(tmp_path / 'run'), 'split': 'test', 'protocol': protocol, 'seed': 0,
             'baseline': False}
  if protocol == 'inductive':
    with pytest.raises(ValueError, match='without running statistics .* --batch_stats=batch, or '
                                         '--protocol=paper'):
      runs.meta_test_run(toy_dataset(), config=config, workdir=str(tmp_path / 'no'), **options)
    inner = dataclasses.replace(config.inner, batch_stats_mode='batch')
    config = dataclasses.replace(config, inner=inner)
  results = runs.meta_test_run(toy_dataset(), config=config, workdir=str(tmp_path / 'test'),
                               **options)
  assert 0 <= results['accuracy'] <= 1 and results['num_tasks'] == 4


@pytest.mark.parametrize('legacy', [False, True])
def test_both_forms_of_pth_and_an_export_make_the_same_run(tmp_path, legacy):
  """The digest of the tensors decides: the second import finds the run of the first finished."""
  tensors, run = pytorch(), str(tmp_path / 'run')
  pth = pth_files.save(tmp_path, tensors, legacy=legacy)
  authors_files.write(str(tmp_path / 'file.npz'), tensors, 'pytorch')
  first = authors_runs.write(run, authors_files.read(str(pth), 'pytorch'), 'pytorch',
                             source='file.pth', **OPTIONS)
  before = tiny_runs.contents(tmp_path / 'run')
  read = authors_files.read(str(tmp_path / 'file.npz'), 'pytorch')
  again = authors_runs.write(run, read, 'pytorch', source='file.npz', **OPTIONS)
  assert tiny_runs.contents(tmp_path / 'run') == before
  assert first.meta_params is not None and again.meta_params is not None
  np.testing.assert_equal(again.meta_params.base_learner, first.meta_params.base_learner)
  with pytest.raises(ValueError, match='belongs to a run with other settings: config.shot: 1 there,'
                                       ' 5 here'):
    authors_runs.write(run, tensors, 'pytorch', source='file.npz', **OPTIONS | {'shot': 5})


def test_an_import_that_was_killed_goes_on(tmp_path):
  written(tmp_path / 'whole', 'pytorch')
  shutil.copytree(tmp_path / 'whole', tmp_path / 'cut')
  (tmp_path / 'cut' / 'results.json').unlink()
  (tmp_path / 'cut' / 'meta_params.safetensors').unlink()
  (tmp_path / 'cut' / 'model.json').unlink()
  with pytest.raises(FileNotFoundError, match='not finished'):
    runs.load(str(tmp_path / 'cut'), (16, 16, 3))
  written(tmp_path / 'cut', 'pytorch')
  for name in (models.BACKBONE, models.META_PARAMS):
    np.testing.assert_equal(models.read_tree(tmp_path / 'cut', name),
                            models.read_tree(tmp_path / 'whole', name))


def test_results_name_every_tensor_that_was_left_out(tmp_path):
  written(tmp_path, 'pytorch')
  left_out = json.loads((tmp_path / 'results.json').read_text())['left_out']
  places = correspondence.places('pytorch', meta_trained=True)
  assert left_out == sorted(set(pytorch()) - {place.key for place in places})


@pytest.mark.parametrize('format', correspondence.FORMATS)
@pytest.mark.parametrize('meta_trained', [False, True])
def test_settings_of_an_imported_run(tmp_path, format, meta_trained):
  written(tmp_path, format, meta_trained)
  found = runs.load(str(tmp_path), (16, 16, 3))
  assert (found.meta_params is not None) == meta_trained
  assert found.settings['command'] == ('meta_train' if meta_trained else 'pretrain')
  validation = configs.from_json(runs.Validation, found.settings['validation'])
  assert (validation.way, validation.shot) == (WAY, 1)
  assert (validation.inner.lr, validation.inner.steps) == (0.01, 100)
  mode, mean, std = {
      'pytorch': ('running', np.array([125.3, 123, 113.9]) / 255, np.array([63, 62.1, 66.7]) / 255),
      'tensorflow': ('batch', [0, 0, 0], [1, 1, 1])}[format]
  np.testing.assert_allclose(found.normalization.mean, mean, rtol=1e-6)
  np.testing.assert_allclose(found.normalization.std, std, rtol=1e-6)
  assert validation.inner.batch_stats_mode == mode


@pytest.mark.parametrize('format, expected', [
    ('pytorch', MetaTrainConfig(
        steps=10_000, way=WAY, meta_batch=1, num_ordinary_tasks=1, num_hard_tasks=0, outer_lr=1e-4,
        outer_lr_floor=0.0, crop_padding=0, flip=False,
        inner=InnerLoop(steps=100, gradient_order='first', batch_stats_mode='batch'),
        learn=Learn(norm=True))),
    ('tensorflow', MetaTrainConfig(
        steps=20_000, way=WAY, num_hard_tasks=0, crop_padding=0, flip=False,
        inner=InnerLoop(batch_stats_mode='batch')))])
def test_config_of_an_imported_meta_training(tmp_path, format, expected):
  written(tmp_path, format)
  assert runs.load(str(tmp_path)).config == expected


def test_what_their_files_cannot_say_of_a_run(tmp_path):
  written(tmp_path, 'tensorflow')
  assert authors_runs.unlike_theirs(str(tmp_path)) == ('a width of 4',)
  model = json.loads((tmp_path / 'model.json').read_text())
  del model['checksum']  # as whoever changes it by hand
  settings = model['settings']
  del settings['backbone']['norm_epsilon'], settings['backbone']['width']
  settings |= {'readout': {'norm': 'l2', 'mirror': False},
               'normalization': {'mean': [0.5] * 3, 'std': [0.25] * 3}}
  settings['config']['inner']['adapts'] = 'all'
  (tmp_path / 'model.json').write_text(json.dumps(model))
  assert authors_runs.unlike_theirs(str(tmp_path)) == (
      'an epsilon of batch norm of 1e-05, theirs is 0.001',
      'images normalised by mean [0.5, 0.5, 0.5] and deviation [0.25, 0.25, 0.25], theirs are '
      '[0.0, 0.0, 0.0] and [1.0, 1.0, 1.0]',
      'features averaged with those of the mirror image, or of one length',
      'an inner loop that adapts the network')
