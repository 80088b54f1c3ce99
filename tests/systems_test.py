"""The other systems' scores against NumPy and scikit-learn, in float64, and their gradients."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import svm as sklearn_svm
from sklearn.linear_model import Ridge

from mtl_jax import base_learner, inner_loop, network_loop, outer_loop
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.systems import implicit_maml, metric, relation, ridge, set_transformer, svm, tadam
from mtl_jax.types import Backbone, Episode
from tests.phases import finite_differences, smooth_network

WAY, SHOT, QUERIES, WIDTH = 3, 2, 4, 5
NAMES = ('prototypes', 'cosine', 'matching', 'ridge', 'svm', 'relation', 'set_transformer')


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def problem():
  """(support, labels, classes as rows of zeros and a one, query) of one episode."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(WAY), SHOT)
  support = rng.normal(size=(WAY * SHOT, WIDTH)) + labels[:, None]
  return support, labels, np.eye(WAY)[labels], rng.normal(size=(QUERIES, WIDTH)) + 1


def width_only():
  """A backbone of which only the width of features may be read."""
  return Backbone(*[None] * 3, feature_dim=WIDTH, image_shape=(), scaled_layers=(), last_block=())


def centres(support, labels):
  return np.stack([support[labels == k].mean(0) for k in range(WAY)])


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def random_like(tree, seed=1):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(size=np.shape(x)) / 3, tree)


def test_prototypes():
  support, labels, classes, query = problem()
  expected = [[-np.sum((x - c) ** 2) for c in centres(support, labels)] for x in query]
  np.testing.assert_allclose(metric.prototypes({}, support, classes, query), expected, rtol=1e-12)


def test_cosine():
  support, labels, classes, query = problem()
  expected = [[3.0 * cosine(x, c) for c in centres(support, labels)] for x in query]
  scores = metric.cosine({'log_temperature': np.log(3.0)}, support, classes, query)
  np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_matching_gives_the_attention_as_probability():
  support, labels, classes, query = problem()
  weights = np.exp([[cosine(x, s) for s in support] for x in query])
  attention = weights / weights.sum(1, keepdims=True)
  expected = np.stack([attention[:, labels == k].sum(1) for k in range(WAY)], axis=1)
  probabilities = jax.nn.softmax(metric.matching({}, support, classes, query))
  np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


def test_ridge_is_scikit_learns():
  support, _, classes, query = problem()
  theta = {'log_strength': np.log(0.7), 'scale': 2.0, 'shift': -0.5}
  expected = Ridge(alpha=0.7, fit_intercept=False).fit(support, classes).predict(query)
  scores = ridge.score(theta, support, classes, query)
  np.testing.assert_allclose(scores, 2 * expected - 0.5, rtol=1e-9)


def test_svm_is_that_of_crammer_and_singer():
  support, labels, classes, query = problem()
  machine = sklearn_svm.LinearSVC(multi_class='crammer_singer', C=0.1, fit_intercept=False,
                                  tol=1e-10, max_iter=1_000_000).fit(support, labels)
  dual = svm.solve(support @ support.T, classes, steps=2000)
  np.testing.assert_allclose(query @ support.T @ dual, machine.decision_function(query), atol=1e-6)
  # The steps that are taken in practice are near it.
  np.testing.assert_allclose(svm.score({'scale': 1.0}, support, classes, query),
                             machine.decision_function(query), atol=2e-2)


def test_svm_projects_to_the_nearest_point():
  """By bisection for the one number that is taken from each row."""
  rng = np.random.default_rng(3)
  dual, most = rng.normal(size=(50, WAY)), 0.1 * np.eye(WAY)[rng.integers(WAY, size=50)]
  low, high = np.full((50, 1), -10.0), np.full((50, 1), 10.0)
  for _ in range(100):
    middle = (low + high) / 2
    above = np.minimum(dual - middle, most).sum(1, keepdims=True) > 0
    low, high = np.where(above, middle, low), np.where(above, high, middle)
  np.testing.assert_allclose(svm.project(dual, most), np.minimum(dual - low, most), atol=1e-12)


def test_relation():
  support, labels, classes, query = problem()
  theta = random_like(relation.init(width_only(), None, WAY))
  expected = [[np.maximum(c @ theta['class'] + x @ theta['query'] + theta['bias'], 0) @ theta['out']
               for c in centres(support, labels)] for x in query]
  np.testing.assert_allclose(relation.score(theta, support, classes, query), expected, rtol=1e-9)


