"""Failure classes by counting, and frequencies of hard-task draws against their formulas."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import hard_tasks

DRAWS = 20_000


def logits_for(predictions, way):
  """Logits whose argmax is `predictions`, with noise that does not change it."""
  noise = np.random.default_rng(0).uniform(size=(len(predictions), way))
  return jnp.asarray(noise + 2 * np.eye(way)[predictions], jnp.float32)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw_many(counts, way, draws, seed):
  keys = jax.random.split(jax.random.key(seed), draws)
  return jax.vmap(lambda key: hard_tasks.draw_hard_classes(key, counts, way))(keys)


def draw(counts, way, draws=DRAWS, seed=0):
  """Many draws at once: int32 [draws, way]."""
  return np.asarray(draw_many(jnp.asarray(counts, jnp.int32), way, draws, seed))


def assert_frequency(hits, probability, draws=DRAWS):
  """Within five standard deviations of a binomial."""
  deviation = np.sqrt(draws * probability * (1 - probability))
  assert abs(hits - draws * probability) <= 5 * deviation + 1e-9


@pytest.mark.parametrize('predictions, expected', [
    ([0, 0, 0, 1, 2, 2, 2, 0, 2], 22),  # hits 3, 1, 2 of 3
    ([0, 0, 1, 1, 1, 1, 2, 0, 1], 33),  # hits 2, 3, 1 of 3
    ([1, 2, 1, 1, 1, 1, 2, 2, 2], 11),  # hits 0, 3, 3 of 3
])
def test_failure_class_has_the_lowest_query_accuracy(predictions, expected):
  labels, class_ids = jnp.repeat(jnp.arange(3), 3), jnp.array([11, 22, 33], jnp.int32)
  failure = hard_tasks.failure_class(logits_for(predictions, 3), labels, class_ids)
  assert failure.shape == () and failure.dtype == jnp.int32
  assert int(failure) == expected


def test_failure_class_counts_accuracy_not_hits():
  # Class 0 has 4 queries and 2 hits (50%), class 1 has 1 query and 1 hit (100%).
  labels = jnp.array([0, 1, 0, 0, 0])
  logits, class_ids = logits_for([0, 1, 1, 0, 1], 2), jnp.array([7, 3], jnp.int32)
  failure = hard_tasks.failure_class(logits, labels, class_ids)
  assert int(failure) == 7


def test_failure_class_ignores_how_confident_the_logits_are():
  # Class 1 misses one, by very little.
  logits = jnp.array([[9., 0.], [9., 0.], [.51, .5], [-9., 9.]])
  labels, class_ids = jnp.array([0, 0, 1, 1]), jnp.array([4, 5], jnp.int32)
  assert int(hard_tasks.failure_class(logits, labels, class_ids)) == 5


def test_failure_class_under_vmap_and_jit():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(8, 20, 4))
  labels = np.tile(np.repeat(np.arange(4), 5), (8, 1))
  class_ids = np.stack([rng.permutation(30)[:4] for _ in range(8)]).astype(np.int32)
  failures = jax.jit(jax.vmap(hard_tasks.failure_class))(logits, labels, class_ids)
  for i in range(8):
    hits = (logits[i].argmax(axis=1) == labels[i]).reshape(4, 5).mean(axis=1)
    assert hits[list(class_ids[i]).index(int(failures[i]))] == hits.min()


@pytest.mark.parametrize('counts', [
    [0, 3, 0, 1, 1, 9, 0, 2, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1, 1, 0],
    [5, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [10**6, 1, 1, 1, 1, 1, 0, 0, 0, 0]])
def test_classes_are_distinct_and_failures_come_first(counts):
  drawn = draw(counts, 5, draws=500)
  assert drawn.shape == (500, 5) and drawn.dtype == np.int32
  failures = set(np.flatnonzero(counts))
  for classes in drawn:
    assert len(set(classes)) == 5 and set(classes) <= set(range(10))
    if len(failures) >= 5:
      assert set(classes) <= failures
    else:
      assert failures <= set(classes)


def test_one_class_is_drawn_in_proportion_to_its_count():
  counts = [0, 1, 2, 0, 5, 12]
  drawn = draw(counts, 1)[:, 0]
  for c, count in enumerate(counts):
    assert_frequency((drawn == c).sum(), count / 20)


def test_two_classes_are_drawn_without_replacement_in_proportion():
  counts, total = np.array([4, 0, 1, 3]), 8
  drawn = np.sort(draw(counts, 2, seed=1), axis=1)
  for i, j in ((0, 2), (0, 3), (2, 3)):
    # Either first; the second in proportion to what is left.
    expected = counts[i] / total * counts[j] / (total - counts[i])
    expected += counts[j] / total * counts[i] / (total - counts[j])
    assert_frequency((drawn == np.array([[i, j]])).all(axis=1).sum(), expected)


def test_fill_up_is_uniform_over_the_other_classes():
  counts = [0, 7, 0, 0, 1, 0]  # Two failure classes, so two of the four others are added.
  drawn = draw(counts, 4, seed=2)
  for c in (0, 2, 3, 5):
    assert_frequency((drawn == c).any(axis=1).sum(), 1 / 2)


def test_the_same_key_draws_the_same_classes():
  first = draw([1] * 8, 3, draws=10)
  np.testing.assert_array_equal(first, draw([1] * 8, 3, draws=10))
  assert (first != draw([1] * 8, 3, draws=10, seed=9)).any()
  assert len({tuple(classes) for classes in first}) > 1


def test_more_classes_than_there_are():
  with pytest.raises(ValueError, match='4.*5'):
    hard_tasks.draw_hard_classes(jax.random.key(0), jnp.ones(4, jnp.int32), 5)
