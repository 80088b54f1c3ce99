"""Which batching of tasks is fastest where each task adapts kernels of its own: measured."""
import dataclasses
import time
from typing import get_args

import jax
import jax.numpy as jnp
from absl import logging

from mtl_jax import inner_loop, outer_loop
from mtl_jax.configs import Batching, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import Backbone, BackboneVars, Episode

STRATEGIES = get_args(Batching)
CHOICES = ('auto', *STRATEGIES)
LEAST_STEPS = 50           # a shorter meta-training ends sooner than the measurement
RETRY_WITHIN = 1.5         # drop a strategy slower than this times the fastest
ALWAYS_RETRY_BELOW = 2.0   # seconds: a first call waits for much that later ones find ready


def choose(choice: str, backbone: Backbone, backbone_vars: BackboneVars,
           config: MetaTrainConfig) -> Batching:
  """Chooses the batching of a meta-training.

  Several processes must not come to different choices: let process 0 choose for all.

  Args:
    choice: one of CHOICES; 'auto' measures where it pays, and takes 'loop' otherwise.
    backbone: maps images to features [B, d].
    backbone_vars: Θ.
    config: settings; `meta_batch` is that of one device.

  Returns:
    One of STRATEGIES.

  Raises:
    ValueError: an unknown choice.
  """
  if choice not in CHOICES:
    raise ValueError(f'expected batching to be one of {", ".join(CHOICES)}, got {choice!r}')
  for strategy in STRATEGIES:
    if choice == strategy:
      return strategy
  if not inner_loop.find(config.inner.adapts).adapts_network or config.steps < LEAST_STEPS:
    return 'loop'
  seconds = measure(backbone, backbone_vars, config)
  fastest = min(seconds, key=lambda strategy: seconds[strategy])
  logging.info('batching of tasks: %s (seconds per step: %s)', fastest,
               ', '.join(f'{name} {value:.3g}' for name, value in seconds.items()))
  return fastest


def measure(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig,
            repeats: int = 3) -> dict[Batching, float]:
  """Times value and gradient of the outer loss on tasks of noise.

  Args:
    backbone: maps images to features [B, d].
    backbone_vars: Θ.
    config: settings.
    repeats: of each strategy, in turn; a slow one that is far behind runs once only.

  Returns:
    Strategy -> seconds of its fastest repeat. Strategies that run out of memory are left out, save
    for 'loop', whose error is raised.
  """
  state = meta_train.init(backbone, backbone_vars, config)
  arguments = state.meta_params, backbone_vars, noise_tasks(backbone, config)
  compiled, seconds = {}, {}
  for turn in range(repeats):
    for strategy in STRATEGIES if turn == 0 else _contenders(seconds):
      try:
        if strategy not in compiled:
          compiled[strategy] = loss_and_gradient(backbone, config, strategy).lower(
              *arguments).compile()
        began = time.monotonic()
        jax.block_until_ready(compiled[strategy](*arguments))
        taken = time.monotonic() - began
        seconds[strategy] = min(seconds.get(strategy, taken), taken)
      except jax.errors.JaxRuntimeError:
        if strategy == 'loop':
          raise
        seconds.pop(strategy, None)
  return seconds


def _contenders(seconds):
  limit = max(ALWAYS_RETRY_BELOW, RETRY_WITHIN * min(seconds.values()))
  return [strategy for strategy, value in seconds.items() if value < limit]


def loss_and_gradient(backbone: Backbone, config: MetaTrainConfig,
                      batching: Batching) -> jax.stages.Wrapped:
  """Jits value and gradient of the outer loss.

  Args:
    backbone: maps images to features [B, d].
    config: settings.
    batching: takes the place of that of `config`.

  Returns:
    A jitted function of (meta_params, backbone_vars, tasks): the loss in nats, and its gradient by
    the meta_params.
  """
  inner = dataclasses.replace(config.inner, batching=batching)
  config = dataclasses.replace(config, inner=inner)

  def loss(meta_params, backbone_vars, tasks):
    return outer_loop.query_loss(meta_params, backbone_vars, tasks, backbone=backbone,
                                 config=config)[0]

  return jax.jit(jax.value_and_grad(loss))


def noise_tasks(backbone: Backbone, config: MetaTrainConfig) -> Episode:
  """Makes tasks to time with.

  Args:
    backbone: its image shape is read.
    config: way, shot, query and meta-batch.

  Returns:
    Episodes stacked along axis 0, whose images are normal noise.
  """
  def part(key, per_class):
    of_task = jnp.repeat(jnp.arange(config.way), per_class)
    labels = jnp.tile(of_task, (config.meta_batch, 1))
    return jax.random.normal(key, (*labels.shape, *backbone.image_shape)), labels

  support = part(jax.random.key(0), config.shot)
  query = part(jax.random.key(1), config.query)
  return Episode(*support, *query, jnp.zeros((config.meta_batch, config.way), jnp.int32))
