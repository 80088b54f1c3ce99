"""Reptile: the start moves to where gradient descent on tasks ends; no loop is differentiated.

    w' = T steps of gradient descent on the images of a task, from w
    w <- w + ε (w' - w)

The outer loop takes w - w' for a gradient, as section 2 of the paper allows with Adam.
"""
import dataclasses

import jax
import jax.numpy as jnp

from mtl_jax import network_loop
from mtl_jax.configs import InnerLoop
from mtl_jax.types import Array, Backbone, BackboneVars, BaseLearner, Episode


def adapt(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float, tasks: Episode, *,
          backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts network and base-learner as MAML does; their gradient is the way that adapting went.

  The query set is scored after adapting to the support set. The way is that of adapting to both,
  as the authors train with more images of a class than they test with. Whatever the outer loss is
  of the logits, its gradient is replaced.

  Args:
    theta, backbone_vars, rates, tasks, backbone: as in `inner_loop.adapt_heads`.
    inner: settings.

  Returns:
    Query logits [tasks, N*Q, N].

  References: Nichol, Achiam & Schulman, arXiv 1803.02999, algorithms 1 and 2.
  """
  inner = dataclasses.replace(inner, adapts='all', gradient_order='first')
  both = Episode(jnp.concatenate([tasks.support, tasks.query], axis=1),
                 jnp.concatenate([tasks.support_labels, tasks.query_labels], axis=1),
                 tasks.query, tasks.query_labels, tasks.class_ids)
  frozen, rates, tasks, both = jax.lax.stop_gradient((backbone_vars, rates, tasks, both))

  def adapted(start, tasks):
    def one_task(task, backbone):
      return network_loop.adapt_network(
          start[1], frozen._replace(params=start[0]), task.support, task.support_labels,
          task.query, rates, backbone=backbone, inner=inner)

    return network_loop.over_tasks(one_task, tasks, backbone, inner)

  @jax.custom_vjp
  def logits(start):
    return adapted(start, tasks).query_logits

  def forward(start):
    end = adapted(start, both)
    way = jax.tree.map(lambda w, there: w - jnp.mean(there, axis=0), start,
                       (end.params, end.base_learner))
    return logits(start), way

  def backward(way, gradient):
    del gradient  # of the logits
    return (way,)

  logits.defvjp(forward, backward)
  return logits((backbone_vars.params, theta))
