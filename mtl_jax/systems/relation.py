"""A learned comparison of a query with each class (relation networks)."""
import jax
import jax.numpy as jnp

from mtl_jax.base_learner import product
from mtl_jax.systems.support_classifiers import class_means
from mtl_jax.types import Array, Backbone, BackboneVars, Tree

_HIDDEN = 64


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> Tree:
  """Returns θ: the weights of the comparison, a hidden layer of 64 units.

  Args:
    backbone: its width of features d is read.
    backbone_vars, way: not read.

  Returns:
    {'class': [d, 64], 'query': [d, 64], 'bias': [64], 'out': [64]}, float32.
  """
  del backbone_vars, way
  keys = jax.random.split(jax.random.key(0), 3)
  draw = jax.nn.initializers.he_normal()
  shape = (backbone.feature_dim, _HIDDEN)
  return {'class': draw(keys[0], shape), 'query': draw(keys[1], shape),
          'bias': jnp.zeros(_HIDDEN), 'out': draw(keys[2], (_HIDDEN, 1))[:, 0]}


def score(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Scores a class by a small network that sees it beside the query.

      z_k = v · relu(U c_k + V x + b),   c_k = mean of the support of class k

  The published network compares feature maps by convolutions and is trained on squared errors; here
  it compares features, under the same cross-entropy as every other system.

  Args:
    theta: {'class': U, 'query': V, 'bias': b, 'out': v}.
    support: [n, d].
    classes: [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Sung et al., CVPR 2018, equation 1.
  """
  of_class = product(class_means(support, classes), theta['class'])
  of_query = product(query, theta['query'])
  hidden = jax.nn.relu(of_query[:, None] + of_class[None] + theta['bias'][None, None])
  return jnp.einsum('mkh,h->mk', hidden, theta['out'], precision='highest')
