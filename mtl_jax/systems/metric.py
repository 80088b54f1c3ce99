"""Classes scored by how near a query is to their support: prototypes, cosine, matching.

One episode each: N classes, n support and m query images of d features. `classes` [n, N] are the
labels of the support as rows of zeros and a one.
"""
import math

import jax
import jax.numpy as jnp

from mtl_jax.base_learner import product
from mtl_jax.systems.support_classifiers import class_means, unit_length
from mtl_jax.types import Array, Tree

COSINE = {'log_temperature': math.log(10)}  # θ at the start, as in Meta-Baseline and Baseline++


def squared_distances(a: Array, b: Array) -> jax.Array:
  """Returns |a_i - b_j|².

  Args:
    a: [n, d].
    b: [m, d].

  Returns:
    [n, m].
  """
  return jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)


def cosines(a: Array, b: Array) -> jax.Array:
  """Returns a_i · b_j / (|a_i| |b_j|).

  Args:
    a: [n, d].
    b: [m, d].

  Returns:
    [n, m].
  """
  return product(unit_length(a), unit_length(b).T)


def prototypes(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Scores a class by the distance to the mean of its support: z_k = -|x - c_k|².

  Args:
    theta: {}.
    support: [n, d].
    classes: [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Snell et al., NeurIPS 2017, equations 1 and 2.
  """
  del theta
  return -squared_distances(query, class_means(support, classes))


def cosine(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Scores a class by the cosine to the mean of its support: z_k = τ cos(x, c_k), τ learned.

  Args:
    theta: {'log_temperature': log τ}.
    support: [n, d].
    classes: [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Chen et al., ICCV 2021 (Meta-Baseline), equation 3; Gidaris & Komodakis, CVPR 2018.
  """
  return jnp.exp(theta['log_temperature']) * cosines(query, class_means(support, classes))


def matching(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Scores a class by the attention that a query pays to its support.

      z_k = log Σ_i y_ik a(x, x_i),   a = softmax over i of cos(x, x_i)

  Without full-context embeddings.

  Args:
    theta: {}.
    support: [n, d].
    classes: [n, N].
    query: [m, d].

  Returns:
    Logits [m, N]; their softmax is the sum itself.

  References: Vinyals et al., NeurIPS 2016, equation 1 and section 2.1.1.
  """
  del theta
  return jnp.log(product(jax.nn.softmax(cosines(query, support)), classes))
