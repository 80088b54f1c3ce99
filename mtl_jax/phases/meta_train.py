"""Phase 2, meta-training: the outer loop over Φ_S and θ, on ordinary tasks and on the hard tasks they give rise to.

What the outer loop learns is `mtl_jax.learnable`'s business; the default is the paper's: Φ_S of all layers, and θ.
"""
import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import augment, base_learner, devices, episodes, hard_tasks, inner_loop, learnable
from mtl_jax.types import Backbone, BackboneVars, Episode, ImagePool, MetaParams, MetaState


class MetaTrainConfig(NamedTuple):
  """Settings of meta-training; the defaults are the paper's, save for running statistics and augmented images."""
  steps: int = 1000              # outer steps in all
  way: int = 5
  shot: int = 1
  query: int = 15
  meta_batch: int = 2            # tasks per outer step
  tasks_at_once: int = 0         # how many of these, at most, are in memory at a time on a device; 0: all
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


def make_optimizer(config: MetaTrainConfig) -> optax.GradientTransformation:
  """Builds Adam with the paper's schedule: halved every `outer_lr_halving` steps, down to a floor.

  Args:
    config: settings.

  Returns:
    An optax transformation for MetaParams.
  """
  return optax.adam(optax.exponential_decay(config.outer_lr, config.outer_lr_halving, 0.5, staircase=True,
                                            end_value=min(config.outer_lr_floor, config.outer_lr)))


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
  return MetaState(jnp.zeros((), jnp.int32), meta_params, make_optimizer(config).init(meta_params))


def outer_loss(meta_params: MetaParams, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
               config: MetaTrainConfig) -> tuple[jax.Array, jax.Array]:
  """Averages over tasks the query loss after adaptation: L_query(θ'; Θ, Φ_S).

  Args:
    meta_params: Φ_S, θ and whatever else is learned, differentiated.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: settings.

  Returns:
    (mean query loss in nats, query logits [tasks, N*Q, N]).

  References: Sun et al., CVPR 2019, section 4.2, equations 2-4.
  """
  meta_params = learnable.hold(meta_params, learn_classifier=config.learn_classifier)
  adapt = inner_loop.LOOPS[config.adapts]
  logits = adapt(meta_params.base_learner, learnable.network(backbone_vars, meta_params),
                 learnable.inner_rates(meta_params, config.inner_lr, config.inner_steps), tasks, backbone=backbone,
                 config=config)
  return jnp.mean(jax.vmap(base_learner.cross_entropy)(logits, tasks.query_labels)), logits


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
      devices.own(drawn, layout))


def _augmented(key, tasks, mean, std, config, layout=None):
  return augment.augment_tasks(key, tasks, mean, std, padding=config.crop_padding, flip=config.flip, layout=layout)


def outer_step(state: MetaState, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
               config: MetaTrainConfig,
               layout: devices.Layout | None = None) -> tuple[MetaState, dict[str, jax.Array], jax.Array]:
  """Takes one Adam step on Φ_S and θ, or on whatever else is learned.

      Φ_S <- Φ_S - γ ∇ L_query(θ'; Θ, Φ_S),   θ <- θ - γ ∇ L_query(θ'; Θ, Φ_S)

  Args:
    state: before the step.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: settings.
    layout: of the devices, where `tasks` are those of one of several (`devices.on_each`); None: they are all.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, failure class of each task int32 [tasks]); of all tasks, on
    each device.

  References: Sun et al., CVPR 2019, section 4.2, equations 3-4.
  """
  (loss, logits), gradient = _value_and_gradient(state.meta_params, backbone_vars, tasks, backbone, config)
  failed = jax.vmap(hard_tasks.failure_class)(logits, tasks.query_labels, tasks.class_ids)
  accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == tasks.query_labels)
  (gradient, loss, accuracy), failed = devices.meet((gradient, loss, accuracy), failed, layout)
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state)
  state = MetaState(state.step + 1, optax.apply_updates(state.meta_params, updates), opt_state)
  return state, {'loss': loss, 'accuracy': accuracy}, failed


def _value_and_gradient(meta_params, backbone_vars, tasks, backbone, config):
  """Those of `outer_loss`; in parts of the meta-batch whose gradients add up, so that activations are those of one."""
  value_and_grad = jax.value_and_grad(functools.partial(outer_loss, backbone=backbone, config=config), has_aux=True)
  num_tasks = tasks.class_ids.shape[0]
  most = config.tasks_at_once or num_tasks
  at_once = max(n for n in range(1, num_tasks + 1) if n <= most and num_tasks % n == 0)
  if at_once == num_tasks:
    return value_and_grad(meta_params, backbone_vars, tasks)

  def add(total, part):
    (loss, logits), gradient = value_and_grad(meta_params, backbone_vars, part)
    return jax.tree.map(jnp.add, total, (loss, gradient)), logits

  parts = jax.tree.map(lambda x: x.reshape(-1, at_once, *x.shape[1:]), tasks)
  (loss, _), gradient = jax.eval_shape(value_and_grad, meta_params, backbone_vars, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, gradient))
  (loss, gradient), logits = jax.lax.scan(add, zeros, parts)
  loss, gradient = jax.tree.map(lambda x: x * (at_once / num_tasks), (loss, gradient))
  return (loss, logits.reshape(num_tasks, *logits.shape[2:])), gradient


def step_on(state: MetaState, failures: jax.Array, tasks: Episode, root_key: jax.Array, backbone_vars: BackboneVars,
            mean: jax.Array, std: jax.Array, hard: jax.Array, *, backbone: Backbone, config: MetaTrainConfig,
            layout: devices.Layout | None = None) -> tuple[MetaState, jax.Array, dict[str, jax.Array]]:
  """Takes one outer step of a cycle on tasks that were drawn before; other arguments as `cycle`.

  Args:
    failures: int32 [classes], the multiset of failure classes of this cycle.
    tasks: Episodes stacked along axis 0, with uint8 images, augmented and normalised here.
    hard: bool [], whether these tasks are hard; then their failures do not count.

  Returns:
    (state after the step, failures with those of these tasks, metrics `loss` and `accuracy`).
  """
  tasks = _augmented(jax.random.fold_in(root_key, state.step), tasks, mean, std, config, layout)
  state, metrics, failed = outer_step(state, backbone_vars, tasks, backbone=backbone, config=config, layout=layout)
  return state, failures.at[failed].add(jnp.where(hard, 0, 1)), metrics


def cycle(state: MetaState, root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
          std: jax.Array, *, backbone: Backbone, config: MetaTrainConfig,
          layout: devices.Layout | None = None) -> tuple[MetaState, dict[str, jax.Array]]:
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
