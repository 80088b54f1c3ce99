"""Phase 2, meta-training: the outer loop over Φ_S and θ, on ordinary tasks and on hard tasks.

`cycle` is one hard-task meta-batch: ordinary tasks, then hard tasks made of the classes that failed
in them. What the outer loop learns is the business of `learnable`; the default is the paper's, Φ_S
of all layers and θ.

References: Sun et al., CVPR 2019, sections 4.2 and 4.3; TPAMI version, algorithms 1 and 2.
"""
import functools
import warnings

import jax
import jax.numpy as jnp

from mtl_jax import augment, episodes, hard_tasks, inner_loop, learnable, outer_loop, sharding
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  Episode,
  ImagePool,
  MetaState,
  Normalization,
  TaskKeys,
)

__all__ = ['MetaTrainConfig', 'check_config', 'cycle', 'draw_tasks', 'failure_metrics', 'init',
           'step_on', 'steps_per_cycle', 'task_keys']

# What is left of the way to the minimum after T steps is about exp(-α T λ); e^-3 is 5%.
_LEAST_APPROACH = 3.0


def steps_per_cycle(config: MetaTrainConfig) -> int:
  """Counts the outer steps of one cycle: (K + K') / meta-batch.

  Args:
    config: numbers of ordinary and hard tasks.

  Returns:
    A number of outer steps.

  Raises:
    ValueError: K or K' is no multiple of the meta-batch, or a number is out of range.
  """
  least = {'meta_batch': 1, 'num_ordinary_tasks': config.meta_batch, 'num_hard_tasks': 0,
           'microbatch': 0}
  for name, smallest in least.items():
    value = getattr(config, name)
    if value < smallest:
      raise ValueError(f'expected {name} of at least {smallest}, got {value}')
    if name.endswith('_tasks') and value % config.meta_batch:
      raise ValueError(f'expected {name} to be a multiple of meta_batch = {config.meta_batch}, '
                       f'got {value}')
  return (config.num_ordinary_tasks + config.num_hard_tasks) // config.meta_batch


def check_config(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig) -> None:
  """Refuses settings that make no sense; warns of an implicit gradient short of the minimum.

  Args:
    backbone: the network that they are meant for.
    backbone_vars: Θ, or its shapes.
    config: settings.

  Raises:
    ValueError: as `steps_per_cycle`, `inner_loop.find` and `learnable.check_combination`; or an
      inner rate that is to be learned and starts at 0.
  """
  steps_per_cycle(config)
  inner, learn = config.inner, config.learn
  inner_loop.find(inner.adapts)
  if learn.inner_lr != 'fixed' and not inner.lr > 0:
    raise ValueError(f'expected inner_lr above 0 to learn it from there, got {inner.lr}')
  learnable.check_combination(backbone, backbone_vars.params, learn, inner)
  approach = inner.lr * inner.steps * inner.regularization
  if inner.gradient_order == 'implicit' and approach < _LEAST_APPROACH:
    warnings.warn('gradient_order=implicit is exact at the minimum of the inner loop, and '
                  f'inner_lr * inner_steps * regularization = {approach:.2g} stops short of it; '
                  f'aim at {_LEAST_APPROACH:.0f} or more', stacklevel=2)


def init(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig) -> MetaState:
  """Makes the state before the first outer step.

  Args:
    backbone: maps images to features [B, d].
    backbone_vars: Θ, pre-trained.
    config: settings.

  Returns:
    A MetaState at step 0: Φ_S the identity, learned weights those of Θ, θ zero. What is not learned
    is an empty tree in it, save θ.
  """
  meta_params = learnable.init(backbone, backbone_vars, config.way, config.learn, config.inner)
  opt_state = outer_loop.make_optimizer(config).init(meta_params)
  return MetaState(jnp.zeros((), jnp.int32), meta_params, opt_state)


def task_keys(root_key: Array, step: Array | int, config: MetaTrainConfig) -> TaskKeys:
  """Returns the keys of the tasks of one outer step, so that resuming needs no stored key.

  Args:
    root_key: of the run.
    step: t; its key is `fold_in(root_key, t)`.
    config: its `meta_batch` is read.

  Returns:
    TaskKeys stacked along axis 0 [meta_batch].
  """
  return episodes.split_task_keys(jax.random.fold_in(root_key, step), config.meta_batch)


def draw_tasks(key: Array, pool: ImagePool, failures: Array, hard: Array | bool, *,
               config: MetaTrainConfig) -> Episode:
  """Draws one meta-batch of ordinary or hard tasks, with fresh images, augmented and normalised.

  Args:
    key: consumed.
    pool: uint8 images of the base classes.
    failures: int32 [classes], the multiset of failure classes.
    hard: bool [], draw the classes from `failures`.
    config: settings.

  Returns:
    Episodes stacked along axis 0 [meta_batch, ...], images float32.
  """
  keys = episodes.split_task_keys(key, config.meta_batch)
  tasks = _fetch_tasks(keys, pool, failures, hard, config, None)
  return _augmented(keys, tasks, pool.normalization, config)


