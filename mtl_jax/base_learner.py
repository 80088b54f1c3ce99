"""θ, the linear base-learner, and its inner loop: the second idea of meta-transfer learning.

Everything here is for ONE episode with N classes, n support and m query images of d features;
`jax.vmap` makes it many. `adapt` runs gradient descent in its exact dual form: W stays in the span
of the support features, so the loop works on [n, N] logits and never touches a [d, N] matrix.
`adapt_primal` is its readable twin and test oracle.
"""
import typing

import jax
import jax.numpy as jnp

from mtl_jax import checks
from mtl_jax.configs import GradientOrder
from mtl_jax.types import AdaptResult, Array, BaseLearner


def init(feature_dim: int, way: int) -> BaseLearner:
  """Makes the classifier that prefers no class: all zeros.

  An episode numbers its classes at random, so no start is better than the symmetric one before
  meta-training; its first gradient step points at the differences of the class means.

  Args:
    feature_dim: d, width of the features.
    way: N, number of classes.

  Returns:
    A BaseLearner of kernel [d, N] and bias [N], float32.
  """
  return BaseLearner(jnp.zeros((feature_dim, way)), jnp.zeros((way,)))


def logits(base_learner: BaseLearner, features: Array) -> jax.Array:
  """Scores features linearly: E W + b.

  Args:
    base_learner: kernel [d, N], bias [N].
    features: [n, d].

  Returns:
    Logits [n, N].

  Raises:
    ValueError: a bias of another shape, which would be broadcast.
  """
  if base_learner.bias.shape != base_learner.kernel.shape[1:]:
    raise ValueError(f'expected a bias of shape {base_learner.kernel.shape[1:]}, as the kernel '
                     f'has, got {base_learner.bias.shape}')
  return product(features, base_learner.kernel) + base_learner.bias[None]


def cross_entropy(scores: Array, labels: Array) -> jax.Array:
  """Averages the negative log likelihood of the true classes.

  Args:
    scores: logits [n, N].
    labels: int [n], in [0, N).

  Returns:
    A scalar, in nats; NaN where a traced label is out of range.

  Raises:
    ValueError: labels out of range, if they are known.
  """
  checks.labels('labels', labels, scores.shape[-1])
  log_p = jax.nn.log_softmax(scores)
  # From the end JAX would count a label below 0, and fills with NaN what is beyond the end.
  labels = jnp.where(labels < 0, scores.shape[-1], labels)
  return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def one_hot(labels: Array, way: int, dtype: jax.typing.DTypeLike) -> jax.Array:
  """Returns labels as rows of zeros and a one, also where n and N are symbols of an export.

  Args:
    labels: int [n], in [0, N).
    way: N.
    dtype: of the rows.

  Returns:
    [n, N].
  """
  labels = jnp.asarray(labels)
  classes = jax.lax.broadcasted_iota(labels.dtype, (labels.shape[0], way), 1)
  return (labels[:, None] == classes).astype(dtype)


