"""Weights and images that PyTorch and JAX make alike from nothing but NumPy, so that goldens need not hold them.

Two recipes. `ordinary`: kernels as He et al. start them, gains of batch norm about 1 and offsets about 0. Its float32
gradients are off by 2e-3, even those of one program against its own in float64: some activations lie within rounding
of the kink of a ReLU, and each that falls to the other side changes what all layers before it see. `clear`: offsets
are plus or minus three times the gains, so half of the channels are on and half are off, 1 in 700 activations is not as
the rest of its channel, and hardly any comes near the kink. Signs agree along the additions of a stage.

What the last stage adds up has small gains (`ordinary` 0.1, `clear` 0.03), which keeps features short: adapted logits
lose digits with the square of their length.
"""
import zlib

import numpy as np

RECIPES = ('ordinary', 'clear')
WAY, QUERY, SIZE = 5, 1, 80
PROJECTIONS = 8
FEATURE_PROJECTIONS = 32


def tensor(key: str, shape: tuple[int, ...], recipe: str) -> np.ndarray:
  """Gives the tensor of a name, float32; the normal numbers depend on the name alone."""
  normal = _random(key).normal(size=shape)
  layer, leaf = key.rsplit('.', 1)
  if leaf in ('0', 'weight') and len(shape) > 1:  # kernels, and that of the base-learner
    value = normal * np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
  elif leaf in ('weight', 'mtl_weight'):
    value = (1 + 0.1 * normal) * (_gain(layer, recipe) if leaf == 'weight' else 1)
  elif leaf == 'running_var':
    value = np.exp(0.1 * normal)
  else:
    value = 0.1 * normal
    if leaf == 'bias' and recipe == 'clear' and ('bn' in layer or 'downsample' in layer):
      value = _gain(layer, recipe) * (3 * _signs(layer, shape) + value)
  return value.astype(np.float32)


def images(part: str, per_class: int) -> np.ndarray:
  """Gives images of one class after the other [WAY * per_class, SIZE, SIZE, 3], float32.

  A colour and a pattern per class, a colour per image, and noise.
  """
  classes, random = np.random.RandomState(1), _random(part)
  pattern = classes.normal(size=(WAY, 1, SIZE // 8, 1, SIZE // 8, 1, 3)) + classes.normal(size=(WAY, 1, 1, 1, 1, 1, 3))
  pattern = np.broadcast_to(pattern, (WAY, 1, SIZE // 8, 8, SIZE // 8, 8, 3)).reshape(WAY, 1, SIZE, SIZE, 3)
  colour = 0.5 * random.normal(size=(WAY, per_class, 1, 1, 3))
  noise = 0.5 * random.normal(size=(WAY, per_class, SIZE, SIZE, 3))
  return (pattern + colour + noise).reshape(-1, SIZE, SIZE, 3).astype(np.float32)


def labels(per_class: int) -> np.ndarray:
  """Gives their classes [WAY * per_class]."""
  return np.repeat(np.arange(WAY), per_class)


def projected(key: str, gradient: np.ndarray) -> np.ndarray:
  """Gives a few numbers that a gradient can be told by: its scalar products with random directions [PROJECTIONS]."""
  directions = _random('directions of ' + key).normal(size=(PROJECTIONS, gradient.size))
  return directions @ np.asarray(gradient, np.float64).reshape(-1)


def projected_features(features: np.ndarray) -> np.ndarray:
  """Gives the same of feature vectors, each centred: [n, d] -> [n, FEATURE_PROJECTIONS]."""
  features = np.asarray(features, np.float64)
  directions = _random('directions of features').normal(size=(features.shape[1], FEATURE_PROJECTIONS))
  return (features - features.mean(axis=1, keepdims=True)) @ directions


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
  """Gives |found - expected| / |expected|."""
  difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
  return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(expected, np.float64)))


def _random(name):
  return np.random.RandomState(zlib.crc32(name.encode()))


def _adds(layer):
  return 'bn2' in layer or 'downsample' in layer


def _gain(layer, recipe):
  return {'ordinary': 0.1, 'clear': 0.03}[recipe] if 'layer3' in layer and _adds(layer) else 1


def _signs(layer, shape):
  """Of the offsets: one sign for a channel of all that is added up in a stage."""
  name = next(part for part in layer.split('.') if part.startswith('layer')) if _adds(layer) else layer
  return _random('signs of ' + name).choice([-1, 1], size=shape)