def _fetch_tasks(keys, pool, failures, hard, config, layout):
  # Every device draws all tasks, which are numbers only, and fetches the images of its own.
  drawn = episodes.draw_meta_batch(keys, pool, failures, hard, way=config.way, shot=config.shot,
                                   query=config.query)
  fetch = functools.partial(sharding.take, pool.images, layout=layout)
  return jax.vmap(lambda task: episodes.gather(fetch, task, shot=config.shot))(
      sharding.local_shard(drawn, layout))


def _augmented(keys, tasks, normalization, config):
  return augment.augment_tasks(keys, tasks, normalization, padding=config.crop_padding,
                               flip=config.flip)


def step_on(state: MetaState, failures: Array, tasks: Episode, keys: TaskKeys,
            backbone_vars: BackboneVars, normalization: Normalization | None, hard: Array | bool,
            *, backbone: Backbone, config: MetaTrainConfig, layout: sharding.Layout | None = None
            ) -> tuple[MetaState, jax.Array, dict[str, jax.Array]]:
  """Takes one outer step of a cycle on tasks that were drawn before.

      Φ_S <- Φ_S - γ ∇ L_query(θ'; Θ, Φ_S),   θ <- θ - γ ∇ L_query(θ'; Θ, Φ_S)

  Args:
    state: before the step.
    failures: int32 [classes], the multiset of failure classes of this cycle.
    tasks: Episodes stacked along axis 0, with uint8 images; of several devices, those of this one.
    keys: of all tasks of the step; `augment_support` and `augment_query` are consumed.
    backbone_vars: Θ, frozen.
    normalization: mean and deviation of images / 255; None where images are encoded already.
    hard: bool [], whether these tasks are hard; then their failures do not count.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices, each of which runs this on its part of the tasks; None for one device.

  Returns:
    (state after the step, failures with those of these tasks, metrics `loss` and `accuracy`); of
    all tasks, on each device.

  References: Sun et al., CVPR 2019, section 4.2, equations 3-4.
  """
  tasks = _augmented(sharding.local_shard(keys, layout), tasks, normalization, config)
  found = outer_loop.value_and_gradient(state.meta_params, backbone_vars, tasks,
                                        backbone=backbone, config=config)
  failed = jax.vmap(hard_tasks.failure_class)(found.query_logits, tasks.query_labels,
                                              tasks.class_ids)
  accuracy = jnp.mean(jnp.argmax(found.query_logits, axis=-1) == tasks.query_labels)
  (gradient, loss, accuracy), failed = sharding.pmean_and_gather(
      (found.gradient, found.loss, accuracy), failed, layout)
  state = outer_loop.apply(state, gradient, config)
  failures = jnp.asarray(failures)
  newly = jnp.where(hard, 0, 1).astype(failures.dtype)
  of_failed = failures.at[failed]
  failures = of_failed.add(newly) if config.failure_weights == 'counts' else of_failed.max(newly)
  return state, failures, {'loss': loss, 'accuracy': accuracy}


def cycle(state: MetaState, root_key: Array, backbone_vars: BackboneVars, pool: ImagePool, *,
          backbone: Backbone, config: MetaTrainConfig, layout: sharding.Layout | None = None
          ) -> tuple[MetaState, dict[str, jax.Array]]:
  """Runs one hard-task cycle: K ordinary tasks, then K' hard tasks of the classes that failed.

  It is a scan over outer steps; the collection of failure classes is part of its carry and starts
  empty in every cycle.

  Args:
    state: before the cycle; donate it.
    root_key: of the run; outer step t uses `task_keys(root_key, t, config)`.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes, or what a network made of them.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices, each of which takes its part of every meta-batch (`sharding.per_device`); None
      for one device.

  Returns:
    (state after the cycle, means of `loss` and `accuracy` over its ordinary tasks, and of
    `hard_loss` and `hard_accuracy` over its hard tasks, with `failure_metrics`, where there are
    any).

  References: Sun et al., CVPR 2019, section 4.3; TPAMI version, algorithm 1.
  """
  num_ordinary = config.num_ordinary_tasks // config.meta_batch
  is_hard = jnp.arange(steps_per_cycle(config)) >= num_ordinary

  def one_step(carry, hard):
    state, failures = carry
    keys = task_keys(root_key, state.step, config)
    tasks = _fetch_tasks(keys, pool, failures, hard, config, layout)
    state, failures, metrics = step_on(
        state, failures, tasks, keys, backbone_vars, pool.normalization, hard, backbone=backbone,
        config=config, layout=layout)
    return (state, failures), metrics

  no_failures = jnp.zeros(pool.class_sizes.shape, jnp.int32)
  (state, failures), metrics = jax.lax.scan(one_step, (state, no_failures), is_hard)
  means = {name: jnp.mean(values[:num_ordinary]) for name, values in metrics.items()}
  if config.num_hard_tasks:
    means |= {f'hard_{name}': jnp.mean(values[num_ordinary:]) for name, values in metrics.items()}
    means |= failure_metrics(failures)
  return state, means


def failure_metrics(failures: Array) -> dict[str, jax.Array]:
  """Summarises in two numbers of which classes the hard tasks of a cycle were made.

  Args:
    failures: int32 [classes], the multiset of failure classes at the end of the cycle.

  Returns:
    `failure_classes`, how many there were, and `most_failed`, the first of those that failed most
    often.
  """
  return {'failure_classes': jnp.sum(jnp.asarray(failures) > 0),
          'most_failed': jnp.argmax(failures)}
