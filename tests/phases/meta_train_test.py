"""Meta-training: gradients against finite differences of a NumPy loss, Adam by hand, and the hard-task cycle."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtl_jax import hard_tasks, inner_loop, outer_loop, scale_shift
from mtl_jax.execution import on_device
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.runs import runs
from mtl_jax.types import Backbone, BackboneVars, BaseLearner, Episode, MetaParams, MetaState
from tests.golden import meta_step
from tests.phases import (
  MEAN,
  STD,
  features_of,
  finite_differences,
  numpy_adapt,
  numpy_cross_entropy,
  tiny_network,
  toy_dataset,
  toy_pool,
)

CLASSES = 14
CONFIG = meta_train.MetaTrainConfig(way=2, shot=1, query=4, ordinary_tasks=6, hard_tasks=4, inner_lr=0.1,
                                    inner_steps=3, crop_padding=2, outer_lr=0.01)
ROOT = jax.random.key(7)


# --- The outer loss against NumPy, in float64, on a network small enough to write twice. ---

def smooth_features(np, variables, images, mode):
  """conv 1x1 -> normalisation -> tanh -> mean of rows; `np` is NumPy or jax.numpy."""
  layer, stats = variables.params['conv'], variables.batch_stats
  x = images @ layer['kernel'][0, 0] + layer['bias']
  mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if mode == 'batch' else (stats['mean'], stats['var'])
  return np.tanh((x - mean) / np.sqrt(var + 1e-5)).mean(1).reshape(len(images), -1)


SMOOTH = Backbone(None, lambda v, x, *, batch_stats_mode: smooth_features(jnp, v, x, batch_stats_mode), None, 6,
                  (3, 2, 2), (('conv',),), (('conv',),))


def smooth_network():
  """The same for images of the toy pool: much faster to compile than convolutions are."""
  rng = np.random.default_rng(3)
  variables = BackboneVars({'conv': {'kernel': rng.normal(size=(1, 1, 3, 3)), 'bias': rng.normal(size=3)}},
                           {'mean': 0.3 * rng.normal(size=3), 'var': rng.uniform(1, 4, 3)})
  return SMOOTH._replace(feature_dim=48), jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def smooth_problem(num_tasks=2, seed=0):
  """(meta_params, variables, tasks) in float64; 3-way, 2 images of support and of query per class."""
  rng = np.random.default_rng(seed)
  variables = BackboneVars({'conv': {'kernel': rng.normal(size=(1, 1, 2, 3)), 'bias': rng.normal(size=3)}},
                           {'mean': rng.normal(size=3), 'var': rng.uniform(0.5, 2, 3)})
  phi = {'conv': {'scale': rng.uniform(0.5, 1.5, (1, 1, 2, 3)), 'shift': rng.normal(size=3)}}
  theta = BaseLearner(rng.normal(size=(6, 3)), rng.normal(size=3))
  labels = np.tile(np.repeat(np.arange(3), 2), (num_tasks, 1))
  images = rng.normal(size=(2, num_tasks, 6, 3, 2, 2)) + 0.5 * labels[..., None, None, None]
  class_ids = np.tile(np.arange(3), (num_tasks, 1))
  return MetaParams(phi, {}, theta, {}), variables, Episode(images[0], labels, images[1], labels, class_ids)


def numpy_outer_loss(meta_params, variables, tasks, mode, frozen=None):
  """Mean query loss; with `frozen`, the adaptations θ' - θ and support features are those of these parameters."""
  phi, theta = meta_params.scale_shift, meta_params.base_learner

  def features(images, phi):
    layer = variables.params['conv']
    layer = {'kernel': layer['kernel'] * phi['conv']['scale'], 'bias': layer['bias'] + phi['conv']['shift']}
    return smooth_features(np, variables._replace(params={'conv': layer}), images, mode)

  losses = []
  for support, labels, query, query_labels, _ in zip(*tasks, strict=True):
    start = frozen if frozen is not None else meta_params
    kernel, bias = numpy_adapt(*start.base_learner, features(support, start.scale_shift), labels, 0.3, 4)
    kernel, bias = kernel - start.base_learner.kernel + theta.kernel, bias - start.base_learner.bias + theta.bias
    losses.append(numpy_cross_entropy(features(query, phi) @ kernel + bias, query_labels))
  return np.mean(losses)


