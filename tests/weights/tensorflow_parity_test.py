"""The formulas of the authors' TensorFlow code in NumPy and float64, and the same weights here.

Features, adapted logits and query loss are compared as they are; outer gradients, of second order,
with finite differences of the query loss along random directions. Seed 6 leaves every activation at
least 1e-5 away from the kinks of leaky ReLU and max-pool, ten times what rounding moves it: where
one falls to the other side, gradients jump.
"""
import functools

import jax
import numpy as np
import pytest

from mtl_jax import backbones, learnable, outer_loop
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.types import Episode
from mtl_jax.weights import transfer
from tests.golden.authors_recipe import relative_error
from tests.phases import numpy_adapt, numpy_cross_entropy
from tests.weights import authors_layout

WAY, QUERY, SIZE, SEED = 5, 2, 16, 6
INNER_LR, INNER_STEPS = 0.01, 20
TOLERANCE = 1e-4
DIRECTIONS, STEP = 4, 1e-7


def conv3x3(x, kernel):
  height, width = x.shape[1:3]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(padded[:, i:i + height, j:j + width] @ kernel[i, j]
             for i in range(3) for j in range(3))


def normalize(x):
  """Batch norm by the statistics of the batch, without scale and offset; TensorFlow's epsilon."""
  return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)


def features_of(dictionaries, images):
  """Features by their formulas.

  Scales act on the main convolutions, shifts take the place of biases, shortcuts stay as they are.
  """
  weights, scales = dictionaries['weights'], dictionaries['ss_weights']
  x = images
  for block in ('block1', 'block2', 'block3', 'block4'):
    y = x
    for i in ('1', '2', '3'):
      name = f'{block}_conv{i}'
      y = normalize(conv3x3(y, weights[name] * scales[name]) + scales[f'{block}_bias{i}'])
      y = np.maximum(y, 0.1 * y)
    y = y + x @ weights[f'{block}_conv_res'][0, 0]
    x = np.max([y[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
  return x.mean((1, 2))


def query_logits(dictionaries, task):
  classifier = dictionaries['fc_weights']
  support = features_of(dictionaries, task.support)
  kernel, bias = numpy_adapt(classifier['w5'], classifier['b5'], support, task.support_labels,
                             INNER_LR, INNER_STEPS)
  return features_of(dictionaries, task.query) @ kernel + bias


def query_loss(dictionaries, task):
  return numpy_cross_entropy(query_logits(dictionaries, task), task.query_labels)


@functools.cache
def dictionaries():
  found = authors_layout.tensorflow(way=WAY, seed=SEED)
  return {name: {key: array.astype(np.float64) for key, array in tensors.items()}
          for name, tensors in found.items()}


@functools.cache
def task(shot):
  random = np.random.default_rng(SEED)
  support, query = (random.normal(size=(WAY * n, SIZE, SIZE, 3)) + np.repeat(
      np.random.default_rng(0).normal(size=(WAY, 1, 1, 3)), n, axis=0) for n in (shot, QUERY))
  labels = np.arange(WAY)
  return Episode(support, labels.repeat(shot), query, labels.repeat(QUERY), labels)


@functools.cache
def imported():
  """(network, Θ, what is meta-learned) out of the same dictionaries."""
  tensors = {f'{name}/{key}': array for name, part in dictionaries().items()
             for key, array in part.items()}
  found = transfer.from_authors(tensors, 'tensorflow')
  assert found.backbone == {'name': 'resnet12', 'width': 4, 'norm_epsilon': 1e-3}
  assert found.meta_params is not None
  network = backbones.create(image_shape=(SIZE, SIZE, 3), **found.backbone)
  return network, found.backbone_vars, found.meta_params


@functools.cache
def step(shot):
  """((query loss, logits), outer gradients) of one step here, in float32."""
  network, variables, meta_params = imported()
  config = MetaTrainConfig(
      way=WAY, shot=shot, query=QUERY, meta_batch=1,
      inner=InnerLoop(lr=INNER_LR, steps=INNER_STEPS, batch_stats_mode='batch'))
  types = {'f': np.float32, 'i': np.int32}
  tasks = jax.tree.map(lambda x: np.asarray(x[None], types[x.dtype.kind]), task(shot))
  loss = functools.partial(outer_loop.query_loss, backbone=network, config=config)
  return jax.jit(jax.value_and_grad(loss, has_aux=True))(meta_params, variables, tasks)


def test_features():
  network, variables, meta_params = imported()
  images = task(1).query
  found = jax.jit(functools.partial(network.features, batch_stats_mode='batch'))(
      learnable.network(variables, meta_params), images.astype(np.float32))
  expected = features_of(dictionaries(), images)
  assert np.std(expected, axis=0).min() > 0.05
  assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize('shot', [1, pytest.param(5, marks=pytest.mark.slow)])
def test_adapted_logits_and_query_loss(shot):
  (loss, logits), _ = step(shot)
  assert relative_error(logits[0], query_logits(dictionaries(), task(shot))) < TOLERANCE
  assert relative_error(loss, query_loss(dictionaries(), task(shot))) < TOLERANCE


@pytest.mark.parametrize('shot', [1, pytest.param(5, marks=pytest.mark.slow)])
def test_outer_gradients(shot):
  _, gradient = step(shot)
  found = {('fc_weights', 'w5'): gradient.base_learner.kernel,
           ('fc_weights', 'b5'): gradient.base_learner.bias}
  for block, layers in gradient.scale_shift.items():
    for conv, leaf in layers.items():
      found['ss_weights', f'{block}_{conv}'] = leaf['scale']
      # Batch norm takes a shift out again.
      assert np.linalg.norm(leaf['shift']) < 1e-4 * np.linalg.norm(leaf['scale'])
  assert len(found) == 14
  for (name, key), array in found.items():
    products, slopes = along_directions(name, key, np.asarray(array, np.float64), shot)
    assert relative_error(products, slopes) < TOLERANCE, key


def along_directions(name, key, gradient, shot):
  """Scalar products of a gradient with random directions, and slopes of the loss along them."""
  random, value = np.random.default_rng(0), dictionaries()[name][key]
  products, slopes = [], []
  for _ in range(DIRECTIONS):
    direction = random.normal(size=value.shape)
    ends = []
    for sign in (1, -1):
      moved = dictionaries()[name] | {key: value + sign * STEP * direction}
      ends.append(query_loss(dictionaries() | {name: moved}, task(shot)))
    products.append(np.sum(gradient * direction))
    slopes.append((ends[0] - ends[1]) / (2 * STEP))
  return np.array(products), np.array(slopes)


@pytest.mark.parametrize('key', ['block1_bias1', 'block4_bias3'])
def test_the_shift_takes_the_place_of_the_bias(key):
  """With batch statistics no feature shows it."""
  _, variables, meta_params = imported()
  block, conv = key.split('_bias')
  bias = learnable.network(variables, meta_params).params[block][f'conv{conv}']['bias']
  np.testing.assert_allclose(bias, dictionaries()['ss_weights'][key], atol=1e-7)
  np.testing.assert_array_equal(variables.params[block][f'conv{conv}']['bias'],
                                dictionaries()['weights'][key].astype(np.float32))
