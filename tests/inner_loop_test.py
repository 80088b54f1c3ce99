"""The inner loop that adapts the network, against NumPy and finite differences, in float64."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, inner_loop
from mtl_jax.types import BackboneVars, BaseLearner
from tests.phases import finite_differences, numpy_cross_entropy, smooth_features, smooth_network

WAY, SUPPORT, QUERY, STEPS = 3, 6, 9, 3


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def problem(seed=0):
  """(backbone, Θ, θ, task arrays) in float64: images of 2x2 pixels."""
  backbone, variables = smooth_network(channels=2, width=3, columns=2, seed=seed)
  rng = np.random.default_rng(seed)
  theta = BaseLearner(rng.normal(size=(6, WAY)), rng.normal(size=WAY))
  labels, query_labels = np.arange(SUPPORT) % WAY, np.arange(QUERY) % WAY
  images = rng.normal(size=(SUPPORT + QUERY, 2, 2, 2)) + np.concatenate([labels, query_labels])[:, None, None, None]
  return backbone, variables, theta, (images[:SUPPORT], labels, images[SUPPORT:], query_labels)


def numpy_scores(variables, theta, images, mode):
  return smooth_features(variables, images, batch_stats_mode=mode, xp=np) @ theta.kernel + theta.bias


def numpy_adapt(variables, theta, task, adapts, rates, mode, regularization=0.0):
  """Gradient descent by finite differences of the support loss, so by no formula for its gradient."""
  blocks = ('block1', 'block2') if adapts == 'all' else ('block2',)
  start = ({name: variables.params[name] for name in blocks}, theta)
  adapted = start

  def loss(adapted):
    full = variables._replace(params={**variables.params, **adapted[0]})
    return numpy_cross_entropy(numpy_scores(full, adapted[1], task[0], mode), task[1])

  for rate in rates:
    gradient = finite_differences(loss, adapted)
    adapted = jax.tree.map(lambda p, g, p0, rate=rate: p - rate * (g + regularization * (p - p0)), adapted, gradient,
                           start)
  return variables._replace(params={**variables.params, **adapted[0]}), adapted[1]


def adapt(theta, variables, task, inner_lr, backbone, **options):
  return inner_loop.adapt_network(theta, variables, *task[:3], backbone=backbone, inner_lr=inner_lr, num_steps=STEPS,
                                  **options)


@pytest.mark.parametrize('adapts, mode, regularization', [
    ('all', 'running', 0.0), ('last_block', 'running', 0.0), ('all', 'batch', 0.0), ('last_block', 'batch', 0.3)])
def test_gradient_descent_on_network_and_classifier(adapts, mode, regularization):
  backbone, variables, theta, task = problem()
  rates = np.array([0.5, 0.2, 0.1])
  options = {'adapts': adapts, 'batch_stats_mode': mode, 'regularization': regularization}
  found = jax.jit(functools.partial(adapt, backbone=backbone, **options))(theta, variables, task, rates)
  expected, learner = numpy_adapt(variables, theta, task, adapts, rates, mode, regularization)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, found.params, expected.params)
  jax.tree.map(close, found.base_learner, learner)
  close(found.query_logits, numpy_scores(expected, learner, task[2], mode))
  assert found.support_losses.shape == (STEPS,) and found.support_losses[2] < found.support_losses[0]
  if adapts == 'last_block':
    jax.tree.map(np.testing.assert_array_equal, found.params['block1'], variables.params['block1'])
  assert np.any(found.params['block2']['bn']['scale'] != variables.params['block2']['bn']['scale'])


def query_loss(params, theta, inner_lr, stats, task, backbone, **options):
  found = adapt(theta, BackboneVars(params, stats), task, inner_lr, backbone, **options)
  return base_learner.cross_entropy(found.query_logits, task[3])


@pytest.mark.parametrize('adapts', ['all', 'last_block'])
def test_second_order_gradient_against_finite_differences(adapts):
  backbone, variables, theta, task = problem(1)
  loss = jax.jit(functools.partial(query_loss, stats=variables.batch_stats, task=task, backbone=backbone,
                                   adapts=adapts))
  start = (variables.params, theta, np.array([0.5, 0.2, 0.1]))
  found = jax.jit(jax.grad(lambda tree: loss(*tree)))(start)
  expected = finite_differences(lambda tree: loss(*tree), start)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8 * largest), found, expected)
  assert np.all(np.abs(found[2]) > 1e-6)  # every rate matters


def test_first_order_gradient_is_that_at_the_adapted_parameters():
  backbone, variables, theta, task = problem(2)
  options = {'backbone': backbone, 'adapts': 'last_block', 'inner_lr': 0.3}
  found = jax.jit(jax.grad(lambda params, theta: query_loss(
      params, theta, stats=variables.batch_stats, task=task, gradient_order='first', **options), argnums=(0, 1)))(
          variables.params, theta)
  adapted = jax.jit(functools.partial(adapt, **options))(theta, variables, task)

  def loss_there(params, theta):
    features = backbone.features(variables._replace(params=params), task[2], batch_stats_mode='running')
    return base_learner.cross_entropy(base_learner.logits(theta, features), task[3])

  expected = jax.grad(loss_there, argnums=(0, 1))(adapted.params, adapted.base_learner)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)


def test_adapting_the_head_of_a_network_equals_the_dual_form():
  # With every weight of the network held, the same loop must give what `base_learner.adapt` gives on its features.
  backbone, variables, theta, task = problem(3)
  frozen = backbone._replace(last_block=())
  found = jax.jit(functools.partial(adapt, backbone=frozen, adapts='last_block', inner_lr=0.3))(theta, variables, task)
  support, query = (smooth_features(variables, images, batch_stats_mode='running', xp=np) for images in
                    (task[0], task[2]))
  expected = base_learner.adapt(theta, jnp.asarray(support), task[1], jnp.asarray(query), inner_lr=0.3,
                                num_steps=STEPS)
  np.testing.assert_allclose(found.query_logits, expected.query_logits, rtol=1e-10)
  np.testing.assert_allclose(found.support_losses, expected.support_losses, rtol=1e-10)


@pytest.mark.parametrize('options, message', [
    ({'adapts': 'head'}, "adapts 'last_block' or 'all'"),
    ({'adapts': 'all', 'gradient_order': 'implicit'}, "got 'all' and 'implicit'")])
def test_refuses(options, message):
  backbone, variables, theta, task = problem()
  with pytest.raises(ValueError, match=message):
    adapt(theta, variables, task, 0.1, backbone, **options)