@pytest.mark.parametrize('order, mode', [('second', 'running'), ('second', 'batch'), ('first', 'running')])
def test_meta_gradient_against_finite_differences(order, mode):
  problem = smooth_problem()
  config = CONFIG._replace(way=3, inner_lr=0.3, inner_steps=4, gradient_order=order, batch_stats_mode=mode)
  with jax.enable_x64(True):
    loss = functools.partial(outer_loop.query_loss, backbone=SMOOTH, config=config)
    (value, logits), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(*jax.tree.map(jnp.asarray, problem))
  assert logits.shape == (2, 6, 3)
  np.testing.assert_allclose(value, numpy_outer_loss(*problem, mode), rtol=1e-10)
  frozen = problem[0] if order == 'first' else None
  expected = finite_differences(lambda p: numpy_outer_loss(p, *problem[1:], mode, frozen), problem[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), found, expected)
  assert np.abs(expected.scale_shift['conv']['scale']).max() > 1e-3
  if mode == 'batch':  # a shift directly before batch norm with batch statistics is subtracted out again
    np.testing.assert_allclose(found.scale_shift['conv']['shift'], 0, atol=1e-12)


def test_outer_loss_is_the_mean_over_tasks():
  meta_params, variables, tasks = jax.tree.map(jnp.asarray, smooth_problem(num_tasks=3))
  jitted = jax.jit(functools.partial(outer_loop.query_loss, backbone=SMOOTH, config=CONFIG._replace(way=3)))
  each = [float(jitted(meta_params, variables, jax.tree.map(lambda x, i=i: x[i:i + 1], tasks))[0]) for i in range(3)]
  assert max(each) - min(each) > 1e-3
  np.testing.assert_allclose(jitted(meta_params, variables, tasks)[0], np.mean(each), rtol=1e-5)


@pytest.mark.parametrize('tasks_at_once, part', [(1, 1), (4, 3)])
def test_a_step_in_parts_of_the_meta_batch_is_the_step(tasks_at_once, part, monkeypatch):
  sizes, original = [], outer_loop.query_loss
  monkeypatch.setattr(outer_loop, 'make_optimizer', lambda config: optax.sgd(1.0))  # the step is minus the gradient
  with jax.enable_x64(True):
    meta_params, variables, tasks = jax.tree.map(jnp.asarray, smooth_problem(num_tasks=6))
    config = CONFIG._replace(way=3, tasks_at_once=tasks_at_once)
    value_and_grad = jax.jit(jax.value_and_grad(
        functools.partial(original, backbone=SMOOTH, config=config), has_aux=True))
    (loss, logits), gradient = jax.tree.map(np.asarray, value_and_grad(meta_params, variables, tasks))
    monkeypatch.setattr(outer_loop, 'query_loss', lambda p, v, part, **options: (
        sizes.append(len(part.class_ids)), original(p, v, part, **options))[1])
    state = MetaState(jnp.zeros((), jnp.int32), meta_params, outer_loop.make_optimizer(config).init(meta_params))
    step = jax.jit(functools.partial(outer_loop.step, backbone=SMOOTH, config=config))
    after, metrics, failed = jax.tree.map(np.asarray, step(state, variables, tasks))
  assert set(sizes) == {part}
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  jax.tree.map(lambda old, new, g: np.testing.assert_allclose(old - new, g, rtol=1e-9, atol=1e-14),
               smooth_problem(num_tasks=6)[0], after.meta_params, gradient)
  labels, class_ids = np.asarray(tasks.query_labels), np.asarray(tasks.class_ids)
  np.testing.assert_allclose(metrics['accuracy'], np.mean(np.argmax(logits, -1) == labels))
  expected = [hard_tasks.failure_class(*each) for each in zip(logits, labels, class_ids, strict=True)]
  np.testing.assert_array_equal(failed, expected)


# --- One outer step of the real network. ---

def pool():
  return jax.tree.map(jnp.asarray, toy_pool([6, 9, 7, 5, 8, 6, 7] * 2))


def random_phi(backbone, variables, seed=0):
  rng = np.random.default_rng(seed)
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  return jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32), identity)


_DRAW = jax.jit(functools.partial(meta_train.draw_tasks, config=CONFIG))


def draw(key, failures, hard):
  return _DRAW(key, pool(), MEAN, STD, np.asarray(failures, np.int32), hard)


@functools.cache
def tasks_of(key_number=0):
  return draw(jax.random.key(key_number), np.zeros(CLASSES), False)


