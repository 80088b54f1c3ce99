"""Measures of meta-test: drawing tasks of a split and scoring them, as a whole and in two parts."""
import functools
from dataclasses import replace

import jax
import numpy as np

from benchmarks.ours.loading import load_network, load_pool
from benchmarks.ours.timed_unit import TimedUnit, check_mode
from mtl_jax import base_learner
from mtl_jax.configs import TEST_LOOP, MetaTestConfig
from mtl_jax.phases import encoding, meta_test
from mtl_jax.types import MetaParams

_WHOLE = {'encoded': meta_test.accuracies_encoded, 'per_task': meta_test.accuracies_per_task}


def task_scores(mode: str, settings: dict) -> TimedUnit:
  """Prepares the scoring of tasks.

  Args:
    mode: 'encoded' or 'per_task'; 'encode' and 'tasks' are the two parts of the former.
    settings: `inputs`, `network`, `num_tasks`, `way`, `shot`, `query`, `inner_steps`, `inner_lr`.

  Returns:
    A TimedUnit; its value is the mean accuracy, of 'encode' images per second.
  """
  check_mode(mode, (*_WHOLE, 'encode', 'tasks'))
  config = MetaTestConfig(
      **{name: settings[name] for name in ('num_tasks', 'way', 'shot', 'query')},
      inner=replace(TEST_LOOP, lr=settings['inner_lr'], steps=settings['inner_steps']))
  keys = meta_test.task_keys(jax.random.key(0), config.num_tasks)
  if mode == 'tasks':
    return _feature_scores(settings, keys, config)
  network = load_network(settings, 'float32')
  theta = base_learner.init(network.backbone.feature_dim, config.way)
  meta_params = MetaParams(network.scale_shift, {}, theta, {}, {})
  arguments = jax.device_put((meta_params, network.backbone_vars))
  pool = load_pool(settings)
  if mode == 'encode':
    encode = jax.jit(functools.partial(encoding.encode_pool, backbone=network.backbone))
    return TimedUnit(lambda: jax.block_until_ready(encode(*arguments, pool)),
                     amount=len(pool.images))
  score = jax.jit(functools.partial(_WHOLE[mode], backbone=network.backbone, config=config))
  return TimedUnit(lambda: np.mean(score(*arguments, pool, keys)))


def _feature_scores(settings, keys, config):
  pool = load_pool(settings, 'features')
  score = jax.jit(functools.partial(meta_test.feature_accuracies, config=config))
  theta = base_learner.init(pool.images.shape[1], config.way)
  meta_params = MetaParams({}, {}, theta, {}, {})
  return TimedUnit(lambda: np.mean(score(meta_params, pool, keys)))
