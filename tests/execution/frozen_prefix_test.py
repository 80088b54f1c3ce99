"""The frozen lower part computed once: the same training as with the whole network every time."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, episodes, parts, sharding
from mtl_jax.backbones import adapters
from mtl_jax.configs import InnerLoop, MetaTestConfig, MetaTrainConfig
from mtl_jax.data import pools
from mtl_jax.execution import frozen_prefix, on_device, placement
from mtl_jax.phases import encoding, meta_test, meta_train
from tests.phases import changed

CONFIG = MetaTrainConfig(way=3, query=2, num_ordinary_tasks=4, num_hard_tasks=2, crop_padding=0,
                         flip=False, inner=InnerLoop(lr=0.1, steps=3))
LAST_BLOCK = changed(CONFIG, learn={'scope': 'last_block'})
ROWS = {
    'FT θ': changed(CONFIG, learn={'learn': 'head'}),
    'SS[Θ4;θ], norms': changed(LAST_BLOCK, learn={'norm': True}),
    'FT[Θ4;θ]': changed(LAST_BLOCK, learn={'learn': 'ft'}, inner={'adapts': 'last_block'}),
}


@functools.cache
def toy():
  rng = np.random.default_rng(0)
  splits = {split: [(f'{split}{i}', rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
                    for i in range(6)] for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def make(name='conv4', **readout):
  backbone = backbones.read_out(backbones.create(name, (16, 16, 3), width=4), **readout)
  return backbone, backbone.init(jax.random.key(1))


def trained(backbone, frozen, dataset, config, layout=None):
  """Two cycles: (state, metrics of the second)."""
  state = placement.replicate(meta_train.init(backbone, frozen, config), layout)
  with on_device.meta_training(jax.random.key(2), frozen, dataset.train, backbone=backbone,
                               config=config, layout=layout) as advance:
    return advance(advance(state)[0])


@pytest.mark.parametrize('row, on', [
    *(pytest.param(row, (1, 'replicated'), marks=pytest.mark.slow if row.startswith('FT[') else ())
      for row in ROWS),
    pytest.param('FT θ', (2, 'replicated'), marks=pytest.mark.slow), ('FT θ', (2, 'sharded'))],
    ids=str)
def test_two_cycles_of_meta_training_end_the_same(row, on):
  config, layout = ROWS[row], sharding.make_layout(*on)
  backbone, frozen = make(norm='l2', mirror=True)
  whole_state, whole_metrics = trained(backbone, frozen, toy(), config)
  cut = frozen_prefix.find_cut(backbone, config)
  upper = frozen_prefix.upper_part(backbone, cut, frozen)
  maps = frozen_prefix.compute(cut, frozen, toy(), layout=layout)
  state, metrics = trained(upper, frozen, maps, config, layout)
  assert int(state.step) == int(whole_state.step) == 6
  for ours, expected in zip(*(jax.tree.leaves(each.meta_params) for each in (state, whole_state)),
                            strict=True):
    np.testing.assert_allclose(ours, expected, atol=2e-5)
  assert metrics.keys() == whole_metrics.keys()
  np.testing.assert_allclose(list(metrics.values()), list(whole_metrics.values()), rtol=1e-5)


@pytest.mark.parametrize('name', [
    'conv4', *(pytest.param(name, marks=pytest.mark.slow) for name in ('resnet12', 'wrn28_10'))])
def test_both_parts_are_the_network(name):
  backbone, frozen = make(name, mirror=name == 'resnet12')
  cut = frozen_prefix.find_cut(backbone, LAST_BLOCK)
  assert frozen_prefix.is_exact(cut, backbone, frozen)
  maps = jax.eval_shape(cut.below, frozen, jax.ShapeDtypeStruct((5, 16, 16, 3), jnp.float32))
  assert maps.shape[0] == 5
  # Nothing below the last block is read by its part: other weights there change nothing.
  noise = jax.tree.map(lambda x: x + 1, frozen.params)
  last = parts.within(frozen.params, backbone.last_block)
  images = jax.random.normal(jax.random.key(3), (2, 16, 16, 3))
  values = cut.below(frozen, images)
  other = frozen._replace(params=parts.merge(noise, last))
  if name != 'wrn28_10':  # a batch norm stands above its last stage
    np.testing.assert_array_equal(cut.last(other, values), cut.last(frozen, values))


def test_the_upper_part_has_a_twin_by_patches():
  backbone, frozen = make()
  cut = frozen_prefix.find_cut(backbone, ROWS['FT[Θ4;θ]'])
  upper = frozen_prefix.upper_part(backbone, cut, frozen)
  assert upper.image_shape == (1, 2, 2, 4) and upper.cut is None  # 1 view: no mirror image
  assert upper.by_patches.image_shape == upper.image_shape
  maps = jax.random.normal(jax.random.key(3), (2, *upper.image_shape))
  plain, by_patches = (jax.jit(functools.partial(each.features, batch_stats_mode='running'))
                       for each in (upper, upper.by_patches))
  np.testing.assert_allclose(by_patches(frozen, maps), plain(frozen, maps), rtol=1e-4, atol=1e-5)
  assert 'conv_general_dilated' in str(jax.make_jaxpr(plain)(frozen, maps))
  assert 'conv_general_dilated' not in str(jax.make_jaxpr(by_patches)(frozen, maps))


def test_validation_is_the_same():
  backbone, frozen = make()
  meta_params = meta_train.init(backbone, frozen, LAST_BLOCK).meta_params
  cut = frozen_prefix.find_cut(backbone, LAST_BLOCK)
  upper = frozen_prefix.upper_part(backbone, cut, frozen)
  maps = frozen_prefix.compute(cut, frozen, toy())
  assert maps.train.images.shape[1:] == upper.image_shape
  assert maps.train.normalization is maps.val.normalization is None
  test = MetaTestConfig(num_tasks=20, way=3, query=3, inner=InnerLoop(lr=0.1, steps=5))
  of_images, of_maps = (
      meta_test.accuracies(meta_params, frozen, on_device.place(of.val),
                           meta_test.task_keys(jax.random.key(4), 20), backbone=network,
                           config=test) for of, network in ((toy(), backbone), (maps, upper)))
  np.testing.assert_allclose(of_maps, of_images, atol=1e-6)


@pytest.mark.parametrize('config', [
    CONFIG, changed(LAST_BLOCK, flip=True),
    changed(CONFIG, crop_padding=4, learn={'learn': 'head'}),
    changed(CONFIG, learn={'learn': 'head'}, inner={'adapts': 'all'}),
    changed(CONFIG, learn={'learn': 'head'}, inner={'adapts': lambda *_, **__: None}),
    changed(CONFIG, learn={'learn': 'head'}, inner={'batch_stats_mode': 'batch'}),
    changed(LAST_BLOCK, learn={'learn': 'ft'}, inner={'adapts': 'all'})])
def test_what_needs_the_whole_network(config):
  assert frozen_prefix.find_cut(make()[0], config) is None


def test_a_learned_temperature_is_above_the_cut():
  backbone, _ = make(norm='l2')
  head = changed(ROWS['FT θ'], learn={'temperature': True})
  assert frozen_prefix.find_cut(backbone, head) is backbone.cut
  behind_all = frozen_prefix.find_cut(backbone, ROWS['FT θ'])
  assert behind_all is not backbone.cut


def test_a_path_around_the_last_block_is_noticed():
  class Around(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Dense(3, name='first')(x.reshape(x.shape[0], -1))
      return x + nn.Dense(3, name='last')(nn.relu(x))

  class Through(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Dense(3, name='first')(x.reshape(x.shape[0], -1))
      return nn.Dense(3, name='last')(nn.relu(x))

  for module, exact in ((Around(), False), (Through(), True)):
    backbone = adapters.from_linen(module, (4, 4, 3), last_block='last')
    frozen = backbone.init(jax.random.key(0))
    assert frozen_prefix.is_exact(backbone.cut, backbone, frozen) is exact


def test_no_more_than_half_of_the_memory(monkeypatch):
  backbone, frozen = make()
  cut = frozen_prefix.find_cut(backbone, LAST_BLOCK)

  def fits(free, **options):
    monkeypatch.setattr(frozen_prefix.memory, 'free_host_bytes', lambda: free)
    return frozen_prefix.fits(cut, backbone, frozen, toy().train, toy().val, **options)

  needed = (36 + 36) * 2 * 2 * 4 * 4  # images, of 2x2 maps of 4 channels, 4 bytes each
  assert fits(2 * needed) is True
  assert fits(2 * needed - 1) is False
  assert fits(None) is False
  # Eight simulated devices with a copy each, and one on the host on the way there.
  layout = sharding.make_layout(2)
  assert fits(2 * 9 * needed, layout=layout)
  assert not fits(2 * 9 * needed - 1, layout=layout)


def test_a_pool_that_is_joined_of_passes_and_a_rest_counts_twice(monkeypatch):
  backbone, frozen = make()
  cut = frozen_prefix.find_cut(backbone, LAST_BLOCK)
  monkeypatch.setattr(encoding, 'IMAGES_PER_PASS', 10)  # of 36
  needed = (36 + 36 + 36) * 2 * 2 * 4 * 4
  for free, expected in ((2 * needed, True), (2 * needed - 1, False)):
    monkeypatch.setattr(frozen_prefix.memory, 'free_host_bytes', lambda free=free: free)
    found = frozen_prefix.fits(cut, backbone, frozen, toy().train, toy().val)
    assert found is expected


def test_same_tasks_are_drawn():
  backbone, frozen = make()
  cut = frozen_prefix.find_cut(backbone, LAST_BLOCK)
  maps = frozen_prefix.compute(cut, frozen, toy())
  of_images, of_maps = (
      episodes.sample(jax.random.key(5), on_device.place(pool), way=3, shot=1, query=2)
      for pool in (toy().train, maps.train))
  np.testing.assert_array_equal(of_images.class_ids, of_maps.class_ids)
  mean, std = (moment[None, None, None] for moment in toy().train.normalization)
  query = (np.asarray(of_images.query, np.float32) / 255 - mean) / std
  expected = jax.jit(cut.below)(frozen, query)
  np.testing.assert_allclose(of_maps.query, expected, atol=1e-4)