@functools.partial(jax.jit, static_argnames='mode')
def encode(phi, mode):
  backbone, variables = tiny_network()
  modulated = variables._replace(params=scale_shift.modulate(variables.params, phi))
  return inner_loop.encode(modulated, tasks_of().query_images, backbone=backbone, batch_stats_mode=mode)


def test_encode_is_a_loop_over_tasks():
  backbone, variables = tiny_network()
  phi, images = random_phi(backbone, variables), tasks_of().query_images
  modulated = variables._replace(params=scale_shift.modulate(variables.params, phi))
  for mode in ('running', 'batch'):
    found = encode(phi, mode)
    expected = [features_of(modulated, task, mode) for task in images]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_batch_statistics_are_of_one_task_with_support_and_query_apart():
  backbone, variables = tiny_network()
  theta = BaseLearner(0.3 * jax.random.normal(jax.random.key(1), (4, 2)), jnp.array([0.1, -0.2]))
  tasks, config = tasks_of(), CONFIG._replace(batch_stats_mode='batch')
  loss = jax.jit(functools.partial(outer_loop.query_loss, backbone=backbone, config=config))
  _, logits = loss(MetaParams({}, {}, theta, {}), variables, tasks)
  for i in range(CONFIG.meta_batch):
    support, query = (np.asarray(features_of(variables, images[i], 'batch'), np.float64)
                      for images in (tasks.support_images, tasks.query_images))
    kernel, bias = numpy_adapt(*map(np.asarray, theta), support, np.asarray(tasks.support_labels[i]), 0.1, 3)
    np.testing.assert_allclose(logits[i], query @ kernel + bias, rtol=1e-3, atol=1e-4)


def test_shift_has_no_effect_under_batch_statistics():
  backbone, variables = tiny_network()
  phi = random_phi(backbone, variables)
  shifted = {block: {'conv': layer['conv'] | {'shift': layer['conv']['shift'] + 1}} for block, layer in phi.items()}
  for mode, has_effect in (('batch', False), ('running', True)):
    plain, moved = encode(phi, mode), encode(shifted, mode)
    assert (np.abs(plain - moved).max() > 1e-3) == has_effect


def test_outer_steps_equal_adam_by_hand():
  backbone, variables = smooth_network()
  config = CONFIG._replace(outer_lr=0.01, outer_lr_halving=1, outer_lr_floor=0.004)
  options = {'backbone': backbone, 'config': config}
  gradient_of = jax.jit(functools.partial(jax.grad(outer_loop.query_loss, has_aux=True), **options))
  step = jax.jit(functools.partial(outer_loop.step, **options))
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), state.meta_params, params)
    params = jax.tree.map(np.asarray, state.meta_params)
  assert 0 <= metrics['accuracy'] <= 1


def test_the_backbone_is_no_part_of_the_state():
  backbone, variables = tiny_network()
  state = meta_train.init(backbone, variables, CONFIG)
  assert isinstance(state, MetaState) and state._fields == ('step', 'meta_params', 'opt_state')
  assert scale_shift.count(state.meta_params.scale_shift) == 3 * 4 + 3 * 4 * 4 + 4 * 4  # scales, then shifts
  assert all(leaf.shape[:2] != (3, 3) for leaf in jax.tree.leaves(state))
  for layer in state.meta_params.scale_shift.values():
    np.testing.assert_array_equal(layer['conv']['scale'], 1)
    np.testing.assert_array_equal(layer['conv']['shift'], 0)


def test_learning_the_head_alone():
  backbone, variables = smooth_network()
  state = meta_train.init(backbone, variables, CONFIG._replace(learn='head'))
  assert state.meta_params.scale_shift == {}
  step = jax.jit(functools.partial(outer_loop.step, backbone=backbone, config=CONFIG))
  after, _, _ = step(state, variables, tasks_of())
  assert after.meta_params.scale_shift == {}
  assert np.any(np.asarray(after.meta_params.base_learner.kernel))


# --- The cycle. ---

