"""Class means that attend to each other before they are compared (FEAT)."""
import jax
import jax.numpy as jnp

from mtl_jax.base_learner import product
from mtl_jax.systems import metric
from mtl_jax.systems.support_classifiers import class_means
from mtl_jax.types import Array, Backbone, BackboneVars, Tree

_LEAST_VARIANCE = 1e-5


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> Tree:
  """Returns θ: one head of attention, whose output starts at zero, and a log temperature of 0.

  At the start it is prototypical networks on means of unit variance.

  Args:
    backbone: its width of features d is read.
    backbone_vars, way: not read.

  Returns:
    {'query', 'key', 'value', 'out': [d, d], 'gain', 'offset': [d], 'log_temperature': []}, float32.
  """
  del backbone_vars, way
  width = backbone.feature_dim
  draw = jax.nn.initializers.glorot_normal()
  weights = {name: draw(key, (width, width)) for name, key in zip(
      ('query', 'key', 'value'), jax.random.split(jax.random.key(0), 3), strict=True)}
  return weights | {'out': jnp.zeros((width, width)), 'gain': jnp.ones(width),
                    'offset': jnp.zeros(width), 'log_temperature': jnp.float32(0.0)}


def score(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Adapts the class means to each other, and scores a class by the distance to its own.

      C' = norm(C + softmax(C W_q (C W_k)ᵀ / √d) C W_v W_o),   z_k = -τ |norm(x) - c'_k|² / d

  with `norm` the same layer norm for means and queries.

  Args:
    theta: as `init` returns it.
    support: [n, d].
    classes: [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Ye et al., CVPR 2020, equations 5 to 7.
  """
  centres, width = class_means(support, classes), support.shape[1]
  asked, keys, values = (product(centres, theta[name])
                         for name in ('query', 'key', 'value'))
  attention = jax.nn.softmax(product(asked, keys.T) / width ** 0.5)
  moved = centres + product(product(attention, values), theta['out'])
  distances = metric.squared_distances(_norm(theta, query), _norm(theta, moved))
  return -jnp.exp(theta['log_temperature']) * distances / width


def _norm(theta, x):
  centred = x - jnp.mean(x, axis=1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=1, keepdims=True)
  unit = centred * jax.lax.rsqrt(variance + _LEAST_VARIANCE)
  return theta['gain'][None] * unit + theta['offset'][None]
