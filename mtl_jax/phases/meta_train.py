"""Phase 2, meta-training: the outer loop over Φ_S and θ, on ordinary tasks and on the hard tasks they give rise to."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import augment, base_learner, episodes, hard_tasks, scale_shift
from mtl_jax.types import Backbone, BackboneVars, Episode, ImagePool, MetaParams, MetaState


class MetaTrainConfig(NamedTuple):
  """Settings of meta-training; the defaults are the paper's, save for running statistics and augmented images."""
  steps: int = 1000              # outer steps in all
  way: int = 5
  shot: int = 1
  query: int = 15
  meta_batch: int = 2            # tasks per outer step
  ordinary_tasks: int = 20       # K, ordinary tasks of one cycle
  hard_tasks: int = 10           # K', hard tasks of one cycle; 0 switches them off
  inner_lr: float = 0.01
  inner_steps: int = 20
  gradient_order: str = 'second'
  outer_lr: float = 1e-3
  outer_lr_halving: int = 1000   # outer steps after which the rate is halved, again and again
  outer_lr_floor: float = 1e-4
  learn: str = 'ss'              # 'ss': Φ_S and θ; 'ss_last': Φ_S of the last block and θ; 'head': θ alone (FT θ)
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
    ValueError: K or K' is no multiple of the meta-batch, or another setting is out of range.
  """
  for name, least in (('meta_batch', 1), ('ordinary_tasks', config.meta_batch), ('hard_tasks', 0)):
    value = getattr(config, name)
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
    if value % config.meta_batch:
      raise ValueError(f'expected {name} to be a multiple of meta_batch = {config.meta_batch}, got {value}')
  if config.learn not in ('ss', 'ss_last', 'head'):
    raise ValueError(f"expected learn to be 'ss', 'ss_last' or 'head', got {config.learn!r}")
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


def init(backbone: Backbone, backbone_vars: BackboneVars, config: MetaTrainConfig) -> MetaState:
  """Makes the state before the first outer step: Φ_S the identity, θ zero.

  Args:
    backbone: the network.
    backbone_vars: Θ, pre-trained.
    config: settings.

  Returns:
    A MetaState at step 0; with `learn='head'` its Φ_S is the empty tree.
  """
  layers = {'ss': backbone.scaled_layers, 'ss_last': backbone.last_block, 'head': ()}[config.learn]
  meta_params = MetaParams(scale_shift.init(backbone_vars.params, layers),
                           base_learner.init(backbone.feature_dim, config.way))
  return MetaState(jnp.zeros((), jnp.int32), meta_params, make_optimizer(config).init(meta_params))


def encode(scale_shift_tree, backbone_vars: BackboneVars, images: jax.Array, *, backbone: Backbone,
           batch_stats_mode: str) -> jax.Array:
  """Extracts the features of several tasks under one Φ_S.

  With running statistics an image's features depend on that image alone, so all tasks go through as one batch. With
  batch statistics each task is normalised apart. A `vmap` of the convolutions would take the gradient of every task's
  kernel apart from the others, which is slow on CPU.

  Args:
    scale_shift_tree: Φ_S.
    backbone_vars: Θ, frozen.
    images: float32 [tasks, n, H, W, C], normalised.
    backbone: the network.
    batch_stats_mode: 'running' or 'batch'.

  Returns:
    float32 [tasks, n, d].
  """
  modulated = backbone_vars._replace(params=scale_shift.modulate(backbone_vars.params, scale_shift_tree))
  if batch_stats_mode == 'batch':
    return jnp.stack([backbone.features(modulated, task, batch_stats_mode='batch') for task in images])
  flat = backbone.features(modulated, images.reshape(-1, *images.shape[2:]), batch_stats_mode='running')
  return flat.reshape(*images.shape[:2], -1)


def outer_loss(meta_params: MetaParams, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
               config: MetaTrainConfig) -> tuple[jax.Array, jax.Array]:
  """Averages over tasks the query loss after adaptation: L_query(θ'; Θ, Φ_S).

  Args:
    meta_params: Φ_S and θ, differentiated.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: settings.

  Returns:
    (mean query loss in nats, query logits [tasks, N*Q, N]).

  References: Sun et al., CVPR 2019, section 4.2, equations 2-4.
  """
  options = {'backbone': backbone, 'batch_stats_mode': config.batch_stats_mode}
  num_support = tasks.support_images.shape[1]
  if config.batch_stats_mode == 'running':
    images = jnp.concatenate([tasks.support_images, tasks.query_images], axis=1)
    features = encode(meta_params.scale_shift, backbone_vars, images, **options)
    support, query = features[:, :num_support], features[:, num_support:]
  else:
    support = encode(meta_params.scale_shift, backbone_vars, tasks.support_images, **options)
    query = encode(meta_params.scale_shift, backbone_vars, tasks.query_images, **options)

  def one_task(support, support_labels, query, query_labels):
    adapted = base_learner.adapt(meta_params.base_learner, support, support_labels, query, inner_lr=config.inner_lr,
                                 num_steps=config.inner_steps, gradient_order=config.gradient_order)
    return base_learner.cross_entropy(adapted.query_logits, query_labels), adapted.query_logits

  losses, logits = jax.vmap(one_task)(support, tasks.support_labels, query, tasks.query_labels)
  return jnp.mean(losses), logits


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
  def one_task(key):
    class_key, image_key, support_key, query_key = jax.random.split(key, 4)
    class_ids = jax.lax.cond(hard, lambda: hard_tasks.draw_classes(class_key, failures, config.way),
                             lambda: episodes.draw_classes(class_key, failures.shape[0], config.way))
    task = episodes.sample(image_key, pool, way=config.way, shot=config.shot, query=config.query, class_ids=class_ids)
    support, query = (
        augment.normalize(augment.crop_and_flip(k, x, padding=config.crop_padding, flip=config.flip), mean, std)
        for k, x in ((support_key, task.support_images), (query_key, task.query_images)))
    return task._replace(support_images=support, query_images=query)

  return jax.vmap(one_task)(jax.random.split(key, config.meta_batch))


def outer_step(state: MetaState, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
               config: MetaTrainConfig) -> tuple[MetaState, dict[str, jax.Array], jax.Array]:
  """Takes one Adam step on Φ_S and θ.

      Φ_S <- Φ_S - γ ∇ L_query(θ'; Θ, Φ_S),   θ <- θ - γ ∇ L_query(θ'; Θ, Φ_S)

  Args:
    state: before the step.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: settings.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, failure class of each task int32 [tasks]).

  References: Sun et al., CVPR 2019, section 4.2, equations 3-4.
  """
  (loss, logits), gradient = jax.value_and_grad(outer_loss, has_aux=True)(
      state.meta_params, backbone_vars, tasks, backbone=backbone, config=config)
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state)
  failed = jax.vmap(hard_tasks.failure_class)(logits, tasks.query_labels, tasks.class_ids)
  accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == tasks.query_labels)
  state = MetaState(state.step + 1, optax.apply_updates(state.meta_params, updates), opt_state)
  return state, {'loss': loss, 'accuracy': accuracy}, failed


def cycle(state: MetaState, root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
          std: jax.Array, *, backbone: Backbone, config: MetaTrainConfig) -> tuple[MetaState, dict[str, jax.Array]]:
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

  Returns:
    (state after the cycle, means of `loss` and `accuracy` over its ordinary tasks, and of `hard_loss` and
    `hard_accuracy` over its hard tasks where there are any).

  References: Sun et al., CVPR 2019, section 4.3; TPAMI version, algorithm 1.
  """
  num_ordinary = config.ordinary_tasks // config.meta_batch
  hard = jnp.arange(steps_per_cycle(config)) >= num_ordinary

  def one(carry, hard):
    state, failures = carry
    tasks = draw_tasks(jax.random.fold_in(root_key, state.step), pool, mean, std, failures, hard, config=config)
    state, metrics, failed = outer_step(state, backbone_vars, tasks, backbone=backbone, config=config)
    return (state, failures.at[failed].add(jnp.where(hard, 0, 1))), metrics

  no_failures = jnp.zeros(pool.class_sizes.shape, jnp.int32)
  (state, _), metrics = jax.lax.scan(one, (state, no_failures), hard)
  means = {name: jnp.mean(values[:num_ordinary]) for name, values in metrics.items()}
  if config.hard_tasks:
    means |= {f'hard_{name}': jnp.mean(values[num_ordinary:]) for name, values in metrics.items()}
  return state, means
