"""The inner loop over a meta-batch of tasks: of θ alone over features, or of the network along with θ as MAML has it.

Where θ alone is adapted, all images of the meta-batch pass the network once and `base_learner.adapt` does the rest in
dual form. Where the network is adapted, each task has kernels of its own, and how to go over the tasks is a choice
(`over_tasks`): which way is fastest depends on the device and the shapes, and `mtl_jax.execution.task_batching` measures it.
"""
import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, learnable
from mtl_jax.backbones import layers
from mtl_jax.types import Backbone, BackboneVars, BaseLearner, Episode, NetworkAdaptResult

WAYS = ('loop', 'vmap', 'patches')  # of going over tasks


def encode(backbone_vars: BackboneVars, images: jax.Array, *, backbone: Backbone, batch_stats_mode: str) -> jax.Array:
  """Extracts the features of several tasks by one network.

  With running statistics an image's features depend on that image alone, so all tasks go through as one batch. With
  batch statistics each task is normalised apart. A `vmap` of the convolutions would take the gradient of every task's
  kernel apart from the others, which is slow on CPU.

  Args:
    backbone_vars: Θ, scaled and shifted.
    images: float32 [tasks, n, H, W, C], normalised.
    backbone: the network.
    batch_stats_mode: 'running' or 'batch'.

  Returns:
    float32 [tasks, n, d].
  """
  if batch_stats_mode == 'batch':
    return jnp.stack([backbone.features(backbone_vars, task, batch_stats_mode='batch') for task in images])
  flat = backbone.features(backbone_vars, images.reshape(-1, *images.shape[2:]), batch_stats_mode='running')
  return flat.reshape(*images.shape[:2], -1)


def adapt_heads(theta: BaseLearner, backbone_vars: BackboneVars, rates: jax.Array | float, tasks: Episode, *,
                backbone: Backbone, config: Any) -> jax.Array:
  """Adapts θ to each task, over features that are computed once (`adapts='head'`).

  Args:
    theta: θ.
    backbone_vars: Θ, scaled and shifted.
    rates: α, a scalar or one per inner step.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: a MetaTrainConfig.

  Returns:
    Query logits [tasks, N*Q, N].
  """
  options = {'backbone': backbone, 'batch_stats_mode': config.batch_stats_mode}
  num_support = tasks.support_images.shape[1]
  if config.batch_stats_mode == 'running':
    features = encode(backbone_vars, jnp.concatenate([tasks.support_images, tasks.query_images], axis=1), **options)
    support, query = features[:, :num_support], features[:, num_support:]
  else:
    support = encode(backbone_vars, tasks.support_images, **options)
    query = encode(backbone_vars, tasks.query_images, **options)

  def one_task(support, support_labels, query):
    return base_learner.adapt(theta, support, support_labels, query, inner_lr=rates, num_steps=config.inner_steps,
                              gradient_order=config.gradient_order, regularization=config.regularization).query_logits

  return jax.vmap(one_task)(support, tasks.support_labels, query)


def adapt_networks(theta: BaseLearner, backbone_vars: BackboneVars, rates: jax.Array | float, tasks: Episode, *,
                   backbone: Backbone, config: Any) -> jax.Array:
  """Adapts weights and θ to each task (`adapts='last_block'` or `'all'`), in the way that `config.over_tasks` names.

  Args:
    theta: θ.
    backbone_vars: Θ, scaled and shifted or meta-learned.
    rates: α, a scalar or one per inner step.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: a MetaTrainConfig.

  Returns:
    Query logits [tasks, N*Q, N].
  """
  def one_task(task):
    return adapt_network(
        theta, backbone_vars, task.support_images, task.support_labels, task.query_images, backbone=backbone,
        adapts=config.adapts, inner_lr=rates, num_steps=config.inner_steps, gradient_order=config.gradient_order,
        regularization=config.regularization, batch_stats_mode=config.batch_stats_mode).query_logits

  return over_tasks(one_task, tasks, config.over_tasks)


def over_tasks(one_task: Callable, tasks: Episode, way: str) -> jax.Array:
  """Applies a function to each task of a meta-batch.

  Args:
    one_task: of one Episode.
    tasks: Episodes stacked along axis 0.
    way: 'loop', one after the other; 'vmap', all at once, where kernels that differ between tasks make convolutions
      grouped ones; 'patches', all at once, with 3x3 convolutions as batched products of patches with the kernels.

  Returns:
    What it gives, stacked; the same to rounding.

  Raises:
    ValueError: an unknown way.
  """
  if way not in WAYS:
    raise ValueError(f'expected over_tasks to be one of {", ".join(WAYS)}, got {way!r}')
  if way == 'loop':
    return jax.lax.map(one_task, tasks)
  with layers.by_patches() if way == 'patches' else contextlib.nullcontext():
    return jax.vmap(one_task)(tasks)


