"""A network and an inner loop of one's own in whole runs, by name; and runs whose images stay on the host."""
import functools
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from mtl_jax import backbones, inner_loop, sharding
from mtl_jax.phases import meta_train
from mtl_jax.phases.meta_test import MetaTestConfig
from mtl_jax.phases.meta_train import MetaTrainConfig
from mtl_jax.phases.pretrain import PretrainConfig
from mtl_jax.runs import decisions, finished, runs, workdirs
from tests.launch.ablation_test import TinyNet
from tests.phases import toy_dataset

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
VALIDATION = runs.Validation(every=4, num_tasks=6, way=3, inner_steps=3, inner_lr=0.1)
META = MetaTrainConfig(steps=4, way=3, query=3, meta_batch=1, ordinary_tasks=2, hard_tasks=2, inner_lr=0.1,
                       inner_steps=2, crop_padding=0, flip=False)


def make_tiny(image_shape):
  return backbones.from_linen(TinyNet(), image_shape, last_block='block2')


@functools.cache
def own_inner_loop():
  """The README's prototypes, registered by running its example."""
  section = README.split('## Your own inner loop')[1].split('\n## ')[0]
  names = {}
  exec(re.search(r'```python\n(.*?)```', section, re.DOTALL).group(1), names)
  assert names['config'].adapts == 'prototypes' and not names['config'].learn_classifier
  return names['prototypes']


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """Work directories of the same pre-training with images on the device and on the host."""
  backbones.register('own', make_tiny)
  own_inner_loop()
  config = PretrainConfig(steps=4, batch_size=4, steps_per_call=2, crop_padding=2)
  folders = {where: str(tmp_path_factory.mktemp(where) / 'pre') for where in ('device', 'host')}
  for where, folder in folders.items():
    runs.pretrain_run(toy_dataset(), backbone={'name': 'own'}, config=config, validation=VALIDATION, seed=0,
                      workdir=folder, images=where)
  return folders


def test_images_on_the_host_or_on_the_device(pretrained, tmp_path):
  accuracies = {}
  for where, folder in pretrained.items():
    assert workdirs.read_settings(folder)['images_on_host'] == (where == 'host')
    meta, tested = str(tmp_path / where / 'meta'), str(tmp_path / where / 'test')
    runs.meta_train_run(toy_dataset(), pretrained=folder, config=META, validation=VALIDATION, seed=0, workdir=meta,
                        images=where)
    config = MetaTestConfig(num_tasks=10, way=3, query=3, inner_lr=0.1, inner_steps=3)
    runs.meta_test_run(toy_dataset(), checkpoint=meta, config=config, split='test', protocol='inductive', seed=0,
                       workdir=tested, images=where)
    accuracies[where] = np.load(f'{tested}/accuracies.npy')
  np.testing.assert_allclose(accuracies['host'], accuracies['device'], atol=1e-6)
  host, device = (finished.load(pretrained[where], (16, 16, 3)).backbone_vars.params for where in ('host', 'device'))
  np.testing.assert_allclose(host['block1']['conv']['kernel'], device['block1']['conv']['kernel'], rtol=1e-5, atol=1e-6)


def test_a_resumed_run_leaves_its_images_where_they_were(tmp_path):
  assert decisions.on_host(str(tmp_path), 'auto', None, toy_dataset().train) is False
  for begun in (True, False):
    folder = str(tmp_path / str(begun))
    workdirs.claim(folder, {'images_on_host': begun})
    assert decisions.on_host(folder, 'auto', None, toy_dataset().train) is begun
    assert decisions.on_host(folder, 'host', None, toy_dataset().train) is True  # and is then refused as another run


def test_the_frozen_lower_part_computed_once_or_in_every_step(pretrained, tmp_path, monkeypatch):
  ends = []
  for once, layout in ((True, None), (False, None), (True, sharding.layout(2))):
    monkeypatch.setattr(decisions.prefixes, 'fits', lambda *_, once=once, **__: once)
    meta = str(tmp_path / f'{once}{len(ends)}')
    results = runs.meta_train_run(toy_dataset(), pretrained=pretrained['device'], validation=VALIDATION, seed=0,
                                  config=META._replace(scope='last_block', meta_batch=2), workdir=meta, layout=layout)
    assert workdirs.read_settings(meta)['prefix_once'] is once
    ends.append((results['validation_accuracy'], finished.load(meta, (16, 16, 3)).meta_params))
  for other in ends[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ends[0], other)


