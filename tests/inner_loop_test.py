"""The inner loop that adapts the network, against NumPy and finite differences, in float64."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, inner_loop, network_loop
from mtl_jax.configs import InnerLoop
from mtl_jax.types import BackboneVars, BaseLearner
from tests.phases import finite_differences, numpy_cross_entropy, smooth_features, smooth_network

WAY, SUPPORT, QUERY, STEPS = 3, 6, 9, 3
INNER = InnerLoop(adapts='all', steps=STEPS)


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
  both = np.concatenate([labels, query_labels])
  images = rng.normal(size=(SUPPORT + QUERY, 2, 2, 2)) + both[:, None, None, None]
  return backbone, variables, theta, (images[:SUPPORT], labels, images[SUPPORT:], query_labels)


def numpy_scores(variables, theta, images, mode):
  features = smooth_features(variables, images, batch_stats_mode=mode, xp=np)
  return features @ theta.kernel + theta.bias


def numpy_adapt(variables, theta, task, rates, inner):
  """Gradient descent by finite differences of the support loss, so by no formula for it."""
  blocks = ('block1', 'block2') if inner.adapts == 'all' else ('block2',)
  start = ({name: variables.params[name] for name in blocks}, theta)
  adapted = start

  def loss(adapted):
    full = variables._replace(params={**variables.params, **adapted[0]})
    scores = numpy_scores(full, adapted[1], task[0], inner.batch_stats_mode)
    return numpy_cross_entropy(scores, task[1])

  for rate in rates:
    gradient = finite_differences(loss, adapted)
    adapted = jax.tree.map(
        lambda p, g, p0, rate=rate: p - rate * (g + inner.regularization * (p - p0)),
        adapted, gradient, start)
  return variables._replace(params={**variables.params, **adapted[0]}), adapted[1]


def adapt(theta, variables, task, rates, *, backbone, inner=INNER):
  return network_loop.adapt_network(theta, variables, *task[:3], rates, backbone=backbone,
                                  inner=inner)


@pytest.mark.parametrize('adapts, mode, regularization', [
    ('all', 'running', 0.0), ('last_block', 'running', 0.0), ('all', 'batch', 0.0),
    ('last_block', 'batch', 0.3)])
def test_gradient_descent_on_network_and_classifier(adapts, mode, regularization):
  backbone, variables, theta, task = problem()
  rates = np.array([0.5, 0.2, 0.1])
  inner = dataclasses.replace(INNER, adapts=adapts, batch_stats_mode=mode,
                              regularization=regularization)
  found = jax.jit(functools.partial(adapt, backbone=backbone, inner=inner))(
      theta, variables, task, rates)
  expected, learner = numpy_adapt(variables, theta, task, rates, inner)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
  jax.tree.map(close, found.params, expected.params)
  jax.tree.map(close, found.base_learner, learner)
  close(found.query_logits, numpy_scores(expected, learner, task[2], mode))
  losses = found.support_losses
  assert losses.shape == (STEPS,) and losses[2] < losses[0]
  if adapts == 'last_block':
    jax.tree.map(np.testing.assert_array_equal, found.params['block1'], variables.params['block1'])
  scale, before = (params['block2']['bn']['scale'] for params in (found.params, variables.params))
  assert np.any(scale != before)


def query_loss(params, theta, rates, stats, task, backbone, inner):
  variables = BackboneVars(params, stats)
  found = adapt(theta, variables, task, rates, backbone=backbone, inner=inner)
  return base_learner.cross_entropy(found.query_logits, task[3])


@pytest.mark.parametrize('adapts', ['all', 'last_block'])
def test_second_order_gradient_against_finite_differences(adapts):
  backbone, variables, theta, task = problem(1)
  inner = dataclasses.replace(INNER, adapts=adapts)
  loss = jax.jit(functools.partial(query_loss, stats=variables.batch_stats, task=task,
                                   backbone=backbone, inner=inner))
  start = (variables.params, theta, np.array([0.5, 0.2, 0.1]))
  found = jax.jit(jax.grad(lambda tree: loss(*tree)))(start)
  expected = finite_differences(lambda tree: loss(*tree), start)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8 * largest)
  jax.tree.map(close, found, expected)
  assert np.all(np.abs(found[2]) > 1e-6)  # every rate matters


def test_first_order_gradient_is_that_at_the_adapted_parameters():
  backbone, variables, theta, task = problem(2)
  inner = dataclasses.replace(INNER, adapts='last_block')
  first = dataclasses.replace(inner, gradient_order='first')
  loss = functools.partial(query_loss, rates=0.3, stats=variables.batch_stats, task=task,
                           backbone=backbone, inner=first)
  found = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables.params, theta)
  adapted = jax.jit(functools.partial(adapt, rates=0.3, backbone=backbone, inner=inner))(
      theta, variables, task)

  def loss_there(params, theta):
    there = variables._replace(params=params)
    features = backbone.features(there, task[2], batch_stats_mode='running')
    return base_learner.cross_entropy(base_learner.logits(theta, features), task[3])

  expected = jax.grad(loss_there, argnums=(0, 1))(adapted.params, adapted.base_learner)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
  jax.tree.map(close, found, expected)


def test_adapting_the_head_of_a_network_equals_the_dual_form():
  # With every weight of the network held, the same loop must end where `base_learner.adapt` ends
  # on its features.
  backbone, variables, theta, task = problem(3)
  inner = dataclasses.replace(INNER, adapts='last_block')
  frozen = backbone._replace(last_block=())
  found = jax.jit(functools.partial(adapt, rates=0.3, backbone=frozen, inner=inner))(
      theta, variables, task)
  support, query = (
      jnp.asarray(smooth_features(variables, images, batch_stats_mode='running', xp=np))
      for images in (task[0], task[2]))
  expected = base_learner.adapt(theta, support, task[1], query, inner_lr=0.3, num_steps=STEPS)
  np.testing.assert_allclose(found.query_logits, expected.query_logits, rtol=1e-10)
  np.testing.assert_allclose(found.support_losses, expected.support_losses, rtol=1e-10)


@pytest.mark.parametrize('options, message', [
    ({'adapts': 'head'}, "adapts 'last_block', 'all' or 'film'"),
    ({'gradient_order': 'implicit'}, "got 'all' and 'implicit'"),
    ({'steps': 0}, 'expected num_steps of at least 1, got 0')])
def test_refuses(options, message):
  backbone, variables, theta, task = problem()
  with pytest.raises(ValueError, match=message):
    adapt(theta, variables, task, 0.1, backbone=backbone,
          inner=dataclasses.replace(INNER, **options))


# --- The entries that `InnerLoop.adapts` may name. ---

def test_an_entry_says_itself_whether_it_adapts_the_network():
  found = {name: inner_loop.find(name) for name in ('head', 'last_block', 'all')}
  assert [entry.adapts_network for entry in found.values()] == [False, True, True]
  assert found['head'].adapt is inner_loop.adapt_heads


def test_a_function_stands_for_itself():
  def own(theta, network, rates, tasks, *, backbone, inner):
    return tasks

  assert inner_loop.find(own) == inner_loop.Adaptation(own, adapts_network=False)
  inner = InnerLoop(adapts=own)
  assert inner.adapts is own and hash(inner) == hash(InnerLoop(adapts=own))


def test_registering(monkeypatch):
  monkeypatch.setattr(inner_loop, 'LOOPS', dict(inner_loop.LOOPS))
  inner_loop.register('own', network_loop.adapt_networks, adapts_network=True)
  assert inner_loop.find('own') == inner_loop.find('all')
  with pytest.raises(ValueError, match='than head, last_block, all, film, (.*, )?own, got .own.'):
    inner_loop.register('own', inner_loop.adapt_heads)
  with pytest.raises(ValueError, match='one of head, last_block, all, film, (.*, )?own, got .x.'):
    inner_loop.find('x')
