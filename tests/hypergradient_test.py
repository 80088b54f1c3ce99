"""Gradients of the query loss through the inner loop, by everything that the loop depends on."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner
from mtl_jax.types import BaseLearner
from tests.phases import finite_differences

WAY, SHOT, QUERY, DIM, STEPS = 3, 2, 3, 7, 12


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def problem(seed=0):
  """(θ, support features, their labels, query features, their labels) in float64."""
  rng = np.random.default_rng(seed)
  labels, query_labels = np.repeat(np.arange(WAY), SHOT), np.repeat(np.arange(WAY), QUERY)
  centres = rng.normal(size=(WAY, DIM))
  support = centres[labels] + rng.normal(size=(WAY * SHOT, DIM))
  query = centres[query_labels] + rng.normal(size=(WAY * QUERY, DIM))
  theta = BaseLearner(rng.normal(size=(DIM, WAY)), rng.normal(size=WAY))
  return theta, support, labels, query, query_labels


def loss_of(task, *, num_steps=STEPS, **options):
  _, _, labels, _, query_labels = task

  def loss(theta, support, query, inner_lr, regularization):
    adapted = base_learner.adapt(theta, support, labels, query, inner_lr=inner_lr,
                                 num_steps=num_steps, regularization=regularization, **options)
    return base_learner.cross_entropy(adapted.query_logits, query_labels)

  return jax.jit(loss)


def gradients(task, arguments, **options):
  """By θ, support, query and λ."""
  loss = loss_of(task, **options)
  return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 4)))(*arguments)


def relative(found, expected):
  """Largest difference over the largest entry, leaf by leaf; the worst of them."""
  each = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), found, expected)
  return max(jax.tree.leaves(each))


@pytest.mark.parametrize('inner_lr', [0.4, np.linspace(0.6, 0.1, STEPS)],
                         ids=['one rate', 'a rate per step'])
def test_hypergradients_against_finite_differences(x64, inner_lr):
  task = problem()
  loss = loss_of(task)
  arguments = (task[0], task[1], task[3], np.asarray(inner_lr), np.asarray(0.05))
  found = jax.jit(jax.grad(loss, argnums=range(5)))(*arguments)
  expected = finite_differences(lambda tree: loss(*tree), arguments)
  # Central differences of step 1e-5 are good to about 1e-10 of the loss.
  assert relative(found, expected) < 1e-6
  assert np.shape(found[3]) == np.shape(inner_lr) and np.all(np.abs(found[3]) > 1e-7)


def test_implicit_gradient_against_the_long_unrolled_one(x64):
  task = problem(1)
  arguments = (task[0], task[1], task[3], np.asarray(0.5), np.asarray(0.05))
  implicit, unrolled = (gradients(task, arguments, num_steps=5000, gradient_order=order)
                        for order in ('implicit', 'second'))
  assert relative(implicit, unrolled) < 1e-8


def test_implicit_gradient_in_float32_against_the_long_unrolled_one():
  task = jax.tree.map(lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, problem(1))
  arguments = (task[0], task[1], task[3], np.float32(0.5), np.float32(0.05))
  implicit, unrolled = (gradients(task, arguments, num_steps=1000, gradient_order=order)
                        for order in ('implicit', 'second'))
  assert relative(implicit, unrolled) < 1e-4


def test_implicit_gradient_against_finite_differences(x64):
  task = problem(2)
  loss = loss_of(task, num_steps=5000, gradient_order='implicit')
  arguments = (task[0], task[1], task[3])
  found = jax.jit(jax.grad(lambda *a: loss(*a, 0.5, 0.05), argnums=range(3)))(*arguments)
  expected = finite_differences(lambda tree: loss(*tree, 0.5, 0.05), arguments)
  assert relative(found, expected) < 1e-6


def test_the_minimum_does_not_depend_on_the_inner_rate(x64):
  task = problem(3)
  arguments = (task[0], task[1], task[3])
  few = loss_of(task, num_steps=50, gradient_order='implicit')
  assert float(jax.grad(lambda rate: few(*arguments, rate, 0.05))(0.5)) == 0
  many = loss_of(task, num_steps=5000)
  values = [float(many(*arguments, rate, 0.05)) for rate in (0.3, 0.5)]
  np.testing.assert_allclose(*values, rtol=1e-10)


def test_regularization_pulls_towards_the_start_in_both_forms(x64):
  theta, support, labels, query, _ = problem(4)
  features = (jnp.asarray(support), labels, jnp.asarray(query))
  for strength in (0.0, 0.2):
    dual, primal = (
        adapt(theta, *features, inner_lr=0.3, num_steps=STEPS, regularization=strength)
        for adapt in (base_learner.adapt, base_learner.adapt_primal))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), dual, primal)
  far, near = (
      base_learner.adapt(theta, *features, inner_lr=0.3, num_steps=200,
                         regularization=strength).base_learner for strength in (0.0, 1.0))
  way_of_far = np.linalg.norm(far.kernel - theta.kernel)
  assert np.linalg.norm(near.kernel - theta.kernel) < 0.5 * way_of_far


def test_implicit_needs_regularization():
  theta, support, labels, query, _ = problem()
  options = {'inner_lr': 0.1, 'num_steps': 3, 'gradient_order': 'implicit'}
  with pytest.raises(ValueError, match='regularization above 0'):
    base_learner.adapt(theta, support, labels, query, **options)
  with pytest.raises(ValueError, match='primal'):
    base_learner.adapt_primal(theta, support, labels, query, regularization=0.1, **options)