def adapt(base_learner: BaseLearner, support_features: Array, support_labels: Array,
          query_features: Array, *, inner_lr: Array | float, num_steps: int,
          gradient_order: GradientOrder = 'second',
          regularization: Array | float = 0.0) -> AdaptResult:
  """Adapts θ to the support set by gradient descent, in dual form, and scores the query set.

      G = E_s E_sᵀ + 1,  A_0 = 0
      Z_t = E_s W + b - G A_t,  R_t = (softmax(Z_t) - Y) / n,  A_{t+1} = A_t + α_t (R_t - λ A_t)
      W' = W - E_sᵀ A,  b' = b - 1ᵀ A,  query logits = E_q W' + b'

  This equals `num_steps` steps θ' <- θ' - α ∇ (L_support(θ') + λ/2 |θ' - θ|²). Memory for
  gradients through it is [num_steps, n, N]; compile time does not depend on `num_steps`.

  Args:
    base_learner: θ, kernel [d, N] and bias [N].
    support_features: [n, d].
    support_labels: int [n], in [0, N). Of traced ones out of range the losses are NaN, and the
      image counts for no class.
    query_features: [m, d].
    inner_lr: α, a scalar or one per step [num_steps]; differentiable in 'second' order.
    num_steps: T, at least 1.
    gradient_order: 'second' differentiates through the loop. 'first' holds the adaptation W' - W,
      b' - b constant: θ receives the gradient at θ', and the features are differentiated on the
      query side alone. 'implicit' differentiates the minimum that the loop has reached, by the
      implicit function theorem: exact where it has converged, with memory that does not depend on
      the steps; α then receives no gradient.
    regularization: λ, pull towards θ; above 0 for 'implicit', where the minimum must be one point.

  Returns:
    AdaptResult of the adapted classifier, query logits [m, N] and the support loss before each
    step [num_steps].

  Raises:
    ValueError: shapes that do not fit, fewer than one step, an unknown gradient order; of known
      values, labels out of range, a rate or regularization that is negative or not finite, or
      'implicit' without regularization. Traced ones are not looked at.

  References: Sun et al., CVPR 2019, section 4.2, equation 2; implicit: Rajeswaran et al.,
    NeurIPS 2019.
  """
  _check_shapes(base_learner, support_features, support_labels, query_features)
  _check_loop(num_steps, gradient_order, regularization)
  rates = rates_per_step(inner_lr, num_steps, jnp.result_type(support_features))
  way, dtype = base_learner.bias.shape[0], support_features.dtype
  targets = one_hot(support_labels, way, dtype)
  start = logits(base_learner, support_features)
  gram = product(support_features, support_features.T) + 1

  def slope(dual, scores):  # R - λ A: zero at the minimum
    return (jax.nn.softmax(scores) - targets) / targets.shape[0] - regularization * dual

  def step(dual, rate):
    scores = start - product(gram, dual)
    return dual + rate * slope(dual, scores), cross_entropy(scores, support_labels)

  dual, losses = jax.lax.scan(step, jnp.zeros_like(start), rates)
  span = support_features
  if gradient_order == 'first':
    dual, span = jax.lax.stop_gradient((dual, span))
  if gradient_order == 'implicit':
    solution = jax.lax.stop_gradient(dual)
    dual = _implicit(lambda a: slope(a, start - product(gram, a)), solution)
  # Queries meet the adapted classifier, at m d N multiply-adds; their products with the support,
  # H = E_q E_sᵀ + 1, would take m d n.
  adapted = BaseLearner(base_learner.kernel - product(span.T, dual),
                        base_learner.bias - jnp.sum(dual, axis=0))
  return AdaptResult(adapted, logits(adapted, query_features), losses)


def adapt_primal(base_learner: BaseLearner, support_features: Array, support_labels: Array,
                 query_features: Array, *, inner_lr: Array | float, num_steps: int,
                 gradient_order: GradientOrder = 'second',
                 regularization: Array | float = 0.0) -> AdaptResult:
  """Adapts θ by the loop as the paper writes it: equal to `adapt`, and slower.

      θ' <- θ' - α ∇ L_support(θ')

  Args:
    base_learner: θ, kernel [d, N] and bias [N].
    support_features: [n, d].
    support_labels: int [n], in [0, N).
    query_features: [m, d].
    inner_lr: α, a scalar or one per step [num_steps].
    num_steps: T, at least 1.
    gradient_order: 'second' or 'first', as in `adapt`; 'implicit' has no primal form here.
    regularization: λ, as in `adapt`.

  Returns:
    AdaptResult, as `adapt`.

  Raises:
    ValueError: as `adapt`, and for 'implicit'.

  References: Sun et al., CVPR 2019, section 4.2, equation 2.
  """
  _check_shapes(base_learner, support_features, support_labels, query_features)
  _check_loop(num_steps, gradient_order, regularization)
  if gradient_order == 'implicit':
    raise ValueError("expected gradient_order 'first' or 'second' of the primal loop, got "
                     "'implicit'")
  rates = rates_per_step(inner_lr, num_steps, jnp.result_type(support_features))

  def support_loss(theta):
    return cross_entropy(logits(theta, support_features), support_labels)

  def step(theta, rate):
    loss, gradient = jax.value_and_grad(support_loss)(theta)
    return jax.tree.map(lambda p, g, p0: p - rate * (g + regularization * (p - p0)),
                        theta, gradient, base_learner), loss

  adapted, losses = jax.lax.scan(step, base_learner, rates)
  if gradient_order == 'first':
    change = jax.tree.map(jnp.subtract, adapted, base_learner)
    adapted = jax.tree.map(jnp.add, base_learner, jax.lax.stop_gradient(change))
  return AdaptResult(adapted, logits(adapted, query_features), losses)