def test_set_transformer():
  support, labels, classes, query = problem()
  theta = random_like(set_transformer.init(width_only(), None, WAY))

  def norm(x):
    unit = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    return theta['gain'] * unit + theta['offset']

  c = centres(support, labels)
  weights = np.exp((c @ theta['query']) @ (c @ theta['key']).T / np.sqrt(WIDTH))
  weights /= weights.sum(1, keepdims=True)
  moved = norm(c + weights @ (c @ theta['value']) @ theta['out'])
  expected = [[-np.exp(theta['log_temperature']) * np.sum((x - m) ** 2) / WIDTH for m in moved]
              for x in norm(query)]
  scores = set_transformer.score(theta, support, classes, query)
  np.testing.assert_allclose(scores, expected, rtol=1e-7)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_are_those_of_finite_differences(name):
  backbone, variables, tasks = episodes_of_images()
  start = inner_loop.find(name).init(backbone, variables, WAY)
  theta = jax.tree.map(lambda x, noise: np.asarray(x) + noise, start, random_like(start))
  inner = InnerLoop(adapts=name)

  def loss(moved):
    logits = inner_loop.find(name).adapt(moved[0], variables._replace(params=moved[1]), 0.1, tasks,
                                         backbone=backbone, inner=inner)
    return jnp.mean(jnp.square(jax.nn.softmax(logits)[..., 0]))

  moved = (theta, variables.params)
  compiled = jax.jit(loss)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-7),
               jax.jit(jax.grad(loss))(moved), finite_differences(compiled, moved))


def episodes_of_images(tasks=2):
  """(network, Θ, tasks of normalised images of 2x2 pixels)."""
  backbone, variables = smooth_network(channels=2, width=3, columns=2, seed=0)
  rng = np.random.default_rng(0)
  labels = np.tile(np.repeat(np.arange(WAY), SHOT), (tasks, 1))
  images = rng.normal(size=(tasks, WAY * SHOT, 2, 2, 2)) + labels[..., None, None, None]
  return backbone, variables, Episode(images, labels, images[:, ::-1] + 0.5, labels[:, ::-1],
                                      np.tile(np.arange(WAY), (tasks, 1)))


def test_a_system_without_parameters_leaves_nothing_to_learn_over_a_frozen_network():
  backbone, variables = smooth_network()
  for name, refused in (('prototypes', True), ('cosine', False)):
    config = MetaTrainConfig(inner=InnerLoop(adapts=name), learn=Learn('head'))
    if refused:
      with pytest.raises(ValueError, match='adapts=prototypes, which has no parameters'):
        meta_train.check_config(backbone, variables, config)
    else:
      meta_train.check_config(backbone, variables, config)


@pytest.mark.parametrize('name', sorted(set(inner_loop.LOOPS) - {'own'}))
def test_rates_are_learned_where_they_have_a_gradient_and_refused_elsewhere(name):
  backbone, variables, tasks = episodes_of_images()
  inner = InnerLoop(adapts=name, steps=1, lr=0.1, regularization=0.5 * (name == 'implicit_maml'))
  loop = inner_loop.find(name)
  theta = random_like(loop.init(backbone, variables, WAY))
  slope = jax.grad(lambda rate: jnp.sum(jnp.cos(loop.adapt(
      theta, variables, rate, tasks, backbone=backbone, inner=inner))))(0.1)
  assert (np.abs(slope) > 0) == loop.learns_rates
  config = MetaTrainConfig(inner=inner, learn=Learn('ft', inner_lr='scalar'))
  if loop.learns_rates:
    return meta_train.check_config(backbone, variables, config)
  with pytest.raises(ValueError, match='no gradient with respect to its rates'):
    meta_train.check_config(backbone, variables, config)


def test_boil_moves_the_network_and_not_the_classifier():
  """One step of it, against a gradient taken by hand."""
  backbone, variables, tasks = episodes_of_images(tasks=1)
  theta = random_like(inner_loop.find('head').init(backbone, variables, WAY))
  inner = InnerLoop(adapts='boil', steps=1)
  logits = inner_loop.find('boil').adapt(theta, variables, 0.3, tasks, backbone=backbone,
                                         inner=inner)

  def scores(params, images):
    features = backbone.features(variables._replace(params=params), images,
                                 batch_stats_mode='running')
    return features @ theta.kernel + theta.bias[None]

  def loss(params):
    log_p = jax.nn.log_softmax(scores(params, tasks.support[0]))
    return -jnp.mean(log_p[np.arange(WAY * SHOT), tasks.support_labels[0]])

  moved = jax.tree.map(lambda p, g: p - 0.3 * g, variables.params, jax.grad(loss)(variables.params))
  np.testing.assert_allclose(logits[0], scores(moved, tasks.query[0]), rtol=1e-9)


def test_meta_sgd_starts_as_maml_and_has_a_gradient_for_every_rate():
  backbone, variables, tasks = episodes_of_images()
  learner = inner_loop.find('meta_sgd')
  theta = learner.init(backbone, variables, WAY)
  inner = InnerLoop(adapts='meta_sgd', steps=2)
  maml = network_loop.adapt_networks(theta['start'], variables, 0.3, tasks, backbone=backbone,
                                   inner=dataclasses.replace(inner, adapts='all'))
  ours = learner.adapt(theta, variables, 0.3, tasks, backbone=backbone, inner=inner)
  np.testing.assert_allclose(ours, maml, rtol=1e-12)
  config = MetaTrainConfig(inner=dataclasses.replace(inner, lr=0.3), learn=Learn('ft'))
  state = meta_train.init(backbone, variables, config)
  gradient = jax.grad(lambda p: outer_loop.query_loss(p, variables, tasks, backbone=backbone,
                                                      config=config)[0])(state.meta_params)
  assert all(np.abs(leaf).max() > 0
             for leaf in jax.tree.leaves(gradient.base_learner['factors'][0]))
  with pytest.raises(ValueError, match="expected gradient_order 'second'"):
    learner.adapt(theta, variables, 0.3, tasks, backbone=backbone,
                  inner=dataclasses.replace(inner, gradient_order='first'))


