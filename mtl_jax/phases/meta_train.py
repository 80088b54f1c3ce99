"""Phase 2, meta-training: the outer loop over Φ_S and θ, on ordinary tasks and on the hard tasks they give rise to.

What the outer loop learns is `mtl_jax.learnable`'s business; the default is the paper's: Φ_S of all layers, and θ.
"""
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import augment, episodes, inner_loop, learnable, outer_loop, sharding
from mtl_jax.types import Backbone, BackboneVars, Episode, ImagePool, MetaState


class MetaTrainConfig(NamedTuple):
  """Settings of meta-training; the defaults are the paper's, save for running statistics and augmented images."""
  steps: int = 1000              # outer steps in all
  way: int = 5
  shot: int = 1
  query: int = 15
  meta_batch: int = 2            # tasks per outer step
  tasks_at_once: int = 0         # how many of these, at most, are in memory at a time on a device; 0: as suits it
  ordinary_tasks: int = 20       # K, ordinary tasks of one cycle
  hard_tasks: int = 10           # K', hard tasks of one cycle; 0 switches them off
  inner_lr: float = 0.01
  inner_steps: int = 20
  gradient_order: str = 'second'
  outer_lr: float = 1e-3
  outer_lr_halving: int = 1000   # outer steps after which the rate is halved, again and again
  outer_lr_floor: float = 1e-4
  learn: str = 'ss'              # beside θ: 'ss' Φ_S, 'ft' the weights, 'head' nothing; 'none': not even θ
  scope: str = 'all'             # of 'ss' and 'ft': 'all' layers, or those of the 'last_block'
  learn_norm: bool = False       # also the affine parameters of normalisation within `scope`
  learn_classifier: bool = True  # θ; else it starts from zero in every task
  learn_inner_lr: str = 'fixed'  # 'scalar': learn α; 'per_step': learn one for each inner step
  learn_temperature: bool = False  # of L2-normalised features
  scaled: str = 'published'      # layers of Φ_S: those of the paper, or 'every' one with a kernel
  replace_bias: bool = False     # shifts take the place of the biases
  adapts: str = 'head'           # what the inner loop adapts beside θ: nothing, the 'last_block', or 'all'
  over_tasks: str = 'loop'       # how an inner loop over the network goes over tasks, see inner_loop.over_tasks
  regularization: float = 0.0    # λ, pull of the inner loop towards its start
  batch_stats_mode: str = 'running'
  crop_padding: int = 4          # pixels
  flip: bool = True


def steps_per_cycle(config: MetaTrainConfig) -> int:
  """Counts the outer steps of one cycle: (K + K') / meta-batch.

  Args:
    config: settings.

  Returns:
    A number of outer steps.

  Raises:
    ValueError: K or K' is no multiple of the meta-batch, or a number is out of range.
  """
  for name, least in (('meta_batch', 1), ('ordinary_tasks', config.meta_batch), ('hard_tasks', 0),
                      ('tasks_at_once', 0)):
    value = getattr(config, name)
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
    if name.endswith('_tasks') and value % config.meta_batch:
      raise ValueError(f'expected {name} to be a multiple of meta_batch = {config.meta_batch}, got {value}')
  return (config.ordinary_tasks + config.hard_tasks) // config.meta_batch


def check(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig) -> None:
  """Refuses settings that make no sense.

  Args:
    backbone: the network.
    backbone_vars: Θ, or its shapes.
    config: settings.

  Raises:
    ValueError: as `steps_per_cycle` and `learnable.check` say.
  """
  steps_per_cycle(config)
  if config.adapts not in inner_loop.LOOPS:
    raise ValueError(f'expected adapts to be one of {", ".join(inner_loop.LOOPS)}, got {config.adapts!r}')
  if config.learn_inner_lr != 'fixed' and not config.inner_lr > 0:
    raise ValueError(f'expected inner_lr above 0 to learn it from there, got {config.inner_lr}')
  learnable.check(backbone, backbone_vars.params, learn=config.learn, scope=config.scope, learn_norm=config.learn_norm,
                  learn_classifier=config.learn_classifier, learn_inner_lr=config.learn_inner_lr, adapts=config.adapts,
                  gradient_order=config.gradient_order, regularization=config.regularization, scaled=config.scaled,
                  replace_bias=config.replace_bias, learn_temperature=config.learn_temperature)
  approach = config.inner_lr * config.inner_steps * config.regularization  # what is left of the way is exp(-this)
  if config.gradient_order == 'implicit' and approach < 3:
    warnings.warn(f'gradient_order=implicit is exact at the minimum of the inner loop, and inner_lr * inner_steps * '
                  f'regularization = {approach:.2g} stops short of it; aim at 3 or more', stacklevel=2)


