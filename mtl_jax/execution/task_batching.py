"""Which way of going over the tasks of a meta-batch is fastest where each task adapts kernels of its own: measured."""
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import logging

from mtl_jax import inner_loop, outer_loop
from mtl_jax.phases import meta_train
from mtl_jax.types import Backbone, BackboneVars, Episode

CHOICES = ('auto', *inner_loop.WAYS)
LEAST_STEPS = 50  # a shorter meta-training ends sooner than the measurement
CONTENDS = 1.5    # times the least of the first repeats; what takes longer is not tried again,
SHORT = 2.0       # seconds, unless it takes less than this


def choose(choice: str, backbone: Backbone, backbone_vars: BackboneVars, config: meta_train.MetaTrainConfig) -> str:
  """Gives the way that a meta-training goes. Several processes must not come to different ones: let one choose.

  Args:
    choice: one of CHOICES; 'auto' measures where it pays, and takes 'loop' otherwise.
    backbone: the network.
    backbone_vars: Θ.
    config: settings; `meta_batch` is that of one device.

  Returns:
    One of `inner_loop.WAYS`.

  Raises:
    ValueError: an unknown choice.
  """
  if choice not in CHOICES:
    raise ValueError(f'expected over_tasks to be one of {", ".join(CHOICES)}, got {choice!r}')
  if choice != 'auto':
    return choice
  adapts_network = inner_loop.LOOPS[config.adapts] is inner_loop.adapt_networks
  if not adapts_network or config.steps < LEAST_STEPS:
    return 'loop'
  seconds = measure(backbone, backbone_vars, config)
  way = min(seconds, key=seconds.get)
  logging.info('over tasks by %s (seconds per step: %s)', way,
               ', '.join(f'{name} {value:.3g}' for name, value in seconds.items()))
  return way


def measure(backbone: Backbone, backbone_vars: BackboneVars, config: meta_train.MetaTrainConfig,
            repeats: int = 3) -> dict[str, float]:
  """Times value and gradient of the outer loss on tasks of noise.

  Of long steps, ways that take far longer than the fastest run once only.

  Args:
    backbone: the network.
    backbone_vars: Θ.
    config: settings.
    repeats: of each, in turn.

  Returns:
    Way -> seconds of the fastest repeat; ways that run out of memory are left out, save for 'loop'.
  """
  arguments = meta_train.init(backbone, backbone_vars, config).meta_params, backbone_vars, noise(backbone, config)
  compiled, seconds = {}, {}
  for turn in range(repeats):
    for way in inner_loop.WAYS if turn == 0 else _contenders(seconds):
      try:
        if way not in compiled:
          compiled[way] = gradient(backbone, config._replace(over_tasks=way)).lower(*arguments).compile()
        began = time.monotonic()
        jax.block_until_ready(compiled[way](*arguments))
        seconds[way] = min(seconds.get(way, float('inf')), time.monotonic() - began)
      except jax.errors.JaxRuntimeError:
        if way == 'loop':
          raise
        seconds.pop(way, None)
  return seconds


def _contenders(seconds):
  """Of a step that is short, all: its first call has to wait for much that later ones find ready."""
  return [way for way, value in seconds.items() if value < max(SHORT, CONTENDS * min(seconds.values()))]


def gradient(backbone: Backbone, config: meta_train.MetaTrainConfig) -> Callable:
  """Compiles value and gradient of the outer loss, in the way that `config.over_tasks` names.

  Args:
    backbone: the network.
    config: settings.

  Returns:
    A function of (meta_params, backbone_vars, tasks): the loss in nats, and its gradient by the meta_params.
  """
  def loss(meta_params, backbone_vars, tasks):
    return outer_loop.query_loss(meta_params, backbone_vars, tasks, backbone=backbone, config=config)[0]

  return jax.jit(jax.value_and_grad(loss))


def noise(backbone: Backbone, config: meta_train.MetaTrainConfig) -> Episode:
  """Makes tasks to time with.

  Args:
    backbone: the network.
    config: settings.

  Returns:
    Episodes stacked along axis 0, whose images are normal noise.
  """
  def part(key, per_class):
    labels = jnp.tile(jnp.repeat(jnp.arange(config.way), per_class), (config.meta_batch, 1))
    return jax.random.normal(key, (*labels.shape, *backbone.image_shape)), labels

  support, query = part(jax.random.key(0), config.shot), part(jax.random.key(1), config.query)
  return Episode(*support, *query, jnp.zeros((config.meta_batch, config.way), jnp.int32))
