"""Classifiers that a test may fit to a support set in place of the inner loop, in closed form.

Each is a pure function for ONE episode of N classes, n support and m query images of d features,
each class with equally many images; `jax.vmap` makes it many. Ridge and logistic regression see

    x = (e - m) / s,    m = mean of e_i,  s² = mean of |e_i - m|²    over the support,

so that one strength means the same for features of any length, and no bias is needed.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import base_learner
from mtl_jax.base_learner import product
from mtl_jax.types import Array

GRADIENT_DESCENT = 'gd'  # the inner loop itself, which is no entry of CLASSIFIERS
_STEPS = 200             # of logistic regression; the loss no longer changes
_SCALE = 10.0            # of cosines, whose logits would be all but equal without it
_LEAST = 1e-12           # below this a length is taken for zero


class Classifier(NamedTuple):
  """A classifier that `MetaTestConfig.classifier` may name.

  Attributes:
    logits: pure, with the signature of `ridge`.
    strengths: values of its setting that validation tasks choose from; () where it has none.
  """
  logits: Callable[..., jax.Array]
  strengths: tuple[float, ...] = ()


def nearest_mean(support: Array, labels: Array, query: Array, *, way: int,
                 strength: Array | float = 0.0) -> jax.Array:
  """Computes z_k(q) = -|q - c_k|², c_k the mean of the support of class k (prototypes).

  Args:
    support: features [n, d].
    labels: int [n], in [0, N).
    query: features [m, d].
    way: N.
    strength: not read.

  Returns:
    Logits [m, N].

  References: Snell et al., NeurIPS 2017; Wang et al., arXiv 1911.04623.
  """
  del strength
  means = class_means(support, base_learner.one_hot(labels, way, support.dtype))
  lengths = jnp.sum(query**2, axis=1, keepdims=True) + jnp.sum(means**2, axis=1)[None]
  return 2 * product(query, means.T) - lengths


def cosine(support: Array, labels: Array, query: Array, *, way: int,
           strength: Array | float = 0.0) -> jax.Array:
  """Computes z_k(q) = 10 cos(q, c_k), c_k the mean of the support of class k.

  Args:
    support, labels, query, way, strength: as in `nearest_mean`.

  Returns:
    Logits [m, N].

  References: Chen et al., ICCV 2021 (Meta-Baseline).
  """
  del strength
  means = class_means(support, base_learner.one_hot(labels, way, support.dtype))
  return _SCALE * product(unit_length(query), unit_length(means).T)


def ridge(support: Array, labels: Array, query: Array, *, way: int,
          strength: Array | float) -> jax.Array:
  """Solves min_W Σ_i |W x_i - (y_i - 1/N)|² + λ |W|² exactly, with y one-hot.

      G = X Xᵀ,  A = (G + λ)⁻¹ (Y - 1/N),  z(q) = x_q Xᵀ A

  Args:
    support: features [n, d].
    labels: int [n], in [0, N); each class as often as the others.
    query: features [m, d].
    way: N.
    strength: λ, above 0.

  Returns:
    Logits [m, N].

  References: Bertinetto et al., ICLR 2019 (R2-D2).
  """
  x, queries = _standardized(support, query)
  targets = base_learner.one_hot(labels, way, x.dtype) - 1 / way
  system = product(x, x.T) + strength * jnp.eye(len(x), dtype=x.dtype)
  dual = jax.scipy.linalg.solve(system, targets, assume_a='pos')
  return product(product(queries, x.T), dual)


def logistic(support: Array, labels: Array, query: Array, *, way: int,
             strength: Array | float) -> jax.Array:
  """Solves min_W 1/n Σ_i CE(W x_i, y_i) + λ/2 |W|², with W = Aᵀ X.

      R = (softmax(G A) - Y)/n + λ A,    A <- A - (G/(2n) + λ)⁻¹ R,    G = X Xᵀ

  G/(2n) bounds the curvature of the cross-entropy (Böhning, 1992), so that no step overshoots and
  no rate is needed; Nesterov's momentum speeds it up.

  Args:
    support, labels, query, way: as in `ridge`.
    strength: λ, above 0.

  Returns:
    Logits [m, N].

  References: Tian et al., ECCV 2020 (RFS), whose C is 1/(n λ).
  """
  x, queries = _standardized(support, query)
  n = len(x)
  targets, gram = base_learner.one_hot(labels, way, x.dtype), product(x, x.T)
  bound = jnp.linalg.inv(gram / (2 * n) + strength * jnp.eye(n, dtype=x.dtype))

  def step(carry, _):
    dual, ahead, t = carry
    slope = (jax.nn.softmax(product(gram, ahead)) - targets) / n + strength * ahead
    following = ahead - product(bound, slope)
    # Momentum starts anew where it leads upwards.
    uphill = jnp.sum(slope * product(gram, following - dual)) > 0
    t_following = jnp.where(uphill, 1.0, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
    momentum = jnp.where(uphill, 0.0, (t - 1) / t_following)
    return (following, following + momentum * (following - dual), t_following), None

  zero = jnp.zeros_like(targets)
  (dual, _, _), _ = jax.lax.scan(step, (zero, zero, jnp.ones((), x.dtype)), length=_STEPS)
  return product(product(queries, x.T), dual)


# The classifiers known by name, beside gradient descent; `register` adds to them.
CLASSIFIERS: dict[str, Classifier] = {
  'nearest_mean': Classifier(nearest_mean),
  'ridge': Classifier(ridge, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)),
  'logistic': Classifier(logistic, (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)),
  'cosine': Classifier(cosine),
}


def register(name: str, logits: Callable[..., jax.Array],
             strengths: tuple[float, ...] = ()) -> None:
  """Makes a classifier of your own known by name.

  Args:
    name: any that is not taken.
    logits: pure, called as `ridge` is.
    strengths: values of its setting that validation tasks choose from.

  Raises:
    ValueError: the name is taken.
  """
  if name in CLASSIFIERS or name == GRADIENT_DESCENT:
    raise ValueError(f'expected a name for the classifier other than {GRADIENT_DESCENT}, '
                     f'{", ".join(CLASSIFIERS)}, got {name!r}')
  CLASSIFIERS[name] = Classifier(logits, strengths)


def find(name: str) -> Classifier:
  """Returns the classifier of a name other than 'gd'.

  Args:
    name: a key of CLASSIFIERS.

  Raises:
    ValueError: an unknown name.
  """
  if name not in CLASSIFIERS:
    raise ValueError(f'expected classifier to be one of {GRADIENT_DESCENT}, '
                     f'{", ".join(CLASSIFIERS)}, got {name!r}')
  return CLASSIFIERS[name]


def class_means(support: Array, members: Array) -> jax.Array:
  """Averages the support of each class: c_k = Σ_i y_ik x_i / Σ_i y_ik.

  Args:
    support: [n, d].
    members: [n, N], the labels as rows of zeros and a one.

  Returns:
    [N, d].
  """
  return product(members.T, support) / jnp.sum(members, axis=0)[:, None]


def _standardized(support, query):
  mean = jnp.mean(support, axis=0, keepdims=True)
  spread = jnp.mean(jnp.sum((support - mean) ** 2, axis=1))
  scale = jax.lax.rsqrt(jnp.maximum(spread, _LEAST))
  return (support - mean) * scale, (query - mean) * scale


def unit_length(features: Array) -> jax.Array:
  """Scales features to length 1; those of length zero stay zero, with a finite gradient.

  Args:
    features: [n, d].
  """
  squares = jnp.sum(features**2, axis=1, keepdims=True)
  return jnp.multiply(features, jax.lax.rsqrt(jnp.maximum(squares, _LEAST)))