def steps_of(cycles, monkeypatch=None, config=CONFIG):
  """Runs cycles on one compiled call: (state, metrics, tasks seen by each outer step, traces)."""
  backbone, variables = smooth_network()
  seen, traces, original = [], [], outer_loop.step

  def record(*arrays):
    seen.append([np.asarray(a) for a in arrays])

  def spy(state, backbone_vars, tasks, **options):
    after, metrics, failed = original(state, backbone_vars, tasks, **options)
    jax.debug.callback(record, state.step, tasks.class_ids, failed, ordered=True)
    return after, metrics, failed

  def counted(*arguments, **options):
    traces.append(1)
    return meta_train.cycle(*arguments, **options)

  monkeypatch.setattr(outer_loop, 'step', spy)
  advance = on_device.compiled(counted, ROOT, variables, pool(), MEAN, STD, backbone=backbone, config=config)
  state = meta_train.init(backbone, variables, config)
  for _ in range(cycles):
    state, metrics = advance(state)
  jax.effects_barrier()
  return state, metrics, seen, len(traces)


def test_a_cycle_is_ordinary_tasks_then_hard_tasks_of_the_classes_that_failed(monkeypatch):
  cycles = 4
  state, metrics, seen, traces = steps_of(cycles, monkeypatch)
  assert traces == 1 and int(state.step) == 5 * cycles and [int(s[0]) for s in seen] == list(range(5 * cycles))
  assert set(metrics) == {'loss', 'accuracy', 'hard_loss', 'hard_accuracy'}
  checked = outside_earlier = 0
  earlier = set()
  for first in range(0, 5 * cycles, 5):
    failures = np.zeros(CLASSES, np.int32)
    for t in range(first, first + 5):
      is_hard = t - first >= 3
      expected = draw(jax.random.fold_in(ROOT, t), failures, is_hard).class_ids
      np.testing.assert_array_equal(seen[t][1], expected)
      assert all(len(set(classes)) == 2 for classes in seen[t][1])
      assert all(failed in classes for failed, classes in zip(seen[t][2], seen[t][1], strict=True))
      if not is_hard:
        np.add.at(failures, seen[t][2], 1)
      elif np.sum(failures > 0) >= CONFIG.way:
        assert np.all(failures[seen[t][1]] > 0)
        checked += 1
    outside_earlier += len(earlier - set(np.flatnonzero(failures)))
    earlier |= set(np.flatnonzero(failures))
  assert checked >= 6 and outside_earlier > 0  # the collection of one cycle did not hold all of the ones before


@functools.cache
def compiled_cycle():
  return jax.jit(functools.partial(meta_train.cycle, backbone=smooth_network()[0], config=CONFIG), donate_argnums=0)


def test_cycle_equals_its_outer_steps_one_by_one():
  backbone, variables = smooth_network()
  step = jax.jit(functools.partial(outer_loop.step, backbone=backbone, config=CONFIG))
  state, failures, each = meta_train.init(backbone, variables, CONFIG), np.zeros(CLASSES, np.int32), []
  found, metrics = compiled_cycle()(meta_train.init(backbone, variables, CONFIG), ROOT, variables, pool(), MEAN, STD)
  for t in range(5):
    tasks = draw(jax.random.fold_in(ROOT, t), failures, t >= 3)
    state, values, failed = step(state, variables, tasks)
    each.append(values)
    if t < 3:
      np.add.at(failures, np.asarray(failed), 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found.meta_params,
               state.meta_params)
  for name in ('loss', 'accuracy'):
    np.testing.assert_allclose(metrics[name], np.mean([v[name] for v in each[:3]]), rtol=1e-3)
    np.testing.assert_allclose(metrics[f'hard_{name}'], np.mean([v[name] for v in each[3:]]), rtol=1e-3)


def test_cycle_without_hard_tasks(monkeypatch):
  state, metrics, seen, _ = steps_of(1, monkeypatch, CONFIG._replace(hard_tasks=0))
  assert int(state.step) == len(seen) == 3 and set(metrics) == {'loss', 'accuracy'}


def test_resuming_donation_and_a_backbone_that_stays():
  backbone, variables = smooth_network()
  before = jax.tree.map(np.array, variables)
  jitted = compiled_cycle()
  arguments = (ROOT, variables, pool(), MEAN, STD)
  start = meta_train.init(backbone, variables, CONFIG)
  middle, _ = jitted(start, *arguments)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
  on_host = jax.tree.map(np.array, middle)
  end, metrics = jitted(middle, *arguments)
  assert int(on_host.step) == 5 and int(end.step) == 10 and jitted._cache_size() == 1
  resumed, resumed_metrics = jitted(jax.tree.map(jnp.asarray, on_host), *arguments)
  jax.tree.map(np.testing.assert_array_equal, (end, metrics), (resumed, resumed_metrics))
  jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, variables))
  assert np.any(np.asarray(end.meta_params.scale_shift['conv']['scale']) != 1)