def init(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig) -> MetaState:
  """Makes the state before the first outer step: Φ_S the identity, learned weights those of Θ, θ zero.

  Args:
    backbone: the network.
    backbone_vars: Θ, pre-trained.
    config: settings.

  Returns:
    A MetaState at step 0; what is not learned is an empty tree in it.
  """
  meta_params = learnable.init(
      backbone, backbone_vars, way=config.way, learn=config.learn, scope=config.scope, learn_norm=config.learn_norm,
      learn_inner_lr=config.learn_inner_lr, inner_lr=config.inner_lr, inner_steps=config.inner_steps,
      scaled=config.scaled, replace_bias=config.replace_bias, learn_temperature=config.learn_temperature)
  return MetaState(jnp.zeros((), jnp.int32), meta_params, outer_loop.make_optimizer(config).init(meta_params))


def draw_tasks(key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, failures: jax.Array,
               hard: jax.Array, *, config: MetaTrainConfig) -> Episode:
  """Draws one meta-batch of ordinary or hard tasks, with fresh images, augmented and normalised.

  Args:
    key: consumed.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    failures: int32 [classes], the multiset of failure classes.
    hard: bool [], draw the classes from `failures`.
    config: settings.

  Returns:
    Episodes stacked along axis 0 [meta_batch, ...], images float32.
  """
  return _augmented(key, _draw_images(key, pool, failures, hard, config), mean, std, config)


def _draw_images(key, pool, failures, hard, config, layout=None):
  # Every device draws all tasks, which are numbers only, and fetches the images of its own.
  drawn = episodes.draw_meta_batch(key, pool, failures, hard, tasks=config.meta_batch, way=config.way,
                                   shot=config.shot, query=config.query)
  return jax.vmap(lambda task: episodes.gather(pool.images, task, shot=config.shot, layout=layout))(
      sharding.own(drawn, layout))


def _augmented(key, tasks, mean, std, config, layout=None):
  return augment.augment_tasks(key, tasks, mean, std, padding=config.crop_padding, flip=config.flip, layout=layout)


def step_on(state: MetaState, failures: jax.Array, tasks: Episode, root_key: jax.Array, backbone_vars: BackboneVars,
            mean: jax.Array, std: jax.Array, hard: jax.Array, *, backbone: Backbone, config: MetaTrainConfig,
            layout: sharding.Layout | None = None) -> tuple[MetaState, jax.Array, dict[str, jax.Array]]:
  """Takes one outer step of a cycle on tasks that were drawn before; other arguments as `cycle`.

  Args:
    failures: int32 [classes], the multiset of failure classes of this cycle.
    tasks: Episodes stacked along axis 0, with uint8 images, augmented and normalised here.
    hard: bool [], whether these tasks are hard; then their failures do not count.

  Returns:
    (state after the step, failures with those of these tasks, metrics `loss` and `accuracy`).
  """
  tasks = _augmented(jax.random.fold_in(root_key, state.step), tasks, mean, std, config, layout)
  state, metrics, failed = outer_loop.step(state, backbone_vars, tasks, backbone=backbone, config=config, layout=layout)
  return state, failures.at[failed].add(jnp.where(hard, 0, 1)), metrics


def cycle(state: MetaState, root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
          std: jax.Array, *, backbone: Backbone, config: MetaTrainConfig,
          layout: sharding.Layout | None = None) -> tuple[MetaState, dict[str, jax.Array]]:
  """Runs one hard-task cycle: K ordinary tasks, then K' hard tasks made of the classes that failed in them.

  One scan over outer steps; the collection of failure classes is its carry and starts empty in every cycle.

  Args:
    state: before the cycle; donate it.
    root_key: of the run; outer step t uses `fold_in(root_key, t)`.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices, each of which takes its part of every meta-batch (`devices.on_each`); None: one device.

  Returns:
    (state after the cycle, means of `loss` and `accuracy` over its ordinary tasks, and of `hard_loss` and
    `hard_accuracy` over its hard tasks where there are any).

  References: Sun et al., CVPR 2019, section 4.3; TPAMI version, algorithm 1.
  """
  num_ordinary = config.ordinary_tasks // config.meta_batch
  hard = jnp.arange(steps_per_cycle(config)) >= num_ordinary

  def one(carry, hard):
    state, failures = carry
    tasks = _draw_images(jax.random.fold_in(root_key, state.step), pool, failures, hard, config, layout)
    state, failures, metrics = step_on(state, failures, tasks, root_key, backbone_vars, mean, std, hard,
                                       backbone=backbone, config=config, layout=layout)
    return (state, failures), metrics

  no_failures = jnp.zeros(pool.class_sizes.shape, jnp.int32)
  (state, _), metrics = jax.lax.scan(one, (state, no_failures), hard)
  means = {name: jnp.mean(values[:num_ordinary]) for name, values in metrics.items()}
  if config.hard_tasks:
    means |= {f'hard_{name}': jnp.mean(values[num_ordinary:]) for name, values in metrics.items()}
  return state, means