def adapt_network(theta: BaseLearner, backbone_vars: BackboneVars, support_images: jax.Array,
                  support_labels: jax.Array, query_images: jax.Array, *, backbone: Backbone, adapts: str,
                  inner_lr: jax.Array | float, num_steps: int, gradient_order: str = 'second',
                  regularization: float = 0.0, batch_stats_mode: str = 'running') -> NetworkAdaptResult:
  """Adapts weights and θ to the support set by gradient descent and scores the query set.

      [Θ';θ'] <- [Θ';θ'] - α ∇ (L_support(θ'; Θ') + λ/2 |[Θ';θ'] - [Θ;θ]|²),   starting at [Θ;θ]

  For one episode. Every step is rematerialised, so a gradient through the loop keeps one copy of the adapted weights
  per step, and not the activations.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted or meta-learned already.
    support_images: float32 [n, H, W, C], normalised.
    support_labels: int [n], in [0, N).
    query_images: float32 [m, H, W, C], normalised.
    backbone: the network.
    adapts: 'last_block' or 'all' of its parameters, those of normalisation included.
    inner_lr: α, a scalar or one per step [num_steps].
    num_steps: T, at least 1.
    gradient_order: 'second' differentiates through the loop; 'first' holds the changes Θ' - Θ, θ' - θ constant.
    regularization: λ.
    batch_stats_mode: 'running', or 'batch': statistics of the support in the loop, of the query after it.

  Returns:
    NetworkAdaptResult; its `params` are those of the whole network after adaptation.

  Raises:
    ValueError: fewer than one step, or an unknown choice.

  References: Finn et al., ICML 2017; Sun et al., CVPR 2019, section 5.3.
  """
  if num_steps < 1:
    raise ValueError(f'expected num_steps of at least 1, got {num_steps}')
  if adapts not in ('last_block', 'all') or gradient_order not in ('first', 'second'):
    raise ValueError("expected adapts 'last_block' or 'all' and gradient_order 'first' or 'second', "
                     f'got {adapts!r} and {gradient_order!r}')
  blocks = None if adapts == 'all' else backbone.last_block
  start = (learnable.within(backbone_vars.params, blocks), theta)
  first = gradient_order == 'first'
  in_loop, start_of_loop = jax.lax.stop_gradient((backbone_vars, start)) if first else (backbone_vars, start)

  def scores(variables, adapted, images):
    variables = variables._replace(params=learnable.merge(variables.params, adapted[0]))
    features = backbone.features(variables, images, batch_stats_mode=batch_stats_mode)
    return base_learner.logits(adapted[1], features)

  def support_loss(adapted):
    return base_learner.cross_entropy(scores(in_loop, adapted, support_images), support_labels)

  @jax.checkpoint
  def step(adapted, rate):
    loss, gradient = jax.value_and_grad(support_loss)(adapted)
    return jax.tree.map(lambda p, g, p0: p - rate * (g + regularization * (p - p0)), adapted, gradient,
                        start_of_loop), loss

  rates = base_learner.rates_per_step(inner_lr, num_steps, jnp.result_type(support_images))
  adapted, losses = jax.lax.scan(step, start_of_loop, jax.lax.stop_gradient(rates) if first else rates)
  if first:  # the value of `adapted`, the gradient of `start`
    adapted = jax.tree.map(lambda p0, p: p0 + jax.lax.stop_gradient(p - p0), start, adapted)
  query_logits = scores(backbone_vars, adapted, query_images)
  params = learnable.merge(backbone_vars.params, adapted[0])
  return NetworkAdaptResult(params, adapted[1], query_logits, losses)


# What `adapts` may name; `register` adds to it.
LOOPS: dict[str, Callable] = {'head': adapt_heads, 'last_block': adapt_networks, 'all': adapt_networks}


def register(name: str, adapt: Callable) -> None:
  """Makes an inner loop of your own known, so that `MetaTrainConfig(adapts=name)` and a meta-test take it.

  Args:
    name: any that is not taken.
    adapt: pure, called as `adapt_heads` is: (θ, backbone_vars, rates, tasks, *, backbone, config) -> query logits
      [tasks, N*Q, N]. `tasks` are Episodes stacked along axis 0 with normalised images; meta-test gives one at a time.

  Raises:
    ValueError: the name is taken.
  """
  if name in LOOPS:
    raise ValueError(f'expected a name for the inner loop other than {", ".join(LOOPS)}, got {name!r}')
  LOOPS[name] = adapt
