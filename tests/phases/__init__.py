"""A toy pool and tiny networks that many tests share, with NumPy twins of what they compute."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import backbones
from mtl_jax.types import Backbone, BackboneVars, Dataset, ImagePool, Normalization

SIZE = 16
MEAN, STD = np.full(3, 0.45, np.float32), np.array([0.2, 0.25, 0.3], np.float32)
NORMALIZATION = Normalization(MEAN, STD)


def toy_pool(class_sizes, seed=0, noise=60):
  """Classes of noisy images around a pattern of their own; `class_sizes` may differ."""
  rng = np.random.default_rng(seed)
  patterns = rng.uniform(40, 215, (len(class_sizes), 4, 4, 3))
  images = np.repeat(np.kron(patterns, np.ones((SIZE // 4, SIZE // 4, 1))), class_sizes, axis=0)
  images = np.clip(images + noise * rng.normal(size=images.shape), 0, 255).astype(np.uint8)
  sizes = np.asarray(class_sizes, np.int32)
  return ImagePool(images, (np.cumsum(sizes) - sizes).astype(np.int32), sizes, NORMALIZATION)


def toy_dataset(val_seed=1):
  """Three splits of 12, 6 and 6 classes; `val_seed` decides the images of validation and test."""
  names = {split: tuple(f'{split}{i}' for i in range(n))
           for split, n in (('train', 12), ('val', 6), ('test', 6))}
  return Dataset('toy', toy_pool([8] * 12), toy_pool([6] * 6, val_seed),
                 toy_pool([6] * 6, val_seed + 1), names, True)


def normalized(images):
  """Images as networks get them, in NumPy."""
  return (np.asarray(images, np.float32) / 255 - MEAN) / STD


def changed(config, *, inner=None, learn=None, **fields):
  """A config with other fields, those of its `inner` and `learn` included."""
  for name, own in (('inner', inner), ('learn', learn)):
    if own:
      fields[name] = dataclasses.replace(getattr(config, name), **own)
  return dataclasses.replace(config, **fields)


@functools.cache
def tiny_network():
  """4CONV of 4 filters with random weights: (backbone, variables).

  Its running statistics are near those of `toy_pool`.
  """
  backbone = backbones.create('conv4', (SIZE, SIZE, 3), width=4)
  rng = np.random.default_rng(0)

  def leaf(path, x):
    values = rng.normal(size=x.shape)
    kind = path[-1].key
    if kind == 'kernel':
      return 1.5 * values / np.sqrt(np.prod(x.shape[:-1]))
    # Offsets above zero keep every ReLU alive; one dead layer would make all features, and most
    # tests, vacuous.
    above_zero = {'bias': 0.5 + 0.3 * values, 'mean': 0.5 + 0.2 * values}
    return above_zero.get(kind, np.exp(0.2 * values))

  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  variables = jax.tree_util.tree_map_with_path(leaf, shapes)
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
  images = normalized(toy_pool([2] * 12).images)
  features = backbone.features(variables, images, batch_stats_mode='running')
  assert np.std(features, axis=0).min() > 0.05
  return backbone, variables


BLOCKS = ('block1', 'block2')


def smooth_features(variables, images, *, batch_stats_mode, xp=jnp):
  """Two blocks of a 1x1 convolution, normalisation and tanh; then the mean of rows.

  Args:
    variables: BackboneVars; the normalisation has affine parameters.
    images: float [B, H, W, C].
    batch_stats_mode: 'running' or 'batch'.
    xp: numpy or jax.numpy.

  Returns:
    [B, W * width].
  """
  def row(vector):
    return vector[None, None, None]

  x = images
  for name in BLOCKS:
    layer, norm = variables.params[name]['conv'], variables.params[name]['bn']
    stats = variables.batch_stats[name]
    x = x @ layer['kernel'][0, 0] + row(layer['bias'])
    batch = batch_stats_mode == 'batch'
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if batch else (stats['mean'], stats['var'])
    x = (x - row(mean)) / row(xp.sqrt(var + 1e-5)) * row(norm['scale']) + row(norm['bias'])
    x = xp.tanh(x)
  return x.mean(1).reshape(len(images), -1)


def smooth_network(channels=3, width=4, columns=SIZE, seed=0):
  """A network without kinks that compiles in a moment: (backbone, variables in float64 NumPy)."""
  rng = np.random.default_rng(seed)
  params, stats = {}, {}
  for name, c_in in zip(BLOCKS, (channels, width), strict=True):
    params[name] = {
        'conv': {'kernel': rng.normal(size=(1, 1, c_in, width)), 'bias': rng.normal(size=width)},
        'bn': {'scale': rng.uniform(0.5, 1.5, width), 'bias': 0.3 * rng.normal(size=width)}}
    stats[name] = {'mean': 0.3 * rng.normal(size=width), 'var': rng.uniform(0.5, 2, width)}
  layers = tuple((name, 'conv') for name in BLOCKS)
  backbone = Backbone(None, smooth_features, None, columns * width, (SIZE, columns, channels),
                      layers, (BLOCKS[1:],))
  return backbone, BackboneVars(params, stats)


def finite_differences(function, tree, step=1e-5):
  """Central differences of a scalar function of a tree, leaf by leaf, in float64."""
  leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: np.array(x, np.float64), tree))
  gradient = [np.zeros_like(leaf) for leaf in leaves]
  for leaf, slot in zip(leaves, gradient, strict=True):
    for index in np.ndindex(leaf.shape):
      value, ends = leaf[index], []
      for sign in (1, -1):
        leaf[index] = value + sign * step
        ends.append(float(function(jax.tree.unflatten(structure, leaves))))
      leaf[index], slot[index] = value, (ends[0] - ends[1]) / (2 * step)
  return jax.tree.unflatten(structure, gradient)


@functools.partial(jax.jit, static_argnames='mode')
def features_of(variables, images, mode):
  """Features of `tiny_network`, compiled once per shape and mode."""
  return tiny_network()[0].features(variables, images, batch_stats_mode=mode)


def numpy_adapt(kernel, bias, features, labels, inner_lr, num_steps):
  """The inner loop as the paper writes it, in float64: (kernel', bias')."""
  targets = np.eye(len(bias))[labels]
  for _ in range(num_steps):
    scores = features @ kernel + bias
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    residual = (e / e.sum(axis=1, keepdims=True) - targets) / len(features)
    kernel, bias = kernel - inner_lr * features.T @ residual, bias - inner_lr * residual.sum(axis=0)
  return kernel, bias


def numpy_cross_entropy(scores, labels):
  """Mean of -log softmax(scores)[label]."""
  highest = scores.max(axis=1, keepdims=True)
  log_sum = np.log(np.sum(np.exp(scores - highest), axis=1)) + highest[:, 0]
  return np.mean(log_sum - scores[np.arange(len(scores)), labels])