def test_reptile_moves_to_where_tasks_lead():
  backbone, variables, tasks = episodes_of_images()
  theta = random_like(inner_loop.find('head').init(backbone, variables, WAY))
  learner, inner = inner_loop.find('reptile'), InnerLoop(adapts='reptile', steps=3)

  def loss(start, weights):
    logits = learner.adapt(start[1], variables._replace(params=start[0]), 0.2, tasks,
                           backbone=backbone, inner=inner)
    return jnp.sum(weights * logits), logits

  def end(images, labels):
    def support_loss(w):
      features = backbone.features(variables._replace(params=w[0]), images,
                                   batch_stats_mode='running')
      log_p = jax.nn.log_softmax(features @ w[1].kernel + w[1].bias[None])
      return -jnp.mean(log_p[np.arange(len(labels)), labels])

    w = start
    for _ in range(3):
      w = jax.tree.map(lambda p, g: p - 0.2 * g, w, jax.grad(support_loss)(w))
    return w

  start = (variables.params, theta)
  weights = np.random.default_rng(1).normal(size=(*tasks.query_labels.shape, WAY))
  (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(start, weights)
  ends = [end(np.concatenate([tasks.support[i], tasks.query[i]]),
              np.concatenate([tasks.support_labels[i], tasks.query_labels[i]])) for i in range(2)]
  expected = jax.tree.map(lambda w, *there: w - sum(there) / 2, start, *ends)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient,
               expected)
  maml = network_loop.adapt_networks(theta, variables, 0.2, tasks, backbone=backbone,
                                     inner=dataclasses.replace(inner, adapts='all'))
  np.testing.assert_allclose(logits, maml, rtol=1e-12)


@pytest.mark.parametrize('batching', ['loop', 'vmap'])
def test_implicit_maml_has_the_gradient_of_the_minimum(monkeypatch, batching):
  """By conjugate gradients to their end, against finite differences."""
  monkeypatch.setattr(implicit_maml, 'CONJUGATE_STEPS', 100)
  backbone, variables, tasks = episodes_of_images()
  theta = random_like(inner_loop.find('head').init(backbone, variables, WAY))
  inner = InnerLoop(adapts='implicit_maml', steps=300, regularization=2.0, batching=batching)

  @jax.jit
  def loss(start):
    logits = inner_loop.find('implicit_maml').adapt(
        start[1], variables._replace(params=start[0]), 0.1, tasks, backbone=backbone, inner=inner)
    return jnp.mean(jax.vmap(base_learner.cross_entropy)(logits, tasks.query_labels))

  start = (variables.params, theta)
  direction = jax.tree.map(lambda x: np.random.default_rng(3).normal(size=x.shape), start)
  ahead, behind = (jax.tree.map(lambda x, d, e=e: x + e * d, start, direction)
                   for e in (1e-5, -1e-5))
  slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(loss)(start),
                                           direction)))
  np.testing.assert_allclose(slope, (loss(ahead) - loss(behind)) / 2e-5, rtol=1e-6)
  with pytest.raises(ValueError, match='expected a regularization above 0'):
    inner_loop.find('implicit_maml').adapt(
        theta, variables, 0.1, tasks, backbone=backbone,
        inner=dataclasses.replace(inner, regularization=0.0))


def test_tadam_starts_as_prototypes_and_conditions_by_the_task():
  backbone, variables, tasks = episodes_of_images()
  learner, inner = inner_loop.find('tadam'), InnerLoop(adapts='tadam')
  theta = learner.init(backbone, variables, WAY)

  def logits(theta):
    return learner.adapt(theta, variables, 0.1, tasks, backbone=backbone, inner=inner)

  squared = inner_loop.find('prototypes').adapt({}, variables, 0.1, tasks, backbone=backbone,
                                                inner=InnerLoop(adapts='prototypes'))
  np.testing.assert_allclose(logits(theta), -5 * np.sqrt(-np.asarray(squared)), rtol=1e-6)
  moved = theta | {'layers': random_like(theta['layers'])}
  by_hand = []
  for index in range(2):
    task = jax.tree.map(lambda x, index=index: x[index], tasks)
    features = backbone.features(variables, task.support, batch_stats_mode='running')
    network = tadam.condition(moved, variables, np.asarray(features).mean(0), backbone)
    support, query = (np.asarray(backbone.features(network, x, batch_stats_mode='running'))
                      for x in (task.support, task.query))
    c = centres(support, task.support_labels)
    by_hand.append([[-5 * np.linalg.norm(x - one) for one in c] for x in query])
  np.testing.assert_allclose(logits(moved), by_hand, rtol=1e-6)
  assert not np.allclose(logits(moved), logits(theta))
