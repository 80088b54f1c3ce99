"""The inner loop that adapts the network along with θ, as MAML does; or its normalisation alone.

Each task has kernels of its own, and `InnerLoop.batching` says how tasks are computed: which form
is fastest depends on the device and the shapes, and `execution.task_batching` measures it. Where
the affine parameters of normalisation alone are adapted with θ ('film'), the tasks share all
kernels.
"""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, parts
from mtl_jax.configs import InnerLoop
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  BaseLearner,
  Episode,
  NetworkAdaptResult,
  Tree,
)


def adapt_networks(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
                   tasks: Episode, *, backbone: Backbone, inner: InnerLoop,
                   factors: tuple[Tree, BaseLearner] | None = None) -> jax.Array:
  """Adapts weights and θ to each task (`adapts='last_block'` or `'all'`).

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted or meta-learned.
    rates: α, a scalar or one per inner step [steps].
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: settings of the loop; `batching` says how the tasks are computed.
    factors: as in `adapt_network`.

  Returns:
    Query logits [tasks, N*Q, N]; the same by every `batching`, to rounding.

  Raises:
    ValueError: as `adapt_network`.
  """
  def one_task(task, backbone):
    return adapt_network(theta, backbone_vars, task.support, task.support_labels, task.query,
                         rates, backbone=backbone, inner=inner, factors=factors).query_logits

  return over_tasks(one_task, tasks, backbone, inner)


def over_tasks(one_task: Callable[[Episode, Backbone], Any], tasks: Episode, backbone: Backbone,
               inner: InnerLoop) -> Any:
  """Computes tasks that have kernels of their own, in the form that `batching` says.

  Args:
    one_task: pure, (an Episode, the network) -> any tree of arrays.
    tasks: Episodes stacked along axis 0.
    backbone: handed over, by patches where `batching` says so and the network has that form.
    inner: its `batching` is read.

  Returns:
    The results of the tasks, stacked along axis 0.
  """
  if inner.batching == 'loop':
    return jax.lax.map(lambda task: one_task(task, backbone), tasks)
  form = backbone.by_patches if inner.batching == 'patches' else None
  return jax.vmap(lambda task: one_task(task, form or backbone))(tasks)


def adapt_film(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
               tasks: Episode, *, backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts a scale and a shift per channel, and θ, to each task (`adapts='film'`).

      [Φ';θ'] <- [Φ';θ'] - α ∇ L_support(θ'; Θ, Φ'),  starting at [Φ;θ]

  Φ are the gains of Φ_S per channel where the network has them, else the affine parameters of its
  normalisation, else gains that start at 1. Kernels are shared, so every layer stays one
  convolution over the images of all tasks.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted.
    rates: α, a scalar or one per inner step [steps].
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: settings of the loop.

  Returns:
    Query logits [tasks, N*Q, N].

  Raises:
    ValueError: the network has neither gains nor affine parameters, and cannot hold gains.

  References: Requeima et al., NeurIPS 2019, arXiv 1906.07697; Lian et al., NeurIPS 2022.
  """
  # As the kernels are shared, a `vmap` of the tasks keeps one convolution for all of them.
  return adapt_networks(theta, backbone_vars, rates, tasks, backbone=backbone,
                        inner=dataclasses.replace(inner, batching='vmap'))


def adapt_network(theta: BaseLearner, backbone_vars: BackboneVars, support_images: Array,
                  support_labels: Array, query_images: Array, rates: Array | float, *,
                  backbone: Backbone, inner: InnerLoop,
                  factors: tuple[Tree, BaseLearner] | None = None) -> NetworkAdaptResult:
  """Adapts weights and θ to the support set by gradient descent and scores the query set.

      [Θ';θ'] <- [Θ';θ'] - α ∇ (L_support(θ'; Θ') + λ/2 |[Θ';θ'] - [Θ;θ]|²),  starting at [Θ;θ]

  For one episode. Every step is rematerialised, so a gradient through the loop keeps one copy of
  the adapted weights per step, and not the activations.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted or meta-learned already.
    support_images: float32 [n, H, W, C], normalised.
    support_labels: int [n], in [0, N).
    query_images: float32 [m, H, W, C], normalised.
    rates: α, a scalar or one per step [steps].
    backbone: maps images to features [B, d].
    inner: settings; `adapts` 'last_block' or 'all' of the parameters, those of normalisation
      included, or 'film'. 'second' order differentiates through the loop; 'first' holds the changes
      Θ' - Θ, θ' - θ constant. With batch statistics those of the support count in the loop, those
      of the query after it.
    factors: (of the network's parameters, of θ), which the rate of each weight is multiplied by;
      None for 1.

  Returns:
    NetworkAdaptResult; its `params` are those of the whole network after adaptation.

  Raises:
    ValueError: fewer than one step, or a choice that this loop has not.

  References: Finn et al., ICML 2017; Sun et al., CVPR 2019, section 5.3.
  """
  _check_network_loop(inner)
  start = (_adapted_part(backbone_vars.params, backbone, inner), theta)
  first = inner.gradient_order == 'first'
  in_loop, start_of_loop = backbone_vars, start
  if first:
    in_loop, start_of_loop, rates = jax.lax.stop_gradient((backbone_vars, start, rates))

  of_adapted = None if factors is None else (
      _adapted_part(factors[0], backbone, inner), factors[1])

  def scores(variables, adapted, images):
    variables = variables._replace(params=parts.merge(variables.params, adapted[0]))
    features = backbone.features(variables, images, batch_stats_mode=inner.batch_stats_mode)
    return base_learner.logits(adapted[1], features)

  def support_loss(adapted):
    return base_learner.cross_entropy(scores(in_loop, adapted, support_images), support_labels)

  @jax.checkpoint
  def step(adapted, rate):
    loss, gradient = jax.value_and_grad(support_loss)(adapted)
    downhill = jax.tree.map(lambda p, g, p0: g + inner.regularization * (p - p0), adapted, gradient,
                       start_of_loop)
    downhill = downhill if of_adapted is None else jax.tree.map(jnp.multiply, of_adapted, downhill)
    return jax.tree.map(lambda p, d: p - rate * d, adapted, downhill), loss

  rates = base_learner.rates_per_step(rates, inner.steps, jnp.result_type(support_images))
  adapted, losses = jax.lax.scan(step, start_of_loop, rates)
  if first:  # the value of `adapted`, the gradient of `start`
    adapted = jax.tree.map(lambda p0, p: p0 + jax.lax.stop_gradient(p - p0), start, adapted)
  query_logits = scores(backbone_vars, adapted, query_images)
  params = parts.merge(backbone_vars.params, adapted[0])
  return NetworkAdaptResult(params, adapted[1], query_logits, losses)


def _adapted_part(params, backbone, inner):
  if inner.adapts == 'film':
    return parts.film_part(params, backbone)
  return parts.within(params, None if inner.adapts == 'all' else backbone.last_block)


def _check_network_loop(inner):
  if inner.steps < 1:
    raise ValueError(f'expected num_steps of at least 1, got {inner.steps}')
  if inner.adapts not in ('last_block', 'all', 'film') or inner.gradient_order == 'implicit':
    raise ValueError("expected adapts 'last_block', 'all' or 'film' and gradient_order 'first' or "
                     f"'second', got {inner.adapts!r} and {inner.gradient_order!r}")
