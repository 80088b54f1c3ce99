"""Inner loops over the whole network in which weights have rates of their own: BOIL and Meta-SGD.

Both are the loop of MAML, `network_loop.adapt_network`, with each step of gradient descent
multiplied by a factor for each weight.
"""
import dataclasses

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, network_loop
from mtl_jax.configs import InnerLoop
from mtl_jax.types import Array, Backbone, BackboneVars, BaseLearner, Episode, Tree


def adapt_body(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
               tasks: Episode, *, backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts the network to each task, and leaves θ as it is meta-learned (BOIL).

      Θ' <- Θ' - α ∇_Θ' L_support(θ; Θ')

  Args:
    theta, backbone_vars, rates, tasks, backbone, inner: as in `inner_loop.adapt_heads`.

  Returns:
    Query logits [tasks, N*Q, N].

  References: Oh et al., ICLR 2021.
  """
  factors = (jax.tree.map(jnp.ones_like, backbone_vars.params),
             jax.tree.map(jnp.zeros_like, theta))
  return _adapt(theta, factors, backbone_vars, rates, tasks, backbone, inner)


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> Tree:
  """Returns θ of Meta-SGD: a zero base-learner, and factors of 1.

  Args:
    backbone: its width of features is read.
    backbone_vars: Θ; its parameters have a factor each.
    way: N.

  Returns:
    {'start': BaseLearner, 'factors': (as the network's parameters, BaseLearner)}.
  """
  start = base_learner.init(backbone.feature_dim, way)
  ones = jax.tree.map(jnp.ones_like, (backbone_vars.params, start))
  return {'start': start, 'factors': ones}


def adapt_by_rates(theta: Tree, backbone_vars: BackboneVars, rates: Array | float, tasks: Episode,
                   *, backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts network and base-learner by a learned rate for every weight (Meta-SGD).

      w' <- w' - α f_w ∂ L_support / ∂ w'

  Args:
    theta: as `init` returns it.
    backbone_vars, rates, tasks, backbone: as in `inner_loop.adapt_heads`.
    inner: settings; of 'second' order, as the factors have no gradient otherwise.

  Returns:
    Query logits [tasks, N*Q, N].

  Raises:
    ValueError: another order.

  References: Li et al., arXiv 1707.09835, equation 3.
  """
  if inner.gradient_order != 'second':
    raise ValueError('meta_sgd learns its rates through the inner loop: expected gradient_order '
                     f"'second', got {inner.gradient_order!r}")
  return _adapt(theta['start'], theta['factors'], backbone_vars, rates, tasks, backbone, inner)


def _adapt(theta, factors, backbone_vars, rates, tasks, backbone, inner):
  return network_loop.adapt_networks(
      theta, backbone_vars, rates, tasks, backbone=backbone,
      inner=dataclasses.replace(inner, adapts='all'), factors=factors)
