"""The inner rate by validation tasks: the accuracies are those of meta-test at each rate."""
import dataclasses

import jax
import numpy as np
import pytest

from mtl_jax import data, episodes
from mtl_jax.configs import TEST_LOOP
from mtl_jax.phases import encoding, meta_test
from mtl_jax.runs import finished, inner_rates, records
from mtl_jax.runs.validation import Validation
from tests import tiny_runs

TASKS = Validation(num_tasks=8, way=3, shot=1, inner=dataclasses.replace(TEST_LOOP, steps=5))


def dataset():
  return data.load('folder', data_dir=tiny_runs.shared() / 'data', image_size=16)


def descend(features, labels, query, rate):
  """Five steps of gradient descent on cross-entropy from zero, in NumPy; predicted labels."""
  support, query = (np.append(x, np.ones((len(x), 1)), axis=1) for x in (features, query))
  weights, targets = np.zeros((3, support.shape[1])), np.eye(3)[labels]
  for _ in range(5):
    logits = support @ weights.T
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    weights -= rate * (shares - targets).T @ support / len(support)
  return (query @ weights.T).argmax(1)


def test_accuracies_are_those_of_gradient_descent_on_the_same_tasks():
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  pool = dataset().val
  found = inner_rates.accuracies(run, dataset(), TASKS, seed=3, rates=(0.01, 1.0))
  features = np.asarray(encoding.encode_batches(
      run.backbone_vars, [pool.images], run.normalization, backbone=run.backbone))
  keys = meta_test.task_keys(records.stream_key(3, 'validate'), 8)
  encoded = pool._replace(images=features.astype(np.float32), normalization=None)
  query = 7  # of the eight images of a class, one is support
  for rate, accuracy in found.items():
    correct = []
    for key in keys:
      task = episodes.sample(jax.random.clone(key), encoded, way=3, shot=1, query=query)
      predicted = descend(np.asarray(task.support, np.float64), np.asarray(task.support_labels),
                          np.asarray(task.query, np.float64), rate)
      correct.append(np.mean(predicted == task.query_labels))
    assert accuracy == pytest.approx(np.mean(correct), abs=0.5 / (8 * 21))


def test_tasks_that_the_validation_classes_cannot_give_are_refused():
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  with pytest.raises(ValueError, match='way'):
    inner_rates.accuracies(run, dataset(), dataclasses.replace(TASKS, way=9), seed=0)
