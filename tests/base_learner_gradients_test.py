"""Gradients through the inner loop: dual form, primal form, algebra and finite differences."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner
from mtl_jax.types import BaseLearner
from tests.linear_tasks import (
  ARGUMENTS,
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


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def value_and_gradients(loss):
  return jax.jit(jax.value_and_grad(loss, range(5)))


@pytest.mark.parametrize('gradient_order', ['second', 'first'])
@pytest.mark.parametrize('per_step', [False, True])
def test_dual_equals_primal_with_all_gradients(gradient_order, per_step):
  p, num_steps = problem(1), 8
  args = arguments(p, per_step_lr(num_steps) if per_step else 0.3)
  losses = (query_loss(adapt, p, num_steps, gradient_order=gradient_order)
            for adapt in (base_learner.adapt, base_learner.adapt_primal))
  dual, primal = (value_and_gradients(loss)(*args) for loss in losses)
  np.testing.assert_allclose(dual[0], primal[0], rtol=1e-12)
  for name, ours, theirs, arg in zip(ARGUMENTS, dual[1], primal[1], args, strict=True):
    assert ours.shape == arg.shape and ours.dtype == jnp.float64, name
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_gradients_reach_the_adapted_classifier_and_the_support_losses(adapt):
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
  ahead, behind = (
      evaluate(*(a + s * step * d for a, d in zip(args, directions, strict=True)))[0]
      for s in (1, -1))
  np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-7)


@pytest.mark.parametrize('per_step', [False, True])
def test_second_order_gradient_against_finite_differences(per_step):
  p, num_steps, step = problem(4), 8, 1e-6
  rates = per_step_lr(num_steps) if per_step else 0.4
  args = [np.asarray(a) for a in arguments(p, rates)]
  evaluate = value_and_gradients(query_loss(base_learner.adapt, p, num_steps))
  for name, arg, grad in zip(ARGUMENTS, args, evaluate(*args)[1], strict=True):
    for i in np.ndindex(arg.shape):
      moved = []
      for sign in (1, -1):
        other = arg.copy()
        other[i] += sign * step
        moved.append(evaluate(*(other if a is arg else a for a in args))[0])
      numeric = (moved[0] - moved[1]) / (2 * step)
      np.testing.assert_allclose(grad[i], numeric, rtol=1e-6, atol=1e-8, err_msg=f'{name}{i}')


@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_first_order_gradients_by_algebra(adapt):
  p, num_steps = problem(5), 7
  args = arguments(p, 0.3)
  loss = query_loss(adapt, p, num_steps, gradient_order='first')
  kernel, bias, support, query, inner_lr = value_and_gradients(loss)(*args)[1]
  w, b, _ = numpy_adapt(p, 0.3, num_steps)
  targets = np.eye(WAY)[p['query_labels']]
  residual = (softmax(p['query_features'] @ w + b) - targets) / (WAY * QUERY)
  np.testing.assert_allclose(kernel, p['query_features'].T @ residual, rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(bias, residual.sum(axis=0), rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(query, residual @ w.T, rtol=1e-10, atol=1e-14)
  np.testing.assert_array_equal(support, 0)
  np.testing.assert_array_equal(inner_lr, 0)


def test_first_order_is_second_order_with_the_adaptation_cut():
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
