"""The outer loop: what is meta-learned, Φ_S and θ or whatever else `configs.Learn` names.

`value_and_gradient` differentiates the query loss of a meta-batch, `apply` takes the step. Between
the two a phase may average over devices.

References: Sun et al., CVPR 2019, section 4.2, equations 3-4.
"""
import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from mtl_jax import base_learner, inner_loop, learnable
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.types import Backbone, BackboneVars, Episode, MetaParams, MetaState


class MetaGradient(NamedTuple):
  """The query loss of a meta-batch, differentiated."""
  gradient: MetaParams     # of the mean query loss
  loss: jax.Array          # float32 [], in nats
  query_logits: jax.Array  # float32 [tasks, N*Q, N]


def make_optimizer(config: MetaTrainConfig) -> optax.GradientTransformation:
  """Builds Adam with the paper's schedule: halved every `outer_lr_halving` steps, to a floor.

  Args:
    config: rate, steps between two halvings, floor.

  Returns:
    An optax transformation for MetaParams.
  """
  floor = min(config.outer_lr_floor, config.outer_lr)
  return optax.adam(optax.exponential_decay(
      config.outer_lr, config.outer_lr_halving, 0.5, staircase=True, end_value=floor))


def query_loss(meta_params: MetaParams, backbone_vars: BackboneVars, tasks: Episode, *,
               backbone: Backbone, config: MetaTrainConfig) -> tuple[jax.Array, jax.Array]:
  """Averages over tasks the query loss after adaptation: L_query(θ'; Θ, Φ_S).

  Args:
    meta_params: Φ_S, θ and whatever else is learned, differentiated.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    config: its `inner` and `learn` are read.

  Returns:
    (mean query loss in nats, query logits [tasks, N*Q, N]).

  References: Sun et al., CVPR 2019, section 4.2, equations 2-4.
  """
  inner = config.inner
  meta_params = learnable.hold(meta_params, config.learn)
  network = learnable.network(backbone_vars, meta_params)
  rates = learnable.inner_rates(meta_params, inner)
  adapt = inner_loop.find(inner.adapts).adapt
  logits = adapt(meta_params.base_learner, network, rates, tasks, backbone=backbone, inner=inner)
  return jnp.mean(jax.vmap(base_learner.cross_entropy)(logits, tasks.query_labels)), logits


def value_and_gradient(meta_params: MetaParams, backbone_vars: BackboneVars, tasks: Episode, *,
                       backbone: Backbone, config: MetaTrainConfig) -> MetaGradient:
  """Computes loss, logits and gradient of `query_loss`, accumulated over microbatches.

  Only the activations of one microbatch are alive at a time.

  Args:
    meta_params: Φ_S, θ and whatever else is learned, differentiated.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    config: `inner`, `learn` and `microbatch`; tasks are divided into equal parts of at most that.

  Returns:
    A MetaGradient over all tasks.
  """
  value_and_grad = jax.value_and_grad(
      functools.partial(query_loss, backbone=backbone, config=config), has_aux=True)
  num_tasks = tasks.class_ids.shape[0]
  most = config.microbatch or _default_microbatch(config.inner, num_tasks)
  size = max(n for n in range(1, num_tasks + 1) if n <= most and num_tasks % n == 0)
  if size == num_tasks:
    (loss, logits), gradient = value_and_grad(meta_params, backbone_vars, tasks)
    return MetaGradient(gradient, loss, logits)

  def add(total, part):
    (loss, logits), gradient = value_and_grad(meta_params, backbone_vars, part)
    return jax.tree.map(jnp.add, total, (loss, gradient)), logits

  parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tasks)
  first = jax.tree.map(lambda x: x[0], parts)
  (loss, _), gradient = jax.eval_shape(value_and_grad, meta_params, backbone_vars, first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, gradient))
  total, logits = jax.lax.scan(add, zeros, parts)
  loss, gradient = jax.tree.map(lambda x: x * (size / num_tasks), total)
  return MetaGradient(gradient, loss, logits.reshape(num_tasks, *logits.shape[2:]))


def apply(state: MetaState, gradient: MetaParams, config: MetaTrainConfig) -> MetaState:
  """Takes one step of Adam.

  Args:
    state: before the step.
    gradient: of the query loss of all tasks.
    config: the schedule of the learning rate.

  Returns:
    The state after the step.
  """
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state)
  meta_params = cast(MetaParams, optax.apply_updates(state.meta_params, updates))
  return MetaState(state.step + 1, meta_params, opt_state)


def _default_microbatch(inner, num_tasks):
  # One task on a CPU, which is as fast there and takes less memory. Inner loops over the network
  # compute their tasks by `batching`, so they get all of them.
  one = jax.default_backend() == 'cpu' and not inner_loop.find(inner.adapts).adapts_network
  return 1 if one else num_tasks
