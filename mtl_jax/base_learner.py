"""θ, the linear base-learner, and its inner loop: the second idea of meta-transfer learning.

Everything here is for ONE episode with N classes, n support and m query images of d features; `jax.vmap` makes it
many. `adapt` runs gradient descent in its exact dual form: W stays in the span of the support features, so the loop
works on [n, N] logits and never touches a [d, N] matrix. `adapt_primal` is its readable twin and test oracle.
"""
import jax
import jax.numpy as jnp

from mtl_jax.types import AdaptResult, BaseLearner


def init(feature_dim: int, way: int) -> BaseLearner:
  """Makes the classifier that prefers no class: all zeros.

  An episode numbers its classes at random, so no start is better than the symmetric one before meta-training;
  its first gradient step points at the differences of the class means.

  Args:
    feature_dim: d, width of the features.
    way: N, number of classes.

  Returns:
    A BaseLearner of kernel [d, N] and bias [N], float32.
  """
  return BaseLearner(jnp.zeros((feature_dim, way)), jnp.zeros((way,)))


def logits(base_learner: BaseLearner, features: jax.Array) -> jax.Array:
  """Scores features linearly: E W + b.

  Args:
    base_learner: kernel [d, N], bias [N].
    features: [n, d].

  Returns:
    Logits [n, N].
  """
  return _product(features, base_learner.kernel) + base_learner.bias


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """Averages the negative log likelihood of the true classes.

  Args:
    scores: logits [n, N].
    labels: int [n], in [0, N).

  Returns:
    A scalar, in nats.
  """
  log_p = jax.nn.log_softmax(scores)
  return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


def adapt(base_learner: BaseLearner, support_features: jax.Array, support_labels: jax.Array,
          query_features: jax.Array, *, inner_lr: jax.Array | float, num_steps: int,
          gradient_order: str = 'second') -> AdaptResult:
  """Adapts θ to the support set by gradient descent, in dual form, and scores the query set.

      G = E_s E_sᵀ + 1,  H = E_q E_sᵀ + 1,  Z_0 = E_s W + b
      R_t = (softmax(Z_t) - Y) / n,  Z_{t+1} = Z_t - α_t G R_t,  A = Σ α_t R_t
      query logits = E_q W + b - H A,  W' = W - E_sᵀ A,  b' = b - 1ᵀ A

  This equals `num_steps` steps θ' <- θ' - α ∇ L_support(θ'). Memory for gradients through it is [num_steps, n, N];
  compile time does not depend on `num_steps`.

  Args:
    base_learner: θ, kernel [d, N] and bias [N].
    support_features: [n, d].
    support_labels: int [n], in [0, N).
    query_features: [m, d].
    inner_lr: α, a scalar or one per step [num_steps]; differentiable in 'second' order.
    num_steps: T, at least 1.
    gradient_order: 'second' differentiates through the loop. 'first' holds the adaptation W' - W, b' - b constant:
      θ receives the gradient at θ', and the features are differentiated on the query side alone.

  Returns:
    AdaptResult of the adapted classifier, query logits [m, N] and the support loss before each step [num_steps].

  Raises:
    ValueError: shapes that do not fit, fewer than one step, an unknown gradient order.

  References: Sun et al., CVPR 2019, section 4.2, equation 2.
  """
  _check(base_learner, support_features, support_labels, query_features, num_steps, gradient_order)
  rates = _rates(inner_lr, num_steps, jnp.result_type(support_features))
  targets = jax.nn.one_hot(support_labels, base_learner.bias.shape[0], dtype=support_features.dtype)
  gram = _product(support_features, support_features.T) + 1

  def step(scores, rate):
    residual = (jax.nn.softmax(scores) - targets) / targets.shape[0]
    return scores - rate * _product(gram, residual), (rate * residual, cross_entropy(scores, support_labels))

  _, (updates, losses) = jax.lax.scan(step, logits(base_learner, support_features), rates)
  total = jnp.sum(updates, axis=0)  # A [n, N]
  span = support_features
  if gradient_order == 'first':
    total, span = jax.lax.stop_gradient((total, span))
  query_logits = logits(base_learner, query_features) - _product(_product(query_features, span.T) + 1, total)
  adapted = BaseLearner(base_learner.kernel - _product(span.T, total), base_learner.bias - jnp.sum(total, axis=0))
  return AdaptResult(adapted, query_logits, losses)


def adapt_primal(base_learner: BaseLearner, support_features: jax.Array, support_labels: jax.Array,
                 query_features: jax.Array, *, inner_lr: jax.Array | float, num_steps: int,
                 gradient_order: str = 'second') -> AdaptResult:
  """Adapts θ by the loop as the paper writes it: θ' <- θ' - α ∇ L_support(θ'). Equal to `adapt`, and slower.

  Args:
    base_learner: θ, kernel [d, N] and bias [N].
    support_features: [n, d].
    support_labels: int [n], in [0, N).
    query_features: [m, d].
    inner_lr: α, a scalar or one per step [num_steps].
    num_steps: T, at least 1.
    gradient_order: 'second' or 'first', as in `adapt`.

  Returns:
    AdaptResult, as `adapt`.

  Raises:
    ValueError: as `adapt`.

  References: Sun et al., CVPR 2019, section 4.2, equation 2.
  """
  _check(base_learner, support_features, support_labels, query_features, num_steps, gradient_order)
  rates = _rates(inner_lr, num_steps, jnp.result_type(support_features))

  def support_loss(theta):
    return cross_entropy(logits(theta, support_features), support_labels)

  def step(theta, rate):
    loss, gradient = jax.value_and_grad(support_loss)(theta)
    return jax.tree.map(lambda p, g: p - rate * g, theta, gradient), loss

  adapted, losses = jax.lax.scan(step, base_learner, rates)
  if gradient_order == 'first':
    constant = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, adapted, base_learner))
    adapted = jax.tree.map(jnp.add, base_learner, constant)
  return AdaptResult(adapted, logits(adapted, query_features), losses)


def _product(a, b):
  # Accelerators round float32 factors unless told not to, and a hundred steps would add that up; these are tiny.
  return jnp.matmul(a, b, precision='highest')


def _rates(inner_lr, num_steps, dtype):
  rates = jnp.asarray(inner_lr, dtype)
  if rates.shape not in ((), (num_steps,)):
    raise ValueError(f'expected inner_lr to be a scalar or of shape ({num_steps},), got shape {rates.shape}')
  return jnp.broadcast_to(rates, (num_steps,))


def _check(base_learner, support_features, support_labels, query_features, num_steps, gradient_order):
  feature_dim = base_learner.kernel.shape[0]
  for name, features in (('support_features', support_features), ('query_features', query_features)):
    if features.ndim != 2 or features.shape[1] != feature_dim:
      raise ValueError(f'expected {name} of shape [n, {feature_dim}], as the base-learner has, got {features.shape}')
  if support_labels.shape != support_features.shape[:1]:
    raise ValueError(f'expected support_labels of shape {support_features.shape[:1]}, got {support_labels.shape}')
  if num_steps < 1:
    raise ValueError(f'expected num_steps of at least 1, got {num_steps}')
  if gradient_order not in ('first', 'second'):
    raise ValueError(f"expected gradient_order 'first' or 'second', got {gradient_order!r}")
