"""MAML whose outer gradient is that of a minimum, with no memory of the way there (iMAML).

    w' = argmin_w L_support(w) + λ/2 |w - w_0|²
    dL_query/dw_0 = (I + ∇²L_support(w') / λ)⁻¹ ∇L_query(w')

The system is solved by conjugate gradients, which need products with the Hessian alone.
"""
import functools

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, network_loop
from mtl_jax.configs import InnerLoop
from mtl_jax.types import Array, Backbone, BackboneVars, BaseLearner, Episode

CONJUGATE_STEPS = 5  # as the authors have them


def adapt(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float, tasks: Episode, *,
          backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts network and base-learner towards the minimum.

  Args:
    theta, backbone_vars, tasks, backbone: as in `inner_loop.adapt_heads`.
    rates: α of the way to the minimum, which the outer gradient knows nothing of.
    inner: settings, with λ as `regularization`; `gradient_order` is not read. The gradient is right
      where `steps` come near the minimum: α T λ of 3 or more leave less than 5% of the way.

  Returns:
    Query logits [tasks, N*Q, N].

  Raises:
    ValueError: λ of 0, where the minimum does not depend on the start.

  References: Rajeswaran et al., NeurIPS 2019, equations 3 and 6.
  """
  if inner.regularization <= 0:
    raise ValueError('implicit_maml looks for a minimum near its start: expected a regularization '
                     f'above 0, got {inner.regularization:g}')
  one_task = functools.partial(_one_task, theta, backbone_vars, rates, inner)
  return network_loop.over_tasks(one_task, tasks, backbone, inner)


def _one_task(theta, backbone_vars, rates, inner, task, backbone):
  def scores(variables, w, images):
    features = backbone.features(variables._replace(params=w[0]), images,
                                 batch_stats_mode=inner.batch_stats_mode)
    return base_learner.logits(w[1], features)

  def slope(w, given):
    variables, _, support, labels = given
    return jax.grad(lambda w: base_learner.cross_entropy(scores(variables, w, support), labels))(w)

  rates = base_learner.rates_per_step(rates, inner.steps, jnp.result_type(task.support))
  given = jax.lax.stop_gradient((backbone_vars, rates, task.support, task.support_labels))
  w = _minimum(slope, inner.regularization, (backbone_vars.params, theta), given)
  return scores(backbone_vars, w, task.query)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _minimum(slope, strength, start, given):
  """Descends from `start` by ∇L_support(w) + λ (w - w_0); `given` is all that `slope` reads."""
  def step(w, rate):
    return jax.tree.map(lambda p, g, p0: p - rate * (g + strength * (p - p0)),
                        w, slope(w, given), start), None

  return jax.lax.scan(step, start, given[1])[0]


def _forward(slope, strength, start, given):
  w = _minimum(slope, strength, start, given)
  return w, (w, given)


def _backward(slope, strength, there, downstream):
  w, given = there
  # Products with the Hessian, which is its own transpose; convolutions have no forward mode.
  _, curved = jax.vjp(lambda w: slope(w, given), w)

  def product(v):
    return jax.tree.map(lambda v, c: v + c / strength, v, curved(v)[0])

  solution, _ = jax.scipy.sparse.linalg.cg(product, downstream, maxiter=CONJUGATE_STEPS)
  return solution, None


_minimum.defvjp(_forward, _backward)
