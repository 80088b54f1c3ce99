"""Comparisons task by task, against SciPy."""
import numpy as np
import pytest
from scipy import stats

from mtl_jax.runs import paired


def test_intervals_over_tasks_and_over_seeds():
  rng = np.random.default_rng(0)
  theirs = [rng.uniform(size=40) for _ in range(3)]
  ours = [values + shift + 0.05 * rng.normal(size=40)
          for values, shift in zip(theirs, (0.1, 0.2, 0.15), strict=True)]
  found = paired.compare(ours, theirs)
  differences = np.stack(ours) - np.stack(theirs)
  assert found['difference'] == pytest.approx(differences.mean())
  assert found['ci95'] == pytest.approx(1.96 * differences.std() / 120**0.5)
  means = differences.mean(axis=1)
  np.testing.assert_allclose(found['by_seed'], means)
  low, high = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
  assert found['seeds_ci95'] == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_over_seeds_and_the_first_tasks_are_compared():
  found = paired.compare([np.array([1.0, 0.5, 0.0])], [np.array([0.5, 0.5])])
  assert found == {'difference': 0.25, 'ci95': pytest.approx(1.96 * 0.25 / 2**0.5),
                   'by_seed': [0.25]}
