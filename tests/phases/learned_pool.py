"""A pool and a state of meta-training that is not trivial, for the tests of meta-test."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import scale_shift
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import tiny_network, toy_pool

# 240 images: a batch of 200, and a rest.
POOL = toy_pool([9, 13, 8, 17, 11, 10, 12] * 3, noise=90)


@functools.cache
def learned():
  """(backbone, Θ, Φ_S and θ), none of them trivial."""
  backbone, variables = tiny_network()
  rng = np.random.default_rng(2)
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  phi = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32),
                     identity)
  theta = BaseLearner(*(jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
                        for shape in ((4, 3), (3,))))
  return backbone, variables, MetaParams(phi, {}, theta, {}, {})
