"""The frozen lower part computed once: the same training as with the whole network in every step."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, episodes, learnable, sharding
from mtl_jax.backbones import adapters
from mtl_jax.data import pools
from mtl_jax.execution import frozen_prefix, on_device
from mtl_jax.phases import meta_test, meta_train

PLAIN = {'crop_padding': 0, 'flip': False}
ROWS = {
    'FT θ': {'learn': 'head'},
    'SS[Θ4;θ], norms': {'scope': 'last_block', 'learn_norm': True},
    'FT[Θ4;θ]': {'learn': 'ft', 'scope': 'last_block', 'adapts': 'last_block'},
}


@functools.cache
def toy():
  rng = np.random.default_rng(0)
  splits = {split: [(f'{split}{i}', rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)) for i in range(6)]
            for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def config(**options):
  return meta_train.MetaTrainConfig(**{
      'way': 3, 'query': 2, 'ordinary_tasks': 4, 'hard_tasks': 2, 'inner_steps': 3, 'inner_lr': 0.1} | PLAIN | options)


def make(name='conv4', **readout):
  backbone = backbones.read_out(backbones.create(name, (16, 16, 3), width=4), **readout)
  return backbone, backbone.init(jax.random.key(1))


def trained(backbone, frozen, dataset, settings, start, layout=None):
  state = sharding.replicate(meta_train.init(backbone, frozen, settings), layout)
  with on_device.meta_training(jax.random.key(2), frozen, dataset.train, dataset.mean, dataset.std, backbone=start,
                               config=settings, layout=layout) as advance:
    return advance(advance(state)[0])


@pytest.mark.parametrize('row, on', [*((row, (1, 'replicated')) for row in ROWS),
                                     ('FT θ', (2, 'replicated')), ('FT θ', (2, 'sharded'))], ids=str)
def test_two_cycles_of_meta_training_end_the_same(row, on):
  settings, dataset, layout = config(**ROWS[row]), toy(), sharding.layout(*on)
  backbone, frozen = make(norm='l2', mirror=True)
  whole_state, whole_metrics = trained(backbone, frozen, dataset, settings, backbone)
  cut = frozen_prefix.cut(backbone, settings)
  short, maps = frozen_prefix.upper(cut, frozen), frozen_prefix.compute(cut, frozen, dataset, layout=layout)
  state, metrics = trained(backbone, frozen, maps, settings, short, layout)
  assert int(state.step) == int(whole_state.step) == 6
  for ours, expected in zip(jax.tree.leaves(state.meta_params), jax.tree.leaves(whole_state.meta_params), strict=True):
    np.testing.assert_allclose(ours, expected, atol=2e-5)
  assert metrics.keys() == whole_metrics.keys()
  np.testing.assert_allclose(list(metrics.values()), list(whole_metrics.values()), rtol=1e-5)


@pytest.mark.parametrize('name', ['conv4', 'resnet12', 'wrn28_10'])
def test_both_parts_are_the_network(name):
  backbone, frozen = make(name, mirror=name == 'resnet12')
  assert frozen_prefix.is_exact(backbone, frozen)
  cut = frozen_prefix.cut(backbone, config(scope='last_block'))
  maps = jax.eval_shape(cut.below, frozen, jax.ShapeDtypeStruct((5, 16, 16, 3), jnp.float32))
  assert maps.shape[0] == 5
  # Nothing below the last block is read by its part: other weights there change nothing.
  noise = jax.tree.map(lambda x: x + 1, frozen.params)
  last = learnable.within(frozen.params, backbone.last_block)
  images = jax.random.normal(jax.random.key(3), (2, 16, 16, 3))
  values = cut.below(frozen, images)
  changed = frozen._replace(params=learnable.merge(noise, last))
  if name != 'wrn28_10':  # a batch norm stands above its last stage
    np.testing.assert_array_equal(cut.last(changed, values), cut.last(frozen, values))


def test_validation_is_the_same():
  backbone, frozen = make()
  settings = config(scope='last_block')
  meta_params = meta_train.init(backbone, frozen, settings).meta_params
  cut = frozen_prefix.cut(backbone, settings)
  short, maps = frozen_prefix.upper(cut, frozen), frozen_prefix.compute(cut, frozen, toy())
  assert maps.train.images.shape[1:] == short.image_shape
  keys = meta_test.task_keys(jax.random.key(4), 20)
  test = meta_test.MetaTestConfig(num_tasks=20, way=3, query=3, inner_lr=0.1, inner_steps=5)
  of_images, of_maps = (meta_test.accuracies(meta_params, frozen, on_device.place(of.val), of.mean, of.std, keys,
                                             backbone=network, config=test)
                        for of, network in ((toy(), backbone), (maps, short)))
  np.testing.assert_allclose(of_maps, of_images, atol=1e-6)


@pytest.mark.parametrize('options', [
    {}, {'scope': 'last_block', 'flip': True}, {'learn': 'head', 'crop_padding': 4}, {'learn': 'head', 'adapts': 'all'},
    {'learn': 'head', 'batch_stats_mode': 'batch'}, {'learn': 'ft', 'scope': 'last_block', 'adapts': 'all'}], ids=str)
def test_what_needs_the_whole_network(options):
  assert frozen_prefix.cut(make()[0], config(**options)) is None


def test_a_path_around_the_last_block_is_noticed():
  class Around(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Dense(3, name='first')(x.reshape(x.shape[0], -1))
      return x + nn.Dense(3, name='last')(nn.relu(x))

  class Through(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, name='last')(nn.relu(nn.Dense(3, name='first')(x.reshape(x.shape[0], -1))))

  for module, exact in ((Around(), False), (Through(), True)):
    backbone = adapters.from_linen(module, (4, 4, 3), last_block='last')
    assert frozen_prefix.is_exact(backbone, backbone.init(jax.random.key(0))) is exact


def test_no_more_than_half_of_the_memory(monkeypatch):
  backbone, frozen = make()
  cut = frozen_prefix.cut(backbone, config(scope='last_block'))
  needed = (36 + 36) * 2 * 2 * 4 * 4  # images, of 2x2 maps of 4 channels, 4 bytes each
  for free, fits in ((2 * needed, True), (2 * needed - 1, False), (None, False)):
    monkeypatch.setattr(frozen_prefix.placement, 'free_host_bytes', lambda free=free: free)
    assert frozen_prefix.fits(cut, frozen, toy().train, toy().val) is fits
  # Eight simulated devices with a copy each, and one on the host on the way there.
  monkeypatch.setattr(frozen_prefix.placement, 'free_host_bytes', lambda: 2 * 9 * needed)
  assert frozen_prefix.fits(cut, frozen, toy().train, toy().val, layout=sharding.layout(2))
  monkeypatch.setattr(frozen_prefix.placement, 'free_host_bytes', lambda: 2 * 9 * needed - 1)
  assert not frozen_prefix.fits(cut, frozen, toy().train, toy().val, layout=sharding.layout(2))


def test_a_pool_that_is_joined_of_passes_and_a_rest_counts_twice(monkeypatch):
  backbone, frozen = make()
  cut = frozen_prefix.cut(backbone, config(scope='last_block'))
  monkeypatch.setattr(frozen_prefix.meta_test, 'IMAGES_PER_PASS', 10)  # of 36
  needed = (36 + 36 + 36) * 2 * 2 * 4 * 4
  for free, fits in ((2 * needed, True), (2 * needed - 1, False)):
    monkeypatch.setattr(frozen_prefix.placement, 'free_host_bytes', lambda free=free: free)
    assert frozen_prefix.fits(cut, frozen, toy().train, toy().val) is fits


def test_same_tasks_are_drawn():
  settings = config(scope='last_block')
  backbone, frozen = make()
  maps = frozen_prefix.compute(frozen_prefix.cut(backbone, settings), frozen, toy())
  of_images, of_maps = (episodes.sample(jax.random.key(5), on_device.place(pool), way=3, shot=1, query=2)
                        for pool in (toy().train, maps.train))
  np.testing.assert_array_equal(of_images.class_ids, of_maps.class_ids)
  expected = jax.jit(backbone.below)(frozen, (jnp.asarray(of_images.query_images, jnp.float32) / 255 - toy().mean) /
                                     toy().std)
  np.testing.assert_allclose(of_maps.query_images, expected, atol=1e-4)
