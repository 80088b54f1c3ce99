"""Classifiers of a support set against scikit-learn and NumPy in float64."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid

from mtl_jax.systems import support_classifiers

TASKS, WAY, SHOT, WIDTH = 3, 3, 2, 7


@functools.cache
def tasks():
  """(support [t, n, d], labels [n], query [t, m, d]); classes overlap, and no mean is zero."""
  rng = np.random.default_rng(0)
  means = 3 + rng.normal(size=(TASKS, WAY, 1, WIDTH))
  images = (means + 0.8 * rng.normal(size=(TASKS, WAY, SHOT + 4, WIDTH))).astype(np.float32)
  support, query = images[:, :, :SHOT], images[:, :, SHOT:]
  labels = np.repeat(np.arange(WAY), SHOT)
  return support.reshape(TASKS, -1, WIDTH), labels, query.reshape(TASKS, -1, WIDTH)


@functools.cache
def compiled(name):
  logits = support_classifiers.find(name).logits
  return jax.jit(lambda support, query, strength: jax.vmap(
      lambda s, q: logits(s, tasks()[1], q, way=WAY, strength=strength))(support, query))


def found(name, strength=0.0, scale=1.0):
  support, _, query = tasks()
  return np.asarray(compiled(name)(scale * support, scale * query, jnp.float32(strength)))


def standardized(support, query):
  support, query = np.asarray(support, np.float64), np.asarray(query, np.float64)
  mean = support.mean(axis=0)
  scale = np.sqrt(np.mean(np.sum((support - mean)**2, axis=1)))
  return (support - mean) / scale, (query - mean) / scale


def test_nearest_mean():
  labels = tasks()[1]
  for support, query, logits in zip(tasks()[0], tasks()[2], found('nearest_mean'), strict=True):
    means = np.stack([support[labels == k].mean(axis=0) for k in range(WAY)]).astype(np.float64)
    np.testing.assert_allclose(logits, -((query[:, None] - means)**2).sum(axis=-1), rtol=1e-3,
                               atol=1e-3)
    predicted = NearestCentroid().fit(support, labels).predict(query)
    np.testing.assert_array_equal(logits.argmax(axis=1), predicted)


def test_cosine():
  labels = tasks()[1]
  for support, query, logits in zip(tasks()[0], tasks()[2], found('cosine'), strict=True):
    means = np.stack([support[labels == k].mean(axis=0) for k in range(WAY)])
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(logits, 10 * query @ means.T / lengths, rtol=1e-4)


@pytest.mark.parametrize('strength', [0.01, 1.0, 10.0])
def test_ridge(strength):
  labels = tasks()[1]
  for support, query, logits in zip(tasks()[0], tasks()[2], found('ridge', strength), strict=True):
    x, queries = standardized(support, query)
    model = Ridge(alpha=strength).fit(x, np.eye(WAY)[labels])
    np.testing.assert_allclose(logits, model.predict(queries) - 1 / WAY, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize('strength', [1e-3, 0.03, 1.0])
def test_logistic(strength):
  labels = tasks()[1]
  for support, query, logits in zip(tasks()[0], tasks()[2], found('logistic', strength),
                                    strict=True):
    x, queries = standardized(support, query)
    model = LogisticRegression(C=1 / (len(x) * strength), fit_intercept=False, tol=1e-10,
                               max_iter=10_000).fit(x, labels)
    np.testing.assert_allclose(jax.nn.softmax(logits), model.predict_proba(queries), atol=2e-3)


@pytest.mark.parametrize('name', ['ridge', 'logistic'])
def test_a_strength_means_the_same_at_any_length_of_the_features(name):
  np.testing.assert_allclose(found(name, 0.1), found(name, 0.1, scale=100), rtol=1e-3, atol=1e-4)


def test_names():
  with pytest.raises(ValueError, match='one of gd, nearest_mean, ridge, logistic, cosine, got'):
    support_classifiers.find('svm')
  for taken in ('gd', 'ridge'):
    with pytest.raises(ValueError, match=f"other than gd, .* got '{taken}'"):
      support_classifiers.register(taken, support_classifiers.cosine)
