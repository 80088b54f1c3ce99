"""A network and an inner loop of one's own in whole runs, by name, with images here or there."""
import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, inner_loop, runs, sharding
from mtl_jax.configs import InnerLoop, Learn, MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.runs import decisions, finished, meta_training, workdirs
from mtl_jax.types import Episode, Score
from tests.phases import changed, toy_dataset

SHAPE = (16, 16, 3)
VALIDATION = runs.Validation(every=4, num_tasks=6, way=3, inner=InnerLoop(lr=0.1, steps=3))
META = MetaTrainConfig(steps=4, way=3, query=3, meta_batch=1, num_ordinary_tasks=2,
                       num_hard_tasks=2, crop_padding=0, flip=False,
                       inner=InnerLoop(lr=0.1, steps=2))
TEST = MetaTestConfig(num_tasks=10, way=3, query=3, inner=InnerLoop(lr=0.1, steps=3))


class TinyNet(nn.Module):
  """Two blocks that compile in a moment: a 1x1 convolution, batch norm, tanh."""

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = x[:, ::4, ::4]
    for i in (1, 2):
      x = _Block(name=f'block{i}')(x, batch_stats_mode)
    return x.mean(1).reshape(len(x), -1)


class _Block(nn.Module):

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = nn.Conv(3, (1, 1), name='conv')(x)
    by_running = batch_stats_mode == 'running'
    return jnp.tanh(nn.BatchNorm(by_running, momentum=0.9, name='bn')(x))


def make_tiny(image_shape):
  return backbones.from_linen(TinyNet(), image_shape, last_block='block2')


def prototypes(theta, network, rates, tasks, *, backbone, inner):
  """Scores queries by their distance to the mean of the support of each class; learns no θ."""
  support, query = (
      inner_loop.encode(network, images, backbone=backbone, batch_stats_mode=inner.batch_stats_mode)
      for images in (tasks.support, tasks.query))
  members = jax.nn.one_hot(tasks.support_labels, theta.bias.shape[0], axis=1)
  centres = members @ support / members.sum(axis=2, keepdims=True)
  return -jnp.sum((query[:, :, None] - centres[:, None]) ** 2, axis=-1)


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """Work directories of the same pre-training with images on the device and on the host."""
  backbones.register('own', make_tiny)
  inner_loop.register('own_prototypes', prototypes)
  config = PretrainConfig(steps=4, batch_size=4, steps_per_call=2, crop_padding=2)
  folders = {where: str(tmp_path_factory.mktemp(where) / 'pre') for where in ('device', 'host')}
  for where, folder in folders.items():
    runs.pretrain_run(toy_dataset(), backbone={'name': 'own'}, config=config,
                      validation=VALIDATION, seed=0, workdir=folder,
                      machine=runs.Machine(images=where))
  return folders


def train(pretrained, workdir, *, config=META, validation=VALIDATION, **options):
  """Meta-trains over the pre-training whose images were on the device."""
  return runs.meta_train_run(toy_dataset(), pretrained=pretrained['device'], config=config,
                             validation=validation, seed=0, workdir=workdir, **options)


def score(checkpoint, workdir, *, config=TEST, **options):
  """Meta-tests what a run has learned."""
  return runs.meta_test_run(toy_dataset(), checkpoint=checkpoint, config=config, split='test',
                            protocol='inductive', seed=0, workdir=workdir, **options)


@pytest.mark.slow
def test_images_on_the_host_or_on_the_device(pretrained, tmp_path):
  accuracies = {}
  for where, folder in pretrained.items():
    assert workdirs.read_settings(folder)['images_on_host'] == (where == 'host')
    meta, tested = str(tmp_path / where / 'meta'), str(tmp_path / where / 'test')
    machine = runs.Machine(images=where)
    train({'device': folder}, meta, machine=machine)
    score(meta, tested, machine=machine)
    accuracies[where] = np.load(f'{tested}/accuracies.npy')
  np.testing.assert_allclose(accuracies['host'], accuracies['device'], atol=1e-6)
  host, device = (finished.load(pretrained[where], SHAPE).backbone_vars.params['block1']['conv']
                  for where in ('host', 'device'))
  np.testing.assert_allclose(host['kernel'], device['kernel'], rtol=1e-5, atol=1e-6)


def test_a_resumed_run_leaves_its_images_where_they_were(tmp_path):
  def on_host(folder, images):
    machine = runs.Machine(images=images)
    return decisions.for_pretraining(folder, machine, toy_dataset()).images_on_host

  assert on_host(str(tmp_path), 'auto') is False
  for begun in (True, False):
    folder = str(tmp_path / str(begun))
    workdirs.claim(folder, {'images_on_host': begun})
    assert on_host(folder, 'auto') is begun
    assert on_host(folder, 'host') is True  # and is then refused as another run