def rates_per_step(inner_lr: Array | float, num_steps: int, dtype: jax.typing.DTypeLike
                   ) -> jax.Array:
  """Broadcasts the learning rate of the inner loop to its steps.

  Args:
    inner_lr: α, a scalar or one per step [num_steps].
    num_steps: T.
    dtype: of the result.

  Returns:
    [num_steps].

  Raises:
    ValueError: another shape.
  """
  checks.at_least('inner_lr', inner_lr, 0.0)
  rates = jnp.asarray(inner_lr, dtype)
  if rates.shape not in ((), (num_steps,)):
    raise ValueError(f'expected inner_lr to be a scalar or of shape ({num_steps},), got shape '
                     f'{rates.shape}')
  return jnp.broadcast_to(rates, (num_steps,))


def _implicit(slope, solution):
  """The minimum as a function of what `slope` closes over.

  Its value is `solution`; its gradient is that of the equation slope = 0.
  """
  def solve_linear(linear, right):
    units = jnp.eye(right.size, dtype=right.dtype).reshape(-1, *right.shape)
    columns = jax.vmap(linear)(units).reshape(right.size, right.size)
    return jnp.linalg.solve(columns.T, right.reshape(-1)).reshape(right.shape)

  return jax.lax.custom_root(slope, solution, lambda _, start: start, solve_linear)


def product(a: Array, b: Array) -> jax.Array:
  """Multiplies small matrices in full precision.

  Accelerators round float32 factors unless told not to, and a hundred steps would add that up.

  Args:
    a: [n, k].
    b: [k, m].

  Returns:
    [n, m].
  """
  return jnp.matmul(a, b, precision='highest')


def _check_shapes(base_learner, support_features, support_labels, query_features):
  feature_dim = base_learner.kernel.shape[0]
  named = (('support_features', support_features), ('query_features', query_features))
  for name, features in named:
    if features.ndim != 2 or features.shape[1] != feature_dim:
      raise ValueError(f'expected {name} of shape [n, {feature_dim}], as the base-learner has, '
                       f'got {features.shape}')
    checks.finite(name, features)
  if support_labels.shape != support_features.shape[:1]:
    raise ValueError(f'expected support_labels of shape {support_features.shape[:1]}, got '
                     f'{support_labels.shape}')
  checks.labels('support_labels', support_labels, base_learner.kernel.shape[1])


def _check_loop(num_steps, gradient_order, regularization):
  if num_steps < 1:
    raise ValueError(f'expected num_steps of at least 1, got {num_steps}')
  if gradient_order not in typing.get_args(GradientOrder):
    raise ValueError(f"expected gradient_order 'first', 'second' or 'implicit', got "
                     f'{gradient_order!r}')
  checks.at_least('regularization', regularization, 0.0)
  known = checks.known(regularization)
  if gradient_order == 'implicit' and known is not None and not (known > 0).all():
    raise ValueError(f'expected regularization above 0 for an implicit gradient, got '
                     f'{regularization}: without it the base-learner has no single minimum')
