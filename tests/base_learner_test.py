"""The inner loop against NumPy algebra; `base_learner_gradients_test` goes on."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner
from mtl_jax.types import BaseLearner
from tests.linear_tasks import (
  DIM,
  QUERY,
  WAY,
  arguments,
  numpy_adapt,
  per_step_lr,
  problem,
  query_loss,
  run,
  softmax,
)


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
  loss = base_learner.cross_entropy(logits, p['query_labels'])
  np.testing.assert_allclose(loss, -np.log(picked).mean())


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
  expected = [[.1, -.1], [.1, -.1], [-.4, .4]]
  np.testing.assert_allclose(result.base_learner.kernel, expected, atol=1e-7)
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
  expected = p['query_features'] @ w + b
  np.testing.assert_allclose(result.query_logits, expected, rtol=1e-11, atol=1e-12)
  np.testing.assert_allclose(result.support_losses, losses, rtol=1e-11)


def test_a_start_that_is_the_same_for_every_class_is_the_zero_start(x64):
  """The mean of a start over the orders of its classes is one."""
  p = problem()
  same = BaseLearner(jnp.repeat(p['kernel'].mean(axis=1, keepdims=True), WAY, axis=1),
                     jnp.full(WAY, 0.7))
  zero = base_learner.init(len(p['kernel']), WAY)
  probabilities = [jax.nn.softmax(base_learner.adapt(
      start, p['support_features'], p['support_labels'], p['query_features'], inner_lr=0.1,
      num_steps=7).query_logits) for start in (same, zero)]
  np.testing.assert_allclose(*probabilities, rtol=1e-9)


def test_labels_that_are_not_balanced(x64):
  p = problem(support_labels=np.array([1, 1, 1, 1, 0, 1]))  # Class 2 has no image at all.
  w, b, _ = numpy_adapt(p, 0.2, 9)
  result = jax.jit(lambda: run(base_learner.adapt, p, 0.2, 9))()
  np.testing.assert_allclose(result.query_logits, p['query_features'] @ w + b, rtol=1e-11)


def test_float32_agrees_with_float64():
  p = problem(7, dim=64)
  low = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == np.float64 else a, p)
  result = jax.jit(lambda: run(base_learner.adapt, low, 0.01, 100))()
  w, b, losses = numpy_adapt(p, 0.01, 100)
  assert result.query_logits.dtype == jnp.float32
  expected = p['query_features'] @ w + b
  np.testing.assert_allclose(result.query_logits, expected, rtol=2e-4, atol=2e-5)
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
    values = list(equation.params.values())
    for value in jax.tree.leaves(values, is_leaf=lambda v: hasattr(v, 'eqns')):
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