@pytest.mark.parametrize('devices', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_frozen_lower_part_computed_once_or_in_every_step(pretrained, tmp_path, monkeypatch,
                                                              devices):
  ends, config = [], changed(META, learn={'scope': 'last_block'}, meta_batch=2)
  layout = sharding.make_layout(devices) if devices > 1 else None
  for once, where in ((True, layout), (False, None)):
    monkeypatch.setattr(decisions.frozen_prefix, 'fits', lambda *_, once=once, **__: once)
    meta = str(tmp_path / f'{once}{len(ends)}')
    results = train(pretrained, meta, config=config, machine=runs.Machine(layout=where))
    assert workdirs.read_settings(meta)['prefix_once'] is once
    ends.append((results['validation_accuracy'], finished.load(meta, SHAPE).meta_params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *ends)


def test_an_inner_loop_of_ones_own_trains_and_tests(pretrained, tmp_path):
  inner = {'adapts': 'own_prototypes'}
  meta = str(tmp_path / 'meta')
  train(pretrained, meta, config=changed(META, inner=inner, learn={'classifier': False}),
        validation=changed(VALIDATION, inner=inner))
  tested = score(meta, str(tmp_path / 'test'), config=changed(TEST, inner=inner))
  assert tested['method'].startswith('SS[Θ;θ] (inner own_prototypes)')
  assert 0 <= tested['accuracy'] <= 1


def test_an_inner_loop_without_a_name_equals_the_registered_one(pretrained):
  found = finished.load(pretrained['device'], SHAPE)
  pool = jax.tree.map(jnp.asarray, toy_dataset().train)
  ends = []
  for adapts in ('own_prototypes', prototypes):
    config = changed(META, inner={'adapts': adapts}, learn={'classifier': False})
    meta_train.check_config(found.backbone, found.backbone_vars, config)
    state = meta_train.init(found.backbone, found.backbone_vars, config)
    cycle = jax.jit(functools.partial(meta_train.cycle, backbone=found.backbone, config=config))
    ends.append(cycle(state, jax.random.key(0), found.backbone_vars, pool))
  jax.tree.map(np.testing.assert_array_equal, *ends)
  assert np.any(np.asarray(ends[0][0].meta_params.scale_shift['block1']['conv']['scale']) != 1)


def test_learned_rates_norms_and_temperature_in_whole_runs(pretrained, tmp_path, monkeypatch):
  scores = iter(np.linspace(0, 1, 20))  # validation likes the last state best
  monkeypatch.setattr(meta_training, 'make_scorer', lambda *_: lambda *state: Score(next(scores)))
  learn = Learn(norm=True, inner_lr='per_step', temperature=True)
  config = dataclasses.replace(META, learn=learn)
  meta = str(tmp_path / 'meta')
  train(pretrained, meta, config=config, readout={'norm': 'l2', 'mirror': True})
  found = finished.load(meta, SHAPE)
  start = meta_train.init(found.backbone, found.backbone_vars, config).meta_params
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), found.meta_params, start)
  assert all(jax.tree.leaves(moved)) and found.meta_params.inner_lr['log'].shape == (2,)
  assert set(found.meta_params.weights) == {'block1', 'block2'}
  assert set(found.meta_params.temperature) == {'log'}
  tested = score(meta, str(tmp_path / 'test'), config=changed(TEST, inner={'steps': 5}))
  assert 0 <= tested['accuracy'] <= 1
  with pytest.raises(ValueError, match='has learned the temperature'):
    finished.load(meta, SHAPE, readout={'norm': 'none'})


def test_prototypes_against_numpy():
  rng = np.random.default_rng(0)
  support, query = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 6, 5))
  tasks = Episode(support, np.tile([0, 1, 0, 1], (2, 1)), query, None, None)
  identity = make_tiny(SHAPE)._replace(
      features=lambda variables, images, *, batch_stats_mode: images)
  theta = inner_loop.BaseLearner(np.zeros((5, 2)), np.zeros(2))
  found = prototypes(theta, None, 0.1, tasks, backbone=identity, inner=InnerLoop())
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


def test_settings_of_a_later_version_are_one_clear_line(pretrained, tmp_path):
  settings = workdirs.read_settings(pretrained['device'])
  settings['config']['momentum'] = settings['config'].pop('color')
  (tmp_path / 'settings.json').write_text(json.dumps(settings), encoding='utf-8')
  with pytest.raises(ValueError, match='of another version of mtl_jax: its config differs '
                                       r'\(PretrainConfig differs in momentum\)') as error:
    finished.trained_settings(str(tmp_path))
  assert '\n' not in str(error.value)
