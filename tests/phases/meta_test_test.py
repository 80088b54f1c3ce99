"""Meta-test: the two ways of scoring against each other, and tasks of both protocols against NumPy."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, episodes, scale_shift
from mtl_jax.phases import meta_test
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import MEAN, STD, features_of, numpy_adapt, tiny_network, toy_pool

CONFIG = meta_test.MetaTestConfig(num_tasks=16, way=3, shot=2, query=5, inner_lr=0.02, inner_steps=20)
PAPER = CONFIG._replace(**meta_test.protocol_settings('paper', 2))
ROOT = jax.random.key(5)
POOL = toy_pool([9, 13, 8, 17, 11, 10, 12] * 3, noise=90)  # 240 images: a batch of 200, and a rest


@functools.cache
def learned():
  """(backbone, Θ, Φ_S and θ), none of them trivial."""
  backbone, variables = tiny_network()
  rng = np.random.default_rng(2)
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  phi = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32), identity)
  theta = BaseLearner(*(jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32) for shape in ((4, 3), (3,))))
  return backbone, variables, MetaParams(phi, {}, theta, {})


@functools.cache
def compiled(way, config):
  return jax.jit(functools.partial(getattr(meta_test, way), backbone=learned()[0], config=config))


def score(way, config=CONFIG, keys=None, meta_params=None):
  keys = meta_test.task_keys(ROOT, config.num_tasks) if keys is None else keys
  _, variables, own = learned()
  return np.asarray(compiled(way, config)(meta_params or own, variables, jax.tree.map(jnp.asarray, POOL), MEAN, STD,
                                          keys))


@functools.cache
def sampler(config):
  return jax.jit(functools.partial(episodes.sample, way=config.way, shot=config.shot, query=config.query))


def by_hand(key, config, meta_params=None):
  """Accuracy of one task: its images drawn by `episodes`, everything after the network in NumPy."""
  _, variables, own = learned()
  phi, theta = (meta_params or own).scale_shift, (meta_params or own).base_learner
  task = jax.tree.map(np.asarray, sampler(config)(key, POOL))
  modulated = variables._replace(params=scale_shift.modulate(variables.params, phi))

  def encode(images):
    images = (images.astype(np.float32) / 255 - MEAN) / STD
    return np.asarray(features_of(modulated, images, config.batch_stats_mode), np.float64)

  support, labels = task.support_images, task.support_labels
  if config.flip_support:
    support, labels = np.concatenate([support, np.flip(support, axis=2)]), np.tile(labels, 2)
    assert len(support) == 2 * config.way * config.shot
  kernel, bias = numpy_adapt(*map(np.asarray, theta), encode(support), labels, config.inner_lr, config.inner_steps)
  predicted = np.argmax(encode(task.query_images) @ kernel + bias, axis=1)
  assert len(predicted) == config.way * config.query
  return np.mean(predicted == task.query_labels)


def test_encoding_each_image_once_scores_as_encoding_each_task():
  encoded, per_task = score('accuracies_encoded'), score('accuracies_per_task')
  assert encoded.shape == (16,) and len(set(encoded)) > 3
  np.testing.assert_allclose(encoded, per_task, atol=1e-5)


def test_both_protocols_against_tasks_by_hand():
  keys = meta_test.task_keys(ROOT, 16)
  for way, config in (('accuracies_encoded', CONFIG), ('accuracies_per_task', PAPER)):
    np.testing.assert_allclose(score(way, config)[:6], [by_hand(key, config) for key in keys[:6]], atol=1e-6)


def test_paper_protocol_is_neither_without_flips_nor_with_running_statistics():
  paper = score('accuracies_per_task', PAPER)
  assert np.all((0 <= paper) & (paper <= 1))
  for other in ({'flip_support': False}, {'batch_stats_mode': 'running'}):
    assert np.any(paper != score('accuracies_per_task', PAPER._replace(**other)))


@pytest.mark.parametrize('batch_size', [7, 48, 240, 1000])
def test_encode_pool_at_any_batch_size(batch_size):
  backbone, variables, meta_params = learned()
  pool = jax.tree.map(jnp.asarray, POOL)
  encode = jax.jit(functools.partial(meta_test.encode_pool, backbone=backbone, batch_size=batch_size))
  found = encode(meta_params, variables, pool, MEAN, STD)
  modulated = variables._replace(params=scale_shift.modulate(variables.params, meta_params.scale_shift))
  images = (POOL.images.astype(np.float32) / 255 - MEAN) / STD
  expected = features_of(modulated, images, 'running')
  np.testing.assert_allclose(found.images, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.class_sizes, POOL.class_sizes)


@pytest.mark.parametrize('settings, expected', [
    ({}, 'accuracies_encoded'), ({'flip_support': True}, 'accuracies_per_task'),
    ({'batch_stats_mode': 'batch'}, 'accuracies_per_task'), ({'adapts': 'all'}, 'accuracies_per_task')])
def test_accuracies_takes_the_way_that_is_exact(settings, expected, monkeypatch):
  for way in ('accuracies_encoded', 'accuracies_per_task'):
    monkeypatch.setattr(meta_test, way, lambda *arguments, way=way, **options: (way, arguments, options))
  config = CONFIG._replace(**settings)
  assert meta_test.accuracies(1, 2, backbone='b', config=config) == (
      expected, (1, 2), {'backbone': 'b', 'config': config, 'layout': None})


def test_a_task_depends_on_its_number_alone():
  many, few = (jax.random.key_data(meta_test.task_keys(ROOT, n)) for n in (16, 5))
  np.testing.assert_array_equal(many[:5], few)
  assert len(np.unique(many, axis=0)) == 16
  np.testing.assert_allclose(score('accuracies_encoded', CONFIG._replace(num_tasks=5)),
                             score('accuracies_encoded')[:5], atol=1e-6)


@pytest.mark.parametrize('config', [CONFIG, PAPER], ids=['inductive', 'paper'])
def test_eight_devices_score_as_one(config):
  mesh = jax.make_mesh((8,), ('tasks',))
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('tasks'))
  backbone, variables, meta_params = learned()
  whole = jax.sharding.PartitionSpec()
  function = jax.shard_map(
      lambda *arguments: meta_test.accuracies(*arguments, backbone=backbone, config=config), mesh=mesh,
      in_specs=(whole,) * 5 + (spread.spec,), out_specs=spread.spec, check_vma=False)
  found = jax.jit(function)(meta_params, variables, jax.tree.map(jnp.asarray, POOL), MEAN, STD,
                            jax.device_put(meta_test.task_keys(ROOT, 16), spread))
  assert len(found.sharding.device_set) == 8
  np.testing.assert_allclose(found, score('accuracies', config), atol=1e-6)


def test_update_theta_starts_from_zero_on_the_pretrained_features():
  plain = MetaParams({}, {}, base_learner.init(4, 3), {})
  untouched = plain._replace(scale_shift=scale_shift.init(learned()[1].params, learned()[0].scaled_layers))
  found = score('accuracies_encoded', meta_params=plain)
  np.testing.assert_array_equal(found, score('accuracies_encoded', meta_params=untouched))
  keys = meta_test.task_keys(ROOT, 6)
  np.testing.assert_allclose(found[:6], [by_hand(key, CONFIG, plain) for key in keys], atol=1e-6)


def test_protocol_settings():
  assert meta_test.protocol_settings('inductive', 5) == {'query': 15, 'batch_stats_mode': 'running',
                                                         'flip_support': False}
  assert meta_test.protocol_settings('paper', 5) == {'query': 5, 'batch_stats_mode': 'batch', 'flip_support': True}
  with pytest.raises(ValueError, match="'inductive' or 'paper', got 'transductive'"):
    meta_test.protocol_settings('transductive', 1)


def test_summarize():
  values = np.random.default_rng(0).uniform(size=600).astype(np.float32)
  accuracy, ci95 = meta_test.summarize(values)
  mean = sum(map(float, values)) / 600
  np.testing.assert_allclose(accuracy, mean, rtol=1e-6)
  np.testing.assert_allclose(ci95, 1.96 * (sum((float(v) - mean) ** 2 for v in values) / 600) ** 0.5 / 600 ** 0.5,
                             rtol=1e-6)
  assert type(accuracy) is type(ci95) is float  # JSON takes them
