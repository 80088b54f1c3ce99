"""The head in a file finds the minimum that SciPy finds in float64, and the head of photos too."""
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from mtl_jax.classifiers import heads
from mtl_jax.exports import softmax_minimum


def drawn(counts, dimensions=8):
  """(features, labels) around a mean for each class."""
  random = np.random.default_rng(0)
  labels = np.repeat(np.arange(len(counts)), counts)
  means = random.normal(size=(len(counts), dimensions))
  return 3 + means[labels] + random.normal(size=(len(labels), dimensions)), labels


def minimum(features, labels, strength, start):
  """argmin_W C Σ w_i CE(W x_i, y_i) + ½ |W - W_0|² by L-BFGS in float64."""
  unit = features / np.linalg.norm(features, axis=1, keepdims=True)
  x = np.append(unit, np.ones((len(unit), 1)), axis=1)
  counts = np.bincount(labels)
  weights = len(unit) / (len(counts) * counts[labels])

  def loss(flat):
    w = flat.reshape(start.shape)
    log_p = special.log_softmax(x @ w, axis=1)
    residual = weights[:, None] * (np.exp(log_p) - np.eye(len(counts))[labels])
    value = -strength * np.sum(weights * log_p[np.arange(len(x)), labels])
    return (value + np.sum((w - start)**2) / 2,
            (strength * x.T @ residual + w - start).ravel())

  found = optimize.minimize(loss, start.ravel(), jac=True, method='L-BFGS-B',
                            options={'maxiter': 10_000, 'maxfun': 20_000, 'ftol': 1e-16,
                                     'gtol': 1e-9})
  return x, found.x.reshape(start.shape)


@pytest.mark.parametrize('counts, strength', [((1, 1), 100.0), ((1, 3, 12, 4), 1.0),
                                              ((1, 3, 12, 4), 100.0)])
def test_probabilities_are_those_at_the_minimum(counts, strength):
  features, labels = drawn(counts)
  start = np.random.default_rng(1).normal(size=(9, len(counts)))
  x, expected = minimum(features, labels, strength, start)
  rows = softmax_minimum.with_constant(jnp.asarray(features, jnp.float32))
  found = softmax_minimum.fit(jnp.asarray(start, jnp.float32), rows, jnp.asarray(labels),
                              strength=strength)
  np.testing.assert_allclose(rows, x, atol=1e-6)
  np.testing.assert_allclose(special.softmax(x @ np.asarray(found), axis=1),
                             special.softmax(x @ expected, axis=1), atol=3e-6)


def test_it_is_the_head_of_photos_at_that_strength():
  features, labels = drawn((4, 6, 2))
  head = heads.fit(features, labels, 3, (100.0,))
  rows = softmax_minimum.with_constant(jnp.asarray(features, jnp.float32))
  found = softmax_minimum.fit(jnp.zeros((9, 3)), rows, jnp.asarray(labels), strength=100.0)
  np.testing.assert_allclose(found, head.weights, atol=5e-3)