def test_an_inner_loop_of_ones_own_trains_and_tests(pretrained, tmp_path):
  config = META._replace(adapts='prototypes', learn_classifier=False)
  meta = str(tmp_path / 'meta')
  runs.meta_train_run(toy_dataset(), pretrained=pretrained['device'], config=config, seed=0, workdir=meta,
                      validation=VALIDATION._replace(adapts='prototypes'))
  tested = runs.meta_test_run(toy_dataset(), checkpoint=meta, split='test', protocol='inductive', seed=0,
                              config=MetaTestConfig(num_tasks=10, way=3, query=3, adapts='prototypes'),
                              workdir=str(tmp_path / 'test'))
  assert tested['method'].startswith('SS[Θ;θ] (inner prototypes)') and 0 <= tested['accuracy'] <= 1


def test_learned_rates_norms_and_temperature_in_whole_runs(pretrained, tmp_path, monkeypatch):
  scores = iter(np.linspace(0, 1, 20))  # validation likes the last state best
  monkeypatch.setattr(runs, 'validation_scorer', lambda *_: lambda *state: float(next(scores)))
  config = META._replace(learn_norm=True, learn_inner_lr='per_step', learn_temperature=True)
  meta = str(tmp_path / 'meta')
  runs.meta_train_run(toy_dataset(), pretrained=pretrained['device'], config=config, validation=VALIDATION, seed=0,
                      workdir=meta, readout={'norm': 'l2', 'mirror': True})
  found = finished.load(meta, (16, 16, 3))
  start = meta_train.init(found.backbone, found.backbone_vars, config).meta_params
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), found.meta_params, start)
  assert all(jax.tree.leaves(moved)) and found.meta_params.inner_lr['log'].shape == (2,)
  assert set(found.meta_params.weights) == {'block1', 'block2', '_readout'}
  tested = runs.meta_test_run(toy_dataset(), checkpoint=meta, split='test', protocol='inductive', seed=0,
                              config=MetaTestConfig(num_tasks=10, way=3, query=3, inner_steps=5),
                              workdir=str(tmp_path / 'test'))
  assert 0 <= tested['accuracy'] <= 1
  with pytest.raises(ValueError, match='has learned the temperature'):
    finished.load(meta, (16, 16, 3), readout={'norm': 'none'})


def test_prototypes_against_numpy():
  rng = np.random.default_rng(0)
  support, query = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 6, 5))
  tasks = inner_loop.Episode(support, np.tile([0, 1, 0, 1], (2, 1)), query, None, None)
  identity = make_tiny((16, 16, 3))._replace(features=lambda variables, images, *, batch_stats_mode: images)
  found = own_inner_loop()(None, None, 0.1, tasks, backbone=identity, config=META._replace(way=2))
  centres = np.stack([support[:, ::2].mean(axis=1), support[:, 1::2].mean(axis=1)], axis=1)
  expected = -np.sum((query[:, :, None] - centres[:, None]) ** 2, axis=-1)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_names_that_are_taken_are_refused(pretrained):
  with pytest.raises(ValueError, match="other than .* got 'conv4'"):
    backbones.register('conv4', make_tiny)
  with pytest.raises(ValueError, match="other than .* got 'own'"):
    backbones.register('own', lambda image_shape: None)
  backbones.register('own', make_tiny)  # the same again is no harm
  with pytest.raises(ValueError, match="other than .* got 'head'"):
    inner_loop.register('head', inner_loop.adapt_heads)


def test_settings_of_another_version_are_one_clear_line(pretrained, tmp_path):
  settings = workdirs.read_settings(pretrained['device'])
  settings['config']['momentum'] = settings['config'].pop('color')
  (tmp_path / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
  with pytest.raises(ValueError, match='of another version of mtl_jax: its config differs in color, momentum'):
    finished.trained_settings(str(tmp_path))
