"""Gains and offsets taken into the weights: the same features from a plain network."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, scale_shift
from mtl_jax.backbones import gains
from mtl_jax.types import BackboneVars


@pytest.mark.parametrize('name, width', [
    ('resnet18', 8), ('vit_small_16', 64),
    pytest.param('efficientnet_lite0', 8, marks=pytest.mark.slow),
    pytest.param('resnet50', 4, marks=pytest.mark.slow)])
def test_folded_weights_give_the_same_features(name, width):
  backbone = backbones.create(name, (32, 32, 3), width=width)
  variables = jax.jit(backbone.init)(jax.random.key(0))
  phi = scale_shift.init(variables.params, per='channel', on_outputs=True)
  leaves, structure = jax.tree.flatten(phi)
  random = np.random.default_rng(0)
  phi = jax.tree.unflatten(structure, [
      leaf + 0.2 * random.standard_normal(leaf.shape, np.float32) for leaf in leaves])
  modulated = BackboneVars(scale_shift.modulate(variables.params, phi), variables.batch_stats)
  folded = gains.folded(modulated)
  assert jax.tree.structure(folded) == jax.tree.structure(variables)
  images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
  features = jax.jit(lambda v, x: backbone.features(v, x, batch_stats_mode='running'))
  expected, found, plain = (features(v, images) for v in (modulated, folded, variables))
  size = float(jnp.abs(expected).max())
  assert float(jnp.abs(expected - plain).max()) > 0.1 * size
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * size)


def test_an_offset_without_a_place_is_named():
  layer = {'kernel': jnp.ones((2, 3)), 'gain': jnp.ones(3), 'offset': jnp.ones(3)}
  with pytest.raises(ValueError, match='head/last has no bias, and no batch norm'):
    gains.folded(BackboneVars({'head': {'last': layer}}, {}))
