"""Pre-training against SGD with Nesterov momentum written out, and on a toy pool."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import augment
from mtl_jax.phases import pretrain
from mtl_jax.types import (
  Backbone,
  BackboneVars,
  BaseLearner,
  ImagePool,
  Normalization,
  PretrainState,
)
from tests.phases import features_of, normalized, numpy_cross_entropy, tiny_network, toy_pool

SIZES = [5, 9, 4, 7, 6]
CONFIG = pretrain.PretrainConfig(steps=10, batch_size=8, lr=0.2, weight_decay=0.1,
                                 label_smoothing=0.2, crop_padding=2, steps_per_call=3)
ROOT = jax.random.key(3)


def initial_state(config=CONFIG):
  """A state whose head is not zero, so that every gradient is at work."""
  backbone, variables = tiny_network()
  state = pretrain.init(jax.random.key(0), backbone, len(SIZES), config)
  zero = state.head[0]
  kernel = np.random.default_rng(5).normal(size=zero.kernel.shape)
  head = (BaseLearner(jnp.asarray(kernel, jnp.float32), zero.bias + 0.1),)
  return backbone, state._replace(backbone=variables, head=head)


@functools.cache
def compiled(name, config):
  backbone, _ = initial_state(config)
  return jax.jit(functools.partial(getattr(pretrain, name), backbone=backbone, config=config))


def run(name, state, config=CONFIG, root=ROOT):
  return compiled(name, config)(state, root, jax.tree.map(jnp.asarray, toy_pool(SIZES)))


def batch_of_step(step):
  """The batch that a step draws, with labels read off the list of class sizes."""
  pool = toy_pool(SIZES)
  index_key, augment_key = jax.random.split(jax.random.fold_in(ROOT, step))
  index = np.asarray(jax.random.randint(index_key, (CONFIG.batch_size,), 0, sum(SIZES)))
  augmented = jax.jit(functools.partial(augment.crop_and_flip, padding=2, flip=True))
  images = augmented(augment_key, pool.images[index])
  return normalized(images), np.repeat(np.arange(len(SIZES)), SIZES)[index]


@jax.jit
def gradient(trained, batch_stats, images, labels):
  """Of the smoothed cross-entropy, written out."""
  backbone, _ = tiny_network()

  def loss(trained):
    params, (head,) = trained
    features, new_stats = backbone.train_features(BackboneVars(params, batch_stats), images)
    scores = features @ head.kernel + head.bias[None]
    log_p = scores - jnp.log(jnp.sum(jnp.exp(scores), axis=1, keepdims=True))
    is_class = labels[:, None] == jnp.arange(len(SIZES))[None]
    targets = 0.8 * is_class + 0.2 / len(SIZES)
    return -jnp.mean(jnp.sum(targets * log_p, axis=1)), new_stats

  (value, new_stats), grads = jax.value_and_grad(loss, has_aux=True)(trained)
  return value, new_stats, grads


def assert_close(found, expected, tolerance=1e-5):
  close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
  jax.tree.map(close, found, expected)


def test_two_steps_by_hand():
  # `batch_of_step` splits a key in two where the step, which may jitter colours too, splits it in
  # three.
  two, three = (jax.random.key_data(jax.random.split(jax.random.fold_in(ROOT, 1), n))
                for n in (2, 3))
  np.testing.assert_array_equal(two, three[:2])
  _, state = initial_state()
  trained, stats = (state.backbone.params, state.head), state.backbone.batch_stats
  momentum = jax.tree.map(np.zeros_like, trained)
  for t in range(2):
    value, stats, grads = gradient(trained, stats, *batch_of_step(t))
    grads = jax.tree.map(lambda g, p: g + (0.1 * p if p.ndim > 1 else 0), grads, trained)
    momentum = jax.tree.map(lambda g, m: g + 0.9 * m, grads, momentum)
    rate = 0.2 * 0.5 * (1 + np.cos(np.pi * t / 10))
    trained = jax.tree.map(lambda p, g, m, r=rate: p - r * (g + 0.9 * m),
                           trained, grads, momentum)
    state, metrics = run('step', state)
    assert int(state.step) == t + 1
    np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
    assert_close((state.backbone.params, state.head), trained, 1e-4)
    assert_close(state.backbone.batch_stats, stats, 1e-4)


def test_a_call_of_n_steps_is_n_single_steps():
  _, state = initial_state()
  scanned, means = run('many_steps', state)
  each = []
  for _ in range(3):
    state, metrics = run('step', state)
    each.append(metrics)
  assert int(scanned.step) == 3
  assert_close(scanned, state, 1e-4)
  for name in ('loss', 'accuracy'):
    np.testing.assert_allclose(means[name], np.mean([m[name] for m in each]), rtol=1e-5)


def test_weight_decay_acts_on_kernels_only():
  _, state = initial_state()
  with_decay, without = (
      run('step', state, dataclasses.replace(CONFIG, weight_decay=decay))[0]
      for decay in (0.1, 0.0))
  before, *after = ((s.backbone.params, s.head) for s in (state, with_decay, without))
  with_paths = jax.tree_util.tree_flatten_with_path(before)[0]
  for (path, p), a, b in zip(with_paths, *map(jax.tree.leaves, after), strict=True):
    is_kernel = jax.tree_util.keystr(path).endswith(('kernel', "['kernel']"))
    expected = -0.2 * 1.9 * 0.1 * p if is_kernel else np.zeros_like(p)
    np.testing.assert_allclose(a - b, expected, rtol=1e-3, atol=1e-6)


def test_the_same_key_trains_the_same_and_another_does_not():
  _, state = initial_state()
  first, again, other = (run('many_steps', state, root=key)[0]
                         for key in (ROOT, ROOT, jax.random.key(4)))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert np.any(np.asarray(first.head[0].kernel) != np.asarray(other.head[0].kernel))


def test_loss_falls_on_classes_that_differ():
  config = pretrain.PretrainConfig(steps=60, batch_size=16, lr=0.1, crop_padding=0, flip=False,
                                   steps_per_call=20)
  backbone, _ = tiny_network()
  state, losses = pretrain.init(jax.random.key(0), backbone, len(SIZES), config), []
  for _ in range(3):
    state, metrics = run('many_steps', state, config)
    losses.append(float(metrics['loss']))
  assert losses[2] < losses[1] < losses[0] < np.log(5) + 0.2
  assert losses[2] < 0.6 and metrics['accuracy'] > 0.85


def test_the_first_loss_is_that_of_a_classifier_which_knows_nothing():
  backbone, _ = tiny_network()
  state = pretrain.init(jax.random.key(0), backbone, len(SIZES), CONFIG)
  head = state.head[0]
  assert (int(state.step), head.kernel.shape, head.bias.shape) == (0, (4, 5), (5,))
  _, metrics = run('step', state)
  np.testing.assert_allclose(metrics['loss'], np.log(5), rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_label_smoothing(smoothing):
  backbone, state = initial_state()
  images, labels = batch_of_step(0)
  value, (_, accuracy) = pretrain.loss(
      (state.backbone.params, state.head), state.backbone.batch_stats, images, labels,
      backbone=backbone, config=dataclasses.replace(CONFIG, label_smoothing=smoothing))
  features = np.asarray(backbone.train_features(state.backbone, images)[0], np.float64)
  scores = features @ np.asarray(state.head[0].kernel) + np.asarray(state.head[0].bias)
  log_p = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
  of_class = log_p[np.arange(len(labels)), labels]
  expected = -np.mean((1 - smoothing) * of_class + smoothing * log_p.mean(axis=1))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(accuracy, np.mean(scores.argmax(axis=1) == labels), rtol=1e-6)


def test_telling_quarter_turns_apart():
  backbone, state = initial_state()
  config = dataclasses.replace(CONFIG, rotation_weight=0.25, label_smoothing=0.0)
  images, labels = batch_of_step(0)
  rng = np.random.default_rng(1)
  kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 9), 9))
  loss = jax.jit(functools.partial(pretrain.loss, backbone=backbone, config=config))
  value, (_, accuracy) = loss((state.backbone.params, (BaseLearner(kernel, bias),)),
                              state.backbone.batch_stats, images, labels)
  turns = np.arange(8) // 2  # a batch of 8: two images for each number of quarter turns
  turned = np.stack([np.rot90(image, turn) for image, turn in zip(images, turns, strict=True)])
  features = np.asarray(features_of(state.backbone, turned, 'batch'), np.float64)
  scores = features @ kernel + bias
  of_class, of_turn = (numpy_cross_entropy(scores[:, :5], labels),
                       numpy_cross_entropy(scores[:, 5:], turns))
  expected = 0.75 * of_class + 0.25 * of_turn
  np.testing.assert_allclose(value, expected, rtol=1e-4)
  np.testing.assert_allclose(accuracy, np.mean(scores[:, :5].argmax(axis=1) == labels), rtol=1e-6)
  assert pretrain.init(jax.random.key(0), backbone, 5, config).head[0].kernel.shape == (4, 9)


def test_every_image_gets_the_label_of_its_class_where_classes_differ_in_size():
  # Each image shows the number of its class, the network reads it, the head repeats it: accuracy
  # must be 1.
  def read(variables, images):
    shown = jnp.round(images[:, 0, 0, 0] * 255).astype(int)
    return 50 * jax.nn.one_hot(shown, 5), variables.batch_stats

  backbone = Backbone(None, None, read, 5, (4, 4, 1), (), ())
  sizes = np.array(SIZES, np.int32)
  numbers = np.repeat(np.arange(5, dtype=np.uint8), sizes)
  images = numbers[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
  offsets = (np.cumsum(sizes) - sizes).astype(np.int32)
  as_it_is = Normalization(np.zeros(1), np.ones(1))
  pool = jax.tree.map(jnp.asarray, ImagePool(images, offsets, sizes, as_it_is))
  config = pretrain.PretrainConfig(batch_size=200, crop_padding=0)
  head = (BaseLearner(jnp.eye(5), jnp.zeros(5)),)
  optimizer = pretrain.make_optimizer(config)
  state = PretrainState(jnp.int32(0), BackboneVars({}, {}), head, optimizer.init(({}, head)))
  _, metrics = pretrain.step(state, ROOT, pool, backbone=backbone, config=config)
  assert metrics['accuracy'] == 1 and metrics['loss'] < 1e-6


def test_the_average_of_the_weights_follows_its_formula():
  backbone, _ = tiny_network()
  pool = toy_pool(SIZES)
  config = pretrain.PretrainConfig(batch_size=8, crop_padding=1, lr=0.1, ema=0.4)
  plain = dataclasses.replace(config, ema=0.0)
  state, alone = (pretrain.init(jax.random.key(0), backbone, len(SIZES), each)
                  for each in (config, plain))
  expected = jax.tree.map(np.float64, state.backbone)
  for t in range(4):
    state, _ = pretrain.step(state, ROOT, pool, backbone=backbone, config=config)
    alone, _ = pretrain.step(alone, ROOT, pool, backbone=backbone, config=plain)
    decay = min(0.4, (1 + t) / (10 + t))
    expected = jax.tree.map(lambda mean, w, d=decay: d * mean + (1 - d) * np.float64(w), expected,
                            state.backbone)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
               pretrain.learned(state), expected)
  jax.tree.map(np.testing.assert_array_equal, state.backbone, alone.backbone)  # it changes no step
  assert alone.average is None and pretrain.learned(alone) is alone.backbone


def test_a_hidden_layer_before_the_classes():
  backbone, _ = tiny_network()
  config = pretrain.PretrainConfig(hidden_units=7)
  head = pretrain.init(jax.random.key(0), backbone, 5, config).head
  assert [layer.kernel.shape for layer in head] == [(4, 7), (7, 5)]
  assert np.std(np.asarray(head[0].kernel)) > 0.2 and not np.any(np.asarray(head[1].kernel))
  rng = np.random.default_rng(0)
  head = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), head)
  features = rng.normal(size=(3, 4)).astype(np.float32)
  hidden = np.maximum(features.astype(np.float64) @ head[0].kernel + head[0].bias, 0)
  expected = hidden @ head[1].kernel + head[1].bias
  found = pretrain.classify(head, features)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
