"""Meta-test: its two ways of scoring against each other, and both protocols against NumPy."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, episodes, scale_shift
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.phases import meta_test
from mtl_jax.types import MetaParams
from tests.phases import changed, features_of, normalized, numpy_adapt
from tests.phases.learned_pool import POOL, learned

CONFIG = MetaTestConfig(num_tasks=16, way=3, shot=2, query=5, inner=InnerLoop(lr=0.02, steps=20))
PAPER = meta_test.apply_protocol(CONFIG, 'paper')
ROOT = jax.random.key(5)


@functools.cache
def compiled(function, config):
  backbone = learned()[0]
  return jax.jit(functools.partial(getattr(meta_test, function), backbone=backbone, config=config))


def score(function, config=CONFIG, meta_params=None):
  keys = meta_test.task_keys(ROOT, config.num_tasks)
  _, variables, own = learned()
  pool = jax.tree.map(jnp.asarray, POOL)
  return np.asarray(compiled(function, config)(meta_params or own, variables, pool, keys))


@functools.cache
def sampler(config):
  return jax.jit(functools.partial(episodes.sample, way=config.way, shot=config.shot,
                                   query=config.query))


def by_hand(key, config, meta_params=None):
  """Accuracy of one task: its images drawn by `episodes`, all after the network in NumPy."""
  _, variables, own = learned()
  phi, theta = (meta_params or own).scale_shift, (meta_params or own).base_learner
  task = jax.tree.map(np.asarray, sampler(config)(key, POOL))
  network = variables._replace(params=scale_shift.modulate(variables.params, phi))

  def encode(images):
    features = features_of(network, normalized(images), config.inner.batch_stats_mode)
    return np.asarray(features, np.float64)

  support, labels = task.support, task.support_labels
  if config.flip_support:
    support, labels = np.concatenate([support, np.flip(support, axis=2)]), np.tile(labels, 2)
    assert len(support) == 2 * config.way * config.shot
  kernel, bias = numpy_adapt(*map(np.asarray, theta), encode(support), labels, config.inner.lr,
                             config.inner.steps)
  predicted = np.argmax(encode(task.query) @ kernel + bias, axis=1)
  assert len(predicted) == config.way * config.query
  return np.mean(predicted == task.query_labels)


def test_encoding_each_image_once_scores_as_encoding_each_task():
  encoded, per_task = score('accuracies_encoded'), score('accuracies_per_task')
  assert encoded.shape == (16,) and len(set(encoded)) > 3
  np.testing.assert_allclose(encoded, per_task, atol=1e-5)


def test_both_protocols_against_tasks_by_hand():
  for function, config in (('accuracies_encoded', CONFIG), ('accuracies_per_task', PAPER)):
    expected = [by_hand(key, config) for key in meta_test.task_keys(ROOT, 6)]
    np.testing.assert_allclose(score(function, config)[:6], expected, atol=1e-6)


def test_paper_protocol_is_neither_without_flips_nor_with_running_statistics():
  paper = score('accuracies_per_task', PAPER)
  assert np.all((0 <= paper) & (paper <= 1))
  for other in (changed(PAPER, flip_support=False),
                changed(PAPER, inner={'batch_stats_mode': 'running'})):
    assert np.any(paper != score('accuracies_per_task', other))


@pytest.mark.parametrize('settings, expected', [
    ({}, 'accuracies_encoded'), ({'flip_support': True}, 'accuracies_per_task'),
    ({'inner': {'batch_stats_mode': 'batch'}}, 'accuracies_per_task'),
    ({'inner': {'adapts': 'all'}}, 'accuracies_per_task'),
    ({'inner': {'adapts': lambda *_, **__: None}}, 'accuracies_per_task')])
def test_accuracies_takes_the_way_that_is_exact(settings, expected, monkeypatch):
  for name in ('accuracies_encoded', 'accuracies_per_task'):
    monkeypatch.setattr(meta_test, name, lambda *arguments, name=name, **options: (
        name, arguments, options))
  config = changed(CONFIG, **settings)
  assert meta_test.accuracies(1, 2, 3, 4, backbone='b', config=config) == (
      expected, (1, 2, 3, 4), {'backbone': 'b', 'config': config, 'layout': None})


def test_a_task_depends_on_its_number_alone():
  many, few = (jax.random.key_data(meta_test.task_keys(ROOT, n)) for n in (16, 5))
  np.testing.assert_array_equal(many[:5], few)
  assert len(np.unique(many, axis=0)) == 16
  five = score('accuracies_encoded', dataclasses.replace(CONFIG, num_tasks=5))
  np.testing.assert_allclose(five, score('accuracies_encoded')[:5], atol=1e-6)


@pytest.mark.parametrize('config', [CONFIG, PAPER], ids=['inductive', 'paper'])
def test_eight_devices_score_as_one(config):
  mesh = jax.make_mesh((8,), ('tasks',))
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('tasks'))
  backbone, variables, meta_params = learned()
  whole = jax.sharding.PartitionSpec()
  function = jax.shard_map(
      lambda *arguments: meta_test.accuracies(*arguments, backbone=backbone, config=config),
      mesh=mesh, in_specs=(whole,) * 3 + (spread.spec,), out_specs=spread.spec, check_vma=False)
  keys = jax.device_put(meta_test.task_keys(ROOT, 16), spread)
  found = jax.jit(function)(meta_params, variables, jax.tree.map(jnp.asarray, POOL), keys)
  assert len(found.sharding.device_set) == 8
  np.testing.assert_allclose(found, score('accuracies', config), atol=1e-6)


def test_update_theta_starts_from_zero_on_the_pretrained_features():
  plain = MetaParams({}, {}, base_learner.init(4, 3), {}, {})
  backbone, variables, _ = learned()
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  found = score('accuracies_encoded', meta_params=plain)
  untouched = score('accuracies_encoded', meta_params=plain._replace(scale_shift=identity))
  np.testing.assert_array_equal(found, untouched)
  expected = [by_hand(key, CONFIG, plain) for key in meta_test.task_keys(ROOT, 6)]
  np.testing.assert_allclose(found[:6], expected, atol=1e-6)


def test_protocols():
  five = dataclasses.replace(CONFIG, shot=5)
  for protocol, query, mode, flip in (('inductive', 15, 'running', False),
                                      ('paper', 5, 'batch', True)):
    found = meta_test.apply_protocol(five, protocol)
    expected = changed(five, query=query, flip_support=flip, inner={'batch_stats_mode': mode})
    assert found == expected
  with pytest.raises(ValueError, match="'inductive' or 'paper', got 'transductive'"):
    meta_test.apply_protocol(CONFIG, 'transductive')


def test_summarize():
  values = np.random.default_rng(0).uniform(size=600).astype(np.float32)
  accuracy, ci95 = meta_test.summarize(values)
  mean = sum(map(float, values)) / 600
  np.testing.assert_allclose(accuracy, mean, rtol=1e-6)
  deviation = (sum((float(v) - mean) ** 2 for v in values) / 600) ** 0.5
  np.testing.assert_allclose(ci95, 1.96 * deviation / 600 ** 0.5, rtol=1e-6)
  assert type(accuracy) is type(ci95) is float  # JSON takes them