def test_drawn_tasks_are_augmented_and_normalised_images_of_their_classes():
  plain = CONFIG._replace(crop_padding=0, flip=False)
  draw_plain = jax.jit(functools.partial(meta_train.draw_tasks, config=plain))
  found = draw_plain(jax.random.key(0), pool(), MEAN, STD, jnp.zeros(CLASSES, jnp.int32), False)
  assert found.support_images.shape == (2, 2, 16, 16, 3) and found.query_images.shape == (2, 8, 16, 16, 3)
  normalised = (np.asarray(pool().images, np.float32) / 255 - MEAN) / STD
  class_of = np.repeat(np.arange(CLASSES), np.asarray(pool().class_sizes))
  for images, labels, class_ids in zip(found.query_images, found.query_labels, found.class_ids, strict=True):
    for image, label in zip(images, labels, strict=True):
      distance = np.abs(normalised - np.asarray(image)).max(axis=(1, 2, 3))
      assert distance.min() < 1e-5 and class_of[distance.argmin()] == class_ids[label]
  assert np.any(np.asarray(found.class_ids[0] != found.class_ids[1]))


@pytest.mark.parametrize('settings, message', [
    ({'ordinary_tasks': 5}, 'ordinary_tasks to be a multiple of meta_batch = 2, got 5'),
    ({'hard_tasks': 3}, 'hard_tasks to be a multiple of meta_batch = 2, got 3'),
    ({'hard_tasks': -2}, 'hard_tasks of at least 0, got -2'),
    ({'ordinary_tasks': 0}, 'ordinary_tasks of at least 2, got 0'),
    ({'tasks_at_once': -1}, 'tasks_at_once of at least 0, got -1'),
    ({'meta_batch': 0}, 'meta_batch of at least 1, got 0')])
def test_steps_per_cycle_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    meta_train.steps_per_cycle(CONFIG._replace(**settings))


def test_steps_per_cycle_of_the_paper():
  assert meta_train.steps_per_cycle(meta_train.MetaTrainConfig()) == 15
  assert meta_train.steps_per_cycle(meta_train.MetaTrainConfig(hard_tasks=0)) == 10


# --- Across phases. ---

class _Captured(Exception):
  """Ends a run once what it would train on is known."""


@pytest.mark.parametrize('phase', ['pretrain', 'meta_train'])
def test_validation_and_test_images_never_reach_training(phase, tmp_path, monkeypatch):
  # A training call is a function of the state and of the arrays that it is compiled with: those must not depend on
  # validation and test images.
  backbone, variables = tiny_network()
  settings = {'command': 'pretrain', 'backbone': {'name': 'conv4', 'width': 4}, 'readout': {}}

  def stop(state, advance, validate, **options):
    raise _Captured(state, advance, options['num_steps'])

  monkeypatch.setattr(on_device, 'compiled', lambda step, *arguments, **options: (step, arguments))
  monkeypatch.setattr(runs.training, 'fit', stop)
  monkeypatch.setattr(runs, 'load', lambda *_: runs.Learned(backbone, variables, None, MEAN, STD, settings))
  own = {'pretrain': functools.partial(runs.pretrain_run, backbone=settings['backbone'],
                                       config=pretrain.PretrainConfig(4, 8)),
         'meta_train': functools.partial(runs.meta_train_run, pretrained='', config=CONFIG)}[phase]
  captured = []
  for seed in (1, 8):
    with pytest.raises(_Captured) as error:
      own(toy_dataset(val_seed=seed), validation=runs.Validation(way=2), seed=0, workdir=str(tmp_path / str(seed)))
    state, (step, arguments), _ = error.value.args
    assert step is (pretrain.many_steps if phase == 'pretrain' else meta_train.cycle)
    captured.append(jax.tree.map(np.asarray, (state, [jax.random.key_data(arguments[0]), *arguments[1:]])))
  jax.tree.map(np.testing.assert_array_equal, *captured)
  assert any(np.array_equal(leaf, toy_dataset().train.images) for leaf in jax.tree.leaves(captured[0]))
  assert np.any(toy_dataset(1).val.images != toy_dataset(8).val.images)


def test_golden_outer_step():
  with np.load(meta_step.PATH) as golden:
    expected = dict(golden)
  found = meta_step.compute()
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
