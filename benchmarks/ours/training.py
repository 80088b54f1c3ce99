"""Measures of meta-training: the outer step, the input into it, and cycles on several devices."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours import many_devices
from benchmarks.ours.loading import load_network, load_pool
from benchmarks.ours.timed_unit import TimedUnit, check_mode
from benchmarks.ours.trees import write_gradients
from mtl_jax import base_learner, outer_loop
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import Episode, MetaParams, MetaState


def meta_step(mode: str, settings: dict) -> TimedUnit:
  """Prepares one outer step over all tasks of the file: forward, backward, Adam.

  Args:
    mode: 'float32', 'bfloat16', or 'all_tasks': the meta-batch at once, also on a CPU.
    settings: `inputs`, `network`, `inner_steps`, `inner_lr`, `outer_lr`, `order`, and perhaps
      `norm_epsilon` and `float64`.

  Returns:
    A TimedUnit; its value is the mean query loss before the step.
  """
  check_mode(mode, ('float32', 'all_tasks', 'bfloat16'))
  jax.config.update('jax_enable_x64', bool(settings.get('float64')))
  dtype = 'bfloat16' if mode == 'bfloat16' else 'float32'
  network = load_network(settings, 'float64' if settings.get('float64') else dtype)
  tasks, way = _tasks(network.arrays)
  num_tasks = len(tasks.class_ids)
  # In float64 everything is, θ too, lest its gradient be rounded to float32.
  theta = jax.tree.map(lambda x: x.astype(tasks.query.dtype),
                       base_learner.init(network.backbone.feature_dim, way))
  config = MetaTrainConfig(
      way=way, shot=tasks.support_labels.shape[1] // way,
      query=tasks.query_labels.shape[1] // way, meta_batch=num_tasks,
      # 0 is the library's own choice: one task at a time on a CPU, all of them elsewhere.
      microbatch=num_tasks if mode == 'all_tasks' else 0, outer_lr=settings['outer_lr'],
      inner=InnerLoop(lr=settings['inner_lr'], steps=settings['inner_steps'],
                      gradient_order=settings['order']))
  meta_params = MetaParams(network.scale_shift, {}, theta, {}, {})
  opt_state = outer_loop.make_optimizer(config).init(meta_params)
  state = MetaState(jnp.zeros((), jnp.int32), meta_params, opt_state)
  frozen, tasks = jax.device_put((network.backbone_vars, tasks))
  return _stepping(state, frozen, tasks, backbone=network.backbone, config=config)


def _tasks(arrays):
  """Returns the tasks of a file as stacked Episodes, and their way."""
  way = int(arrays['support_labels'].max()) + 1
  class_ids = np.tile(np.arange(way, dtype=np.int32), (len(arrays['support_labels']), 1))
  return Episode(arrays['support_images'], arrays['support_labels'], arrays['query_images'],
                 arrays['query_labels'], class_ids), way


def _stepping(state, frozen, tasks, *, backbone, config):
  options = {'backbone': backbone, 'config': config}

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, frozen, tasks):
    found = outer_loop.value_and_gradient(state.meta_params, frozen, tasks, **options)
    return outer_loop.apply(state, found.gradient, config), found.loss

  query_loss = functools.partial(outer_loop.query_loss, **options)
  gradient = jax.jit(jax.value_and_grad(query_loss, has_aux=True))
  current = state

  def run():
    nonlocal current  # the step takes the memory of the state before it
    current, loss = jax.block_until_ready(step(current, frozen, tasks))
    return loss

  def save(path):
    (loss, _), gradients = gradient(current.meta_params, frozen, tasks)
    return write_gradients(path, loss, gradients._asdict())

  return TimedUnit(run, save)


def meta_batches(mode: str, settings: dict) -> TimedUnit:
  """Prepares meta-batches that are drawn, augmented and normalised on the device.

  Args:
    mode: 'device'.
    settings: `inputs`, `tasks`, `way`, `shot`, `query`, `image_size`, `batches`.

  Returns:
    A TimedUnit; its value is images per second.
  """
  check_mode(mode, ('device',))
  tasks, way, shot, query = (settings[name] for name in ('tasks', 'way', 'shot', 'query'))
  config = MetaTrainConfig(meta_batch=tasks, way=way, shot=shot, query=query,
                           crop_padding=settings['image_size'] // 8)
  pool = load_pool(settings)
  draw = jax.jit(functools.partial(meta_train.draw_tasks, config=config))
  no_failures, hard = jnp.zeros(len(pool.class_sizes), jnp.int32), jnp.asarray(False)
  batches = 0

  def run():
    nonlocal batches
    for _ in range(settings['batches']):
      # Each meta-batch is waited for, as a step that needs it would.
      drawn = jax.block_until_ready(draw(jax.random.key(batches), pool, no_failures, hard))
      batches += 1
    return drawn

  return TimedUnit(run, amount=settings['batches'] * tasks * way * (shot + query))


def cycles(mode: str, settings: dict) -> TimedUnit:
  """Prepares some ten outer steps in one call on several devices.

  Args:
    mode: 'float32' or 'float64'.
    settings: as of `many_devices.prepare_cycle`.

  Returns:
    A TimedUnit; its value is the mean loss, and `about` counts what devices send each other.
  """
  check_mode(mode, ('float32', 'float64'))
  run, save, about = many_devices.prepare_cycle(settings, mode)
  return TimedUnit(run, save, about=about)
