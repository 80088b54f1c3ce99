"""Validation tasks: refused before anything compiles where the classes cannot give them; else those of meta-test."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.execution import from_host, on_device
from mtl_jax.phases import meta_test
from mtl_jax.runs import validation
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import MEAN, STD, smooth_network, toy_dataset

TASKS = validation.Validation(num_tasks=8, way=3, shot=2, inner_lr=0.1, inner_steps=5)


@pytest.mark.parametrize('changes, message', [
    ({'way': 7}, 'way of at most 6, the number of classes of the val split, got 7'),
    ({'shot': 6}, r'shot \+ query of at most 6, .* smallest class of the val split, got 6 \+ 1 = 7')])
def test_tasks_that_the_classes_cannot_give(changes, message):
  validation.check_validation(toy_dataset(), TASKS)
  with pytest.raises(ValueError, match=message):
    validation.check_validation(toy_dataset(), TASKS._replace(**changes))


def test_the_score_is_the_mean_of_meta_test_on_the_tasks_of_the_key():
  backbone, variables = smooth_network()
  variables, dataset, key = jax.tree.map(jnp.float32, variables), toy_dataset(), jax.random.key(3)
  rng = np.random.default_rng(0)
  theta = MetaParams({}, {}, BaseLearner(
      *(rng.normal(size=shape).astype(np.float32) for shape in ((backbone.feature_dim, 3), 3))), {})
  # Classes of 6 images, of which 2 are support: 4 queries.
  config = meta_test.MetaTestConfig(num_tasks=8, way=3, shot=2, query=4, inner_lr=0.1, inner_steps=5)
  score = on_device.scorer(dataset.val, MEAN, STD, meta_test.task_keys(key, 8), backbone=backbone, config=config)
  expected = float(np.mean(score(theta, variables)))
  assert 0.2 < expected < 1
  for loops in (on_device, from_host):
    found = validation.validation_scorer(dataset, backbone, TASKS, key, loops)(theta, variables)
    assert type(found) is float and found == pytest.approx(expected, abs=1e-6)
