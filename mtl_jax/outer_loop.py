"""The outer loop: one step on what is meta-learned, Φ_S and θ or whatever else `learnable` names, by the query loss."""
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtl_jax import base_learner, hard_tasks, inner_loop, learnable, sharding
from mtl_jax.types import Backbone, BackboneVars, Episode, MetaParams, MetaState


def make_optimizer(config: Any) -> optax.GradientTransformation:
  """Builds Adam with the paper's schedule: halved every `outer_lr_halving` steps, down to a floor.

  Args:
    config: a MetaTrainConfig.

  Returns:
    An optax transformation for MetaParams.
  """
  return optax.adam(optax.exponential_decay(config.outer_lr, config.outer_lr_halving, 0.5, staircase=True,
                                            end_value=min(config.outer_lr_floor, config.outer_lr)))


def query_loss(meta_params: MetaParams, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
               config: Any) -> tuple[jax.Array, jax.Array]:
  """Averages over tasks the query loss after adaptation: L_query(θ'; Θ, Φ_S).

  Args:
    meta_params: Φ_S, θ and whatever else is learned, differentiated.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: a MetaTrainConfig.

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


def step(state: MetaState, backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone, config: Any,
         layout: sharding.Layout | None = None) -> tuple[MetaState, dict[str, jax.Array], jax.Array]:
  """Takes one Adam step on Φ_S and θ, or on whatever else is learned.

      Φ_S <- Φ_S - γ ∇ L_query(θ'; Θ, Φ_S),   θ <- θ - γ ∇ L_query(θ'; Θ, Φ_S)

  Args:
    state: before the step.
    backbone_vars: Θ, frozen.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: the network.
    config: a MetaTrainConfig.
    layout: of the devices, where `tasks` are those of one of several (`devices.on_each`); None: they are all.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, failure class of each task int32 [tasks]); of all tasks, on
    each device.

  References: Sun et al., CVPR 2019, section 4.2, equations 3-4.
  """
  (loss, logits), gradient = _value_and_gradient(state.meta_params, backbone_vars, tasks, backbone, config)
  failed = jax.vmap(hard_tasks.failure_class)(logits, tasks.query_labels, tasks.class_ids)
  accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == tasks.query_labels)
  (gradient, loss, accuracy), failed = sharding.meet((gradient, loss, accuracy), failed, layout)
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state)
  state = MetaState(state.step + 1, optax.apply_updates(state.meta_params, updates), opt_state)
  return state, {'loss': loss, 'accuracy': accuracy}, failed


def _value_and_gradient(meta_params, backbone_vars, tasks, backbone, config):
  """Those of `query_loss`; in parts of the meta-batch whose gradients add up, so that activations are those of one."""
  value_and_grad = jax.value_and_grad(functools.partial(query_loss, backbone=backbone, config=config), has_aux=True)
  num_tasks = tasks.class_ids.shape[0]
  most = config.tasks_at_once or _tasks_at_once(config, num_tasks)
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


def _tasks_at_once(config, num_tasks):
  """One on a CPU, which is no slower there and takes less memory; inner loops over the network see to it themselves."""
  alone = jax.default_backend() == 'cpu' and inner_loop.LOOPS[config.adapts] is not inner_loop.adapt_networks
  return 1 if alone else num_tasks
