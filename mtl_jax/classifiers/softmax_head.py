"""A softmax classifier over features, fitted to its minimum, for many subsets of images at once.

    min_W  Σ_i w_i CE(W x_i, y_i) + ||W||² / (2 C),      x_i = (f_i / |f_i|, 1)

Every class weighs the same, however many images it has: w_i = n / (N n_class). The loss is bounded
by a quadratic whose curvature is ½ C Σ w_i x_i x_iᵀ + I (Böhning, 1992). In the eigenbasis of that
sum it is diagonal, so a step with it costs no more than one of gradient descent, and needs no
learning rate. It bounds the loss of every subset too: one basis serves for all left-out images.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_NEGLIGIBLE = 1e-6  # share of the largest eigenvalue


class Basis(NamedTuple):
  """Features in the eigenbasis of their weighted products; padded rows and columns are zero."""
  rows: jax.Array        # [n, r], x_i in that basis
  curvature: jax.Array   # [r], eigenvalues of Σ w_i x_i x_iᵀ
  to_features: np.ndarray  # [d + 1, r]: W of the features is to_features @ W of the basis


def unit_length(features: np.ndarray) -> np.ndarray:
  """Returns features of length 1 with a constant 1 behind them, whose weight is the bias.

  Args:
    features: [n, d].

  Returns:
    float32 [n, d + 1].
  """
  features = np.asarray(features, np.float32)
  length = np.linalg.norm(features, axis=1, keepdims=True)
  return np.append(features / np.maximum(length, 1e-12), np.ones((len(features), 1)), axis=1
                   ).astype(np.float32)


def sample_weights(labels: np.ndarray) -> np.ndarray:
  """Weighs the classes alike: w_i = n / (N n_class).

  Args:
    labels: int [n], each class at least once.

  >>> sample_weights(np.array([0, 0, 0, 1]))
  array([0.667, 0.667, 0.667, 2.   ], dtype=float32)
  """
  counts = np.bincount(labels)
  return (len(labels) / (len(counts) * counts[labels])).astype(np.float32)


def make_basis(x: np.ndarray, weights: np.ndarray, num_rows: int, num_columns: int) -> Basis:
  """Turns features into their eigenbasis, of as many dimensions as there are images at most.

  Args:
    x: float32 [n, d + 1], as `unit_length` returns them.
    weights: [n].
    num_rows: n or more, to pad to.
    num_columns: min(n, d + 1) or more, to pad to.

  Returns:
    A Basis of num_rows images.
  """
  weighted = (x * np.sqrt(weights)[:, None]).astype(np.float64)
  # The smaller of the two products has the same eigenvalues that are not zero.
  if len(x) <= x.shape[1]:
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    values = np.maximum(values, values[-1] * _NEGLIGIBLE)
    vectors = weighted.T @ vectors / np.sqrt(values)
  else:
    values, vectors = np.linalg.eigh(weighted.T @ weighted)
    values = np.maximum(values, values[-1] * _NEGLIGIBLE)
  rows = np.zeros((num_rows, num_columns), np.float32)
  rows[:len(x), :len(values)] = x @ vectors
  curvature = np.zeros(num_columns, np.float32)
  curvature[:len(values)] = values
  return Basis(jnp.asarray(rows), jnp.asarray(curvature), vectors.astype(np.float32))


def steps_for(strength: float) -> int:
  """Returns how many steps bring the loss within a thousandth of its minimum; found by trying.

  Args:
    strength: C.

  >>> steps_for(10.0), steps_for(1000.0)
  (60, 200)
  """
  return int(np.clip(70 * np.log10(strength) - 10, 60, 200))


@jax.jit
def fit(rows: jax.Array, curvature: jax.Array, weights: jax.Array, targets: jax.Array,
        strength: jax.Array, steps: jax.Array | int) -> jax.Array:
  """Minimises the loss by steps with its bound's curvature, and Nesterov's momentum.

  Args:
    rows: [n, r] of a Basis.
    curvature: [r].
    weights: [n]; 0 leaves an image out.
    targets: [n, N], one-hot; columns of classes that do not exist are zero.
    strength: C, scalar.
    steps: how many, as `steps_for` says.

  Returns:
    W [r, N].
  """
  exists = jnp.any(targets > 0, axis=0)
  step_size = 1 / (0.5 * strength * curvature + 1)

  def gradient(w):
    logits = jnp.where(exists[None], rows @ w, -jnp.inf)
    return strength * (rows.T @ (weights[:, None] * (jax.nn.softmax(logits) - targets))) + w

  def step(_, carry):
    w, ahead, t = carry
    following = ahead - step_size[:, None] * gradient(ahead)
    t_following = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
    # Momentum starts anew where it leads upwards.
    uphill = jnp.sum((ahead - following) * (following - w) / step_size[:, None]) > 0
    t_following = jnp.where(uphill, 1.0, t_following)
    momentum = jnp.where(uphill, 0.0, (t - 1) / t_following)
    return following, following + momentum * (following - w), t_following

  zero = jnp.zeros((rows.shape[1], targets.shape[1]))
  return jax.lax.fori_loop(0, steps, step, (zero, zero, jnp.float32(1)))[0]
