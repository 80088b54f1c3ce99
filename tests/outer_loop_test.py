"""The outer loop: its loss in NumPy, gradients by finite differences, and Adam by hand."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import hard_tasks, outer_loop
from mtl_jax.phases import meta_train
from mtl_jax.types import BackboneVars, BaseLearner, Episode, MetaParams, MetaState
from tests.phases import (
  changed,
  features_of,
  finite_differences,
  numpy_adapt,
  numpy_cross_entropy,
  one_layer,
  tiny_network,
)
from tests.phases.one_layer import BACKBONE, CONFIG, tasks_of

THREE_WAY = changed(CONFIG, way=3, crop_padding=0, flip=False)


def problem(num_tasks=2, seed=0):
  """(meta_params, variables, tasks) in float64; 3-way, 2 images of support and query per class."""
  rng = np.random.default_rng(seed)
  layer = {'kernel': rng.normal(size=(1, 1, 2, 3)), 'bias': rng.normal(size=3)}
  stats = {'mean': rng.normal(size=3), 'var': rng.uniform(0.5, 2, 3)}
  phi = {'conv': {'scale': rng.uniform(0.5, 1.5, (1, 1, 2, 3)), 'shift': rng.normal(size=3)}}
  theta = BaseLearner(rng.normal(size=(6, 3)), rng.normal(size=3))
  labels = np.tile(np.repeat(np.arange(3), 2), (num_tasks, 1))
  images = rng.normal(size=(2, num_tasks, 6, 3, 2, 2)) + 0.5 * labels[None, ..., None, None, None]
  class_ids = np.tile(np.arange(3), (num_tasks, 1))
  tasks = Episode(images[0], labels, images[1], labels, class_ids)
  return MetaParams(phi, {}, theta, {}, {}), BackboneVars({'conv': layer}, stats), tasks


def numpy_outer_loss(meta_params, variables, tasks, mode, frozen=None):
  """Mean query loss.

  With `frozen`, the adaptations θ' - θ and the support features are those of these parameters.
  """
  phi, theta = meta_params.scale_shift, meta_params.base_learner
  start = meta_params if frozen is None else frozen

  def features(images, phi):
    layer, own = variables.params['conv'], phi['conv']
    layer = {'kernel': layer['kernel'] * own['scale'], 'bias': layer['bias'] + own['shift']}
    network = variables._replace(params={'conv': layer})
    return one_layer.features(network, images, batch_stats_mode=mode, xp=np)

  losses = []
  for support, labels, query, query_labels, _ in zip(*tasks, strict=True):
    adapted = numpy_adapt(*start.base_learner, features(support, start.scale_shift), labels, 0.3, 4)
    kernel, bias = (new - old + own for new, old, own in zip(
        adapted, start.base_learner, theta, strict=True))
    losses.append(numpy_cross_entropy(features(query, phi) @ kernel + bias, query_labels))
  return np.mean(losses)


@pytest.mark.parametrize('order, mode', [
    ('second', 'running'), ('second', 'batch'), ('first', 'running')])
def test_meta_gradient_against_finite_differences(order, mode):
  arguments = problem()
  config = changed(THREE_WAY, inner={
      'lr': 0.3, 'steps': 4, 'gradient_order': order, 'batch_stats_mode': mode})
  with jax.enable_x64(True):
    loss = functools.partial(outer_loop.query_loss, backbone=BACKBONE, config=config)
    (value, logits), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        *jax.tree.map(jnp.asarray, arguments))
  assert logits.shape == (2, 6, 3)
  np.testing.assert_allclose(value, numpy_outer_loss(*arguments, mode), rtol=1e-10)
  frozen = arguments[0] if order == 'first' else None
  expected = finite_differences(
      lambda p: numpy_outer_loss(p, *arguments[1:], mode, frozen), arguments[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
               found, expected)
  assert np.abs(expected.scale_shift['conv']['scale']).max() > 1e-3
  if mode == 'batch':
    # A shift directly before batch norm with batch statistics is subtracted out again.
    np.testing.assert_allclose(found.scale_shift['conv']['shift'], 0, atol=1e-12)


def test_outer_loss_is_the_mean_over_tasks():
  meta_params, variables, tasks = jax.tree.map(jnp.asarray, problem(num_tasks=3))
  loss = jax.jit(functools.partial(outer_loop.query_loss, backbone=BACKBONE, config=THREE_WAY))
  each = [float(loss(meta_params, variables, jax.tree.map(lambda x, i=i: x[i:i + 1], tasks))[0])
          for i in range(3)]
  assert max(each) - min(each) > 1e-3
  np.testing.assert_allclose(loss(meta_params, variables, tasks)[0], np.mean(each), rtol=1e-5)


@pytest.mark.parametrize('microbatch, part', [(1, 1), (4, 3)])
def test_a_step_in_microbatches_is_the_step(microbatch, part, monkeypatch):
  sizes, original = [], outer_loop.query_loss
  # With it a step is minus the gradient.
  monkeypatch.setattr(outer_loop, 'make_optimizer', lambda config: optax.sgd(1.0))
  with jax.enable_x64(True):
    meta_params, variables, tasks = jax.tree.map(jnp.asarray, problem(num_tasks=6))
    config = changed(THREE_WAY, microbatch=microbatch, meta_batch=6)
    options = {'backbone': BACKBONE, 'config': config}
    value_and_grad = jax.jit(jax.value_and_grad(functools.partial(original, **options),
                                                has_aux=True))
    (loss, logits), gradient = jax.tree.map(
        np.asarray, value_and_grad(meta_params, variables, tasks))
    monkeypatch.setattr(outer_loop, 'query_loss', lambda p, v, part, **options: (
        sizes.append(len(part.class_ids)), original(p, v, part, **options))[1])
    optimizer = outer_loop.make_optimizer(config)
    state = MetaState(jnp.zeros((), jnp.int32), meta_params, optimizer.init(meta_params))
    keys = meta_train.task_keys(jax.random.key(0), 0, config)
    # Nothing is left to augment or to normalise, so the step sees the tasks as they are.
    step = jax.jit(functools.partial(meta_train.step_on, **options))
    after, failures, metrics = jax.tree.map(np.asarray, step(
        state, np.zeros(3, np.int32), tasks, keys, variables, None, False))
  assert set(sizes) == {part}
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  jax.tree.map(lambda old, new, g: np.testing.assert_allclose(old - new, g, rtol=1e-9, atol=1e-14),
               problem(num_tasks=6)[0], after.meta_params, gradient)
  labels, class_ids = np.asarray(tasks.query_labels), np.asarray(tasks.class_ids)
  np.testing.assert_allclose(metrics['accuracy'], np.mean(np.argmax(logits, -1) == labels))
  failed = [int(hard_tasks.failure_class(*each))
            for each in zip(logits, labels, class_ids, strict=True)]
  np.testing.assert_array_equal(failures, np.bincount(failed, minlength=3))


def test_microbatches_leave_the_order_of_tasks():
  arguments = jax.tree.map(jnp.asarray, problem(num_tasks=6))
  whole, parts = (
      jax.jit(functools.partial(outer_loop.value_and_gradient, backbone=BACKBONE,
                                config=changed(THREE_WAY, microbatch=size)))(*arguments)
      for size in (6, 2))
  assert parts.query_logits.shape == (6, 6, 3)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)


def test_batch_statistics_are_of_one_task_with_support_and_query_apart():
  backbone, variables = tiny_network()
  kernel = 0.3 * jax.random.normal(jax.random.key(1), (4, 2))
  theta = BaseLearner(kernel, jnp.array([0.1, -0.2]))
  tasks, config = tasks_of(), changed(CONFIG, inner={'batch_stats_mode': 'batch'})
  loss = jax.jit(functools.partial(outer_loop.query_loss, backbone=backbone, config=config))
  _, logits = loss(MetaParams({}, {}, theta, {}, {}), variables, tasks)
  for i in range(CONFIG.meta_batch):
    support, query = (np.asarray(features_of(variables, images[i], 'batch'), np.float64)
                      for images in (tasks.support, tasks.query))
    labels = np.asarray(tasks.support_labels[i])
    kernel, bias = numpy_adapt(*map(np.asarray, theta), support, labels, 0.1, 3)
    np.testing.assert_allclose(logits[i], query @ kernel + bias, rtol=1e-3, atol=1e-4)


def test_outer_steps_equal_adam_by_hand():
  backbone, variables = one_layer.network()
  config = changed(CONFIG, outer_lr=0.01, outer_lr_halving=1, outer_lr_floor=0.004)
  options = {'backbone': backbone, 'config': config}
  gradient_of = jax.jit(functools.partial(jax.grad(outer_loop.query_loss, has_aux=True),
                                          **options))
  step = jax.jit(functools.partial(one_layer.outer_step, **options))
  state = meta_train.init(backbone, variables, config)
  params = jax.tree.map(np.asarray, state.meta_params)
  m = v = jax.tree.map(np.zeros_like, params)
  for t, rate in ((1, 0.01), (2, 0.005), (3, 0.004)):  # halved every step, down to the floor
    g = jax.tree.map(np.asarray, gradient_of(params, variables, tasks_of(t))[0])
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g ** 2, v, g)
    params = jax.tree.map(lambda p, m, v, t=t, rate=rate: p - rate * (m / (1 - 0.9 ** t)) / (
        np.sqrt(v / (1 - 0.999 ** t)) + 1e-8), params, m, v)
    state, metrics, failed = step(state, variables, tasks_of(t))
    assert int(state.step) == t and failed.shape == (2,)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
                 state.meta_params, params)
    params = jax.tree.map(np.asarray, state.meta_params)
  assert 0 <= metrics['accuracy'] <= 1


def test_learning_the_head_alone():
  backbone, variables = one_layer.network()
  state = meta_train.init(backbone, variables, changed(CONFIG, learn={'learn': 'head'}))
  assert state.meta_params.scale_shift == {}
  step = jax.jit(functools.partial(one_layer.outer_step, backbone=backbone, config=CONFIG))
  after, _, _ = step(state, variables, tasks_of())
  assert after.meta_params.scale_shift == {}
  assert np.any(np.asarray(after.meta_params.base_learner.kernel))
