"""A linen network in two parts."""
import flax.linen as nn
import jax
import numpy as np
import pytest

from mtl_jax import backbones

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize('name, dtype', [
    ('conv4', 'float32'), ('conv4', 'bfloat16'), ('resnet12', 'float32'),
    ('resnet18_small', 'float32')])
def test_the_parts_are_the_network(name, dtype):
  backbone = backbones.create(name, (16, 16, 3), width=4, compute_dtype=dtype)
  variables = jax.jit(backbone.init)(jax.random.key(0))

  @jax.jit
  def run(variables, images):
    whole = backbone.features(variables, images, batch_stats_mode='running')
    return whole, backbone.cut.last(variables, backbone.cut.below(variables, images))

  whole, parts = run(variables, IMAGES)
  assert np.std(whole) > 1e-3 and parts.dtype == whole.dtype == np.float32
  np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_the_lower_part_depends_on_no_parameter_of_the_last_block_and_the_upper_on_no_other():
  backbone = backbones.create('conv4', (16, 16, 3), width=3)
  variables = backbone.init(jax.random.key(0))
  params = variables.params
  other = jax.tree.map(lambda leaf: leaf + 1, params)
  maps = backbone.cut.below(variables, IMAGES)
  last_changed = variables._replace(params=params | {'block4': other['block4']})
  lower_changed = variables._replace(params=other | {'block4': params['block4']})
  np.testing.assert_array_equal(backbone.cut.below(last_changed, IMAGES), maps)
  features = backbone.cut.last(variables, maps)
  np.testing.assert_array_equal(backbone.cut.last(lower_changed, maps), features)
  assert np.any(np.asarray(backbone.cut.last(last_changed, maps)) != features)


class Three(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x.reshape(x.shape[0], -1)
    for name in ('first', 'second', 'third'):
      x = nn.tanh(nn.Dense(3, name=name)(x))
    return x


@pytest.mark.parametrize('last_block, has_cut', [
    ('third', True), ('second', True), (('second', 'third'), False)])
def test_only_one_last_block_can_be_cut_off(last_block, has_cut):
  backbone = backbones.from_linen(Three(), (16, 16, 3), last_block=last_block)
  assert (backbone.cut is not None) == has_cut
  if has_cut:
    variables = backbone.init(jax.random.key(0))
    expected = backbone.features(variables, IMAGES, batch_stats_mode='running')
    found = backbone.cut.last(variables, backbone.cut.below(variables, IMAGES))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
