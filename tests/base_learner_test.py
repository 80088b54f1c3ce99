"""The inner loop against NumPy algebra, its primal twin, and finite differences."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner
from mtl_jax.types import BaseLearner

WAY, SHOT, QUERY, DIM = 3, 2, 4, 5
ARGUMENTS = ('kernel', 'bias', 'support_features', 'query_features', 'inner_lr')


def softmax(z):
  e = np.exp(z - z.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def problem(seed=0, dim=DIM, support_labels=None):
  """A random small task in float64: initial classifier, support and query."""
  rng = np.random.default_rng(seed)
  return {
      'kernel': 0.3 * rng.normal(size=(dim, WAY)), 'bias': 0.3 * rng.normal(size=WAY),
      'support_features': rng.normal(size=(WAY * SHOT, dim)),
      'query_features': rng.normal(size=(WAY * QUERY, dim)),
      'support_labels': np.array([2, 0, 1, 1, 0, 2]) if support_labels is None else support_labels,
      'query_labels': np.repeat(np.arange(WAY), QUERY)}


def numpy_adapt(p, inner_lr, num_steps):
  """θ' <- θ' - α Xᵀ(p - y)/n, num_steps times: (kernel, bias, losses before each step)."""
  w, b, x, y = p['kernel'], p['bias'], p['support_features'], np.eye(WAY)[p['support_labels']]
  losses = []
  for lr in np.broadcast_to(inner_lr, num_steps):
    probabilities = softmax(x @ w + b)
    losses.append(-np.mean(np.log(probabilities[np.arange(len(x)), p['support_labels']])))
    residual = (probabilities - y) / len(x)
    w, b = w - lr * x.T @ residual, b - lr * residual.sum(axis=0)
  return w, b, np.array(losses)


def run(adapt, p, inner_lr, num_steps, **kwargs):
  return adapt(BaseLearner(p['kernel'], p['bias']), p['support_features'], jnp.asarray(p['support_labels']),
               p['query_features'], inner_lr=inner_lr, num_steps=num_steps, **kwargs)


def query_loss(adapt, p, num_steps, **kwargs):
  """The query loss as a function of the five arguments that have gradients, in the order of ARGUMENTS."""
  def loss(kernel, bias, support, query, inner_lr):
    q = p | {'kernel': kernel, 'bias': bias, 'support_features': support, 'query_features': query}
    result = run(adapt, q, inner_lr, num_steps, **kwargs)
    return base_learner.cross_entropy(result.query_logits, p['query_labels'])
  return loss


def value_and_gradients(loss):
  return jax.jit(jax.value_and_grad(loss, range(5)))


def arguments(p, inner_lr):
  return tuple(jnp.asarray(p[name]) for name in ARGUMENTS[:4]) + (jnp.asarray(inner_lr),)


def per_step_lr(num_steps):
  return np.linspace(0.5, 0.1, num_steps)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def test_init_is_zeros_of_the_right_shape():
  learner = base_learner.init(7, 4)
  np.testing.assert_array_equal(learner.kernel, np.zeros((7, 4)))
  np.testing.assert_array_equal(learner.bias, np.zeros(4))
  assert learner.kernel.dtype == learner.bias.dtype == jnp.float32


def test_logits_and_cross_entropy(x64):
  p = problem()
  logits = base_learner.logits(BaseLearner(p['kernel'], p['bias']), p['query_features'])
  expected = p['query_features'] @ p['kernel'] + p['bias']
  np.testing.assert_allclose(logits, expected, rtol=1e-13)
  picked = softmax(expected)[np.arange(WAY * QUERY), p['query_labels']]
  np.testing.assert_allclose(base_learner.cross_entropy(logits, p['query_labels']), -np.log(picked).mean())


def test_cross_entropy_of_huge_logits_is_finite():
  logits, labels = jnp.array([[1e4, -1e4], [0., 0.]]), jnp.array([1, 0])
  loss, grad = jax.value_and_grad(base_learner.cross_entropy)(logits, labels)
  np.testing.assert_allclose(loss, (2e4 + np.log(2)) / 2, rtol=1e-6)
  np.testing.assert_allclose(grad, [[.5, -.5], [-.25, .25]], atol=1e-6)


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_one_step_from_zero_by_hand(adapt):
  # Two images, two classes, θ = 0: p = 1/2 everywhere, so θ' = α Xᵀ(y - 1/2)/2.
  x = jnp.array([[1., 2., 0.], [0., 1., 4.]])
  result = adapt(base_learner.init(3, 2), x, jnp.array([0, 1]), jnp.array([[1., 1., 1.]]),
                 inner_lr=0.4, num_steps=1)
  np.testing.assert_allclose(result.base_learner.kernel, [[.1, -.1], [.1, -.1], [-.4, .4]], atol=1e-7)
  np.testing.assert_allclose(result.base_learner.bias, [0, 0], atol=1e-7)
  np.testing.assert_allclose(result.query_logits, [[-.2, .2]], atol=1e-7)
  np.testing.assert_allclose(result.support_losses, [np.log(2)], rtol=1e-6)


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
@pytest.mark.parametrize('num_steps', [1, 2, 12])
@pytest.mark.parametrize('per_step', [False, True])
def test_many_steps_against_numpy(x64, adapt, num_steps, per_step):
  p, inner_lr = problem(), per_step_lr(num_steps) if per_step else 0.3
  result = jax.jit(lambda: run(adapt, p, inner_lr, num_steps))()
  w, b, losses = numpy_adapt(p, inner_lr, num_steps)
  np.testing.assert_allclose(result.base_learner.kernel, w, rtol=1e-11, atol=1e-13)
  np.testing.assert_allclose(result.base_learner.bias, b, rtol=1e-11, atol=1e-13)
  np.testing.assert_allclose(result.query_logits, p['query_features'] @ w + b, rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(result.support_losses, losses, rtol=1e-11)


def test_labels_that_are_not_balanced(x64):
  p = problem(support_labels=np.array([1, 1, 1, 1, 0, 1]))  # Class 2 has no image at all.
  w, b, _ = numpy_adapt(p, 0.2, 9)
  result = jax.jit(lambda: run(base_learner.adapt, p, 0.2, 9))()
  np.testing.assert_allclose(result.query_logits, p['query_features'] @ w + b, rtol=1e-11)


@pytest.mark.parametrize('gradient_order', ['second', 'first'])
@pytest.mark.parametrize('per_step', [False, True])
def test_dual_equals_primal_with_all_gradients(x64, gradient_order, per_step):
  p, num_steps = problem(1), 8
  args = arguments(p, per_step_lr(num_steps) if per_step else 0.3)
  dual, primal = (value_and_gradients(query_loss(adapt, p, num_steps, gradient_order=gradient_order))(*args)
                  for adapt in (base_learner.adapt, base_learner.adapt_primal))
  np.testing.assert_allclose(dual[0], primal[0], rtol=1e-12)
  for name, ours, theirs, arg in zip(ARGUMENTS, dual[1], primal[1], args, strict=True):
    assert ours.shape == arg.shape and ours.dtype == jnp.float64, name
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_gradients_reach_the_adapted_classifier_and_the_support_losses(x64, adapt):
  p, num_steps, step = problem(2), 6, 1e-6
  rng = np.random.default_rng(3)
  directions = [rng.normal(size=p[name].shape) for name in ARGUMENTS[:4]] + [rng.normal()]

  def scalar(*args):
    q = p | dict(zip(ARGUMENTS, args[:4], strict=False))
    result = run(adapt, q, args[4], num_steps)
    return (jnp.sum(jnp.sin(result.base_learner.kernel)) + jnp.sum(result.base_learner.bias ** 2)
            + jnp.sum(result.support_losses * jnp.arange(1, num_steps + 1)))

  args = arguments(p, 0.3)
  evaluate = value_and_gradients(scalar)
  along = sum(np.vdot(g, d) for g, d in zip(evaluate(*args)[1], directions, strict=True))
  ahead, behind = (evaluate(*(a + s * step * d for a, d in zip(args, directions, strict=True)))[0]
                   for s in (1, -1))
  np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize('per_step', [False, True])
def test_second_order_gradient_against_finite_differences(x64, per_step):
  p, num_steps, step = problem(4), 8, 1e-6
  args = [np.asarray(a) for a in arguments(p, per_step_lr(num_steps) if per_step else 0.4)]
  evaluate = value_and_gradients(query_loss(base_learner.adapt, p, num_steps))
  for name, arg, grad in zip(ARGUMENTS, args, evaluate(*args)[1], strict=True):
    for i in np.ndindex(arg.shape):
      moved = []
      for sign in (1, -1):
        other = arg.copy()
        other[i] += sign * step
        moved.append(evaluate(*(other if a is arg else a for a in args))[0])
      np.testing.assert_allclose(grad[i], (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-8,
                                 err_msg=f'{name}{i}')


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_first_order_gradients_by_algebra(x64, adapt):
  p, num_steps = problem(5), 7
  args = arguments(p, 0.3)
  loss = query_loss(adapt, p, num_steps, gradient_order='first')
  kernel, bias, support, query, inner_lr = value_and_gradients(loss)(*args)[1]
  w, b, _ = numpy_adapt(p, 0.3, num_steps)
  residual = (softmax(p['query_features'] @ w + b) - np.eye(WAY)[p['query_labels']]) / (WAY * QUERY)
  np.testing.assert_allclose(kernel, p['query_features'].T @ residual, rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(bias, residual.sum(axis=0), rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(query, residual @ w.T, rtol=1e-10, atol=1e-14)
  np.testing.assert_array_equal(support, 0)
  np.testing.assert_array_equal(inner_lr, 0)


def test_first_order_is_second_order_with_the_adaptation_cut(x64):
  p, num_steps = problem(6), 7
  args = arguments(p, 0.3)
  cut = jax.lax.stop_gradient

  def second_order_cut(kernel, bias, support, query, inner_lr):
    q = p | {'kernel': cut(kernel), 'bias': cut(bias), 'support_features': cut(support)}
    adapted = run(base_learner.adapt, q, cut(inner_lr), num_steps).base_learner
    moved = BaseLearner(kernel + adapted.kernel - cut(kernel), bias + adapted.bias - cut(bias))
    return base_learner.cross_entropy(base_learner.logits(moved, query), p['query_labels'])

  first = query_loss(base_learner.adapt, p, num_steps, gradient_order='first')
  second = query_loss(base_learner.adapt, p, num_steps, gradient_order='second')
  (value, ours), (_, expected), (full_value, full) = (
      value_and_gradients(f)(*args) for f in (first, second_order_cut, second))
  np.testing.assert_allclose(value, full_value, rtol=1e-12)
  for name, a, b, uncut in zip(ARGUMENTS, ours, expected, full, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14, err_msg=name)
    # The query features alone do not enter the adaptation.
    assert (np.abs(a - uncut).max() > 1e-4) == (name != 'query_features'), name


def test_float32_agrees_with_float64():
  p = problem(7, dim=64)
  low = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, p)
  result = jax.jit(lambda: run(base_learner.adapt, low, 0.01, 100))()
  w, b, losses = numpy_adapt(p, 0.01, 100)
  assert result.query_logits.dtype == jnp.float32
  np.testing.assert_allclose(result.query_logits, p['query_features'] @ w + b, rtol=2e-4, atol=2e-5)
  np.testing.assert_allclose(result.support_losses, losses, rtol=2e-4)
  assert np.all(np.diff(result.support_losses) < 0)  # Small steps on a convex loss go down.


def test_vmap_equals_loop(x64):
  problems = [problem(seed) for seed in range(4)]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *problems)
  adapt_one = lambda p: run(base_learner.adapt, p, 0.2, 5)  # noqa: E731
  batch, adapt_one = jax.jit(jax.vmap(adapt_one))(stacked), jax.jit(adapt_one)
  loop = jax.tree.map(lambda *a: np.stack(a), *(adapt_one(p) for p in problems))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), batch, loop)


def count_equations(jaxpr):
  """Equations of a jaxpr and of everything inside it (loop bodies, calls)."""
  total = 0
  for equation in jaxpr.eqns:
    total += 1
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')):
      inner = getattr(value, 'jaxpr', value)
      total += count_equations(inner) if hasattr(inner, 'eqns') else 0
  return total


@pytest.mark.parametrize('gradient_order', ['second', 'first'])
def test_size_of_the_program_does_not_grow_with_the_steps(gradient_order):
  p = problem()
  sizes = []
  for num_steps in (10, 200):
    loss = query_loss(base_learner.adapt, p, num_steps, gradient_order=gradient_order)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, range(5)))(*arguments(p, 0.3))
    sizes.append(count_equations(jaxpr.jaxpr))
  assert sizes[0] == sizes[1] > 20


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
@pytest.mark.parametrize('change, kwargs, message', [
    ({'support_labels': np.zeros(5, np.int32)}, {}, '5'),
    ({'query_features': np.zeros((12, DIM + 1))}, {}, str(DIM + 1)),
    ({'support_features': np.zeros((6, DIM - 1))}, {}, str(DIM - 1)),
    ({}, {'num_steps': 0}, 'num_steps'),
    ({}, {'inner_lr': np.ones(3)}, 'inner_lr'),
    ({}, {'inner_lr': np.ones((4, 1))}, 'inner_lr'),
    ({}, {'gradient_order': 'third'}, 'third'),
])
def test_errors(x64, adapt, change, kwargs, message):
  with pytest.raises(ValueError, match=message):
    run(adapt, problem() | change, **({'inner_lr': 0.1, 'num_steps': 4} | kwargs))
