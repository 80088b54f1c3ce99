"""Validation tasks: refused where classes are too few or small, else scored as a meta-test."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import episodes, execution, learnable
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.phases import feature_tasks, meta_test
from mtl_jax.runs import validation
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import smooth_network, toy_dataset, toy_pool

INNER = InnerLoop(lr=0.1, steps=5)
TASKS = validation.Validation(num_tasks=8, way=3, shot=2, inner=INNER)


def test_only_the_images_that_the_tasks_name_are_encoded_and_scores_keep_every_bit():
  backbone, variables = smooth_network()
  variables, seen = jax.tree.map(jnp.float32, variables), []
  features = backbone.features

  def counted(variables, images, *, batch_stats_mode):
    jax.debug.callback(lambda x: seen.append(len(x)), images)
    return features(variables, images, batch_stats_mode=batch_stats_mode)

  backbone = backbone._replace(features=counted)
  pool = toy_pool([30] * 8)
  config = MetaTestConfig(num_tasks=4, way=3, shot=2, query=4, inner=INNER)
  keys = meta_test.task_keys(jax.random.key(3), 4)
  plain = learnable.nothing_learned(backbone, variables, 3, INNER)
  of_all = jax.jit(functools.partial(meta_test.accuracies, backbone=backbone, config=config))
  expected = np.asarray(of_all(plain, variables, jax.tree.map(jnp.asarray, pool),
                               jax.random.clone(keys)))
  assert len(set(expected)) > 1
  jax.effects_barrier()
  assert sum(seen) == 240
  named, drawn = feature_tasks.named(keys, pool, config=config)
  whole = jax.jit(jax.vmap(lambda key: episodes.draw(key, pool, way=3, shot=2, query=4)))(
      jax.random.clone(keys))
  np.testing.assert_array_equal(named[drawn.indices], whole.indices)
  np.testing.assert_array_equal(named, np.unique(whole.indices))
  for on_host in (False, True):
    seen.clear()
    score = execution.make(on_host).scorer(pool, keys, backbone=backbone, config=config)
    np.testing.assert_array_equal(score(plain, variables), expected)
    jax.effects_barrier()
    assert sum(seen) == len(named) <= 4 * 3 * 6


def test_most_images_stay_as_they_lie():
  config = MetaTestConfig(num_tasks=40, way=3, shot=2, query=4, inner=INNER)
  keys = meta_test.task_keys(jax.random.key(3), 40)
  assert feature_tasks.named(keys, toy_dataset().val, config=config).images is None


@pytest.mark.parametrize('changes, message', [
    ({'way': 7}, 'way of at most 6, the number of classes of the val split, got 7'),
    ({'shot': 6}, r'shot \+ query of at most 6, .* smallest class of the val split, got 6 \+ 1 = '
                  '7')])
def test_tasks_that_the_classes_cannot_give(changes, message):
  validation.check_validation(toy_dataset(), TASKS)
  with pytest.raises(ValueError, match=message):
    validation.check_validation(toy_dataset(), dataclasses.replace(TASKS, **changes))


def test_the_score_is_the_mean_of_meta_test_on_the_tasks_of_the_key():
  backbone, variables = smooth_network()
  variables, dataset = jax.tree.map(jnp.float32, variables), toy_dataset()
  rng = np.random.default_rng(0)
  theta = BaseLearner(*(rng.normal(size=shape).astype(np.float32)
                        for shape in ((backbone.feature_dim, 3), 3)))
  meta_params = MetaParams({}, {}, theta, {}, {})
  # Classes of 6 images, of which 2 are support: 4 queries.
  config = MetaTestConfig(num_tasks=8, way=3, shot=2, query=4, inner=INNER)
  score = execution.make(False).scorer(dataset.val, meta_test.task_keys(jax.random.key(3), 8),
                                       backbone=backbone, config=config)
  expected, interval = meta_test.summarize(score(meta_params, variables))
  assert 0.2 < expected < 1
  for on_host in (False, True):
    score = validation.make_scorer(dataset, backbone, TASKS, jax.random.key(3),
                                   execution.make(on_host))
    found = score(meta_params, variables)
    assert type(found.accuracy) is float and found.accuracy == pytest.approx(expected, abs=1e-6)
    assert found.ci95 == pytest.approx(interval, abs=1e-6)
