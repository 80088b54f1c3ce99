"""Weights and images that PyTorch and JAX make alike from NumPy alone: no golden file holds them.

Two recipes. `ordinary`: kernels as He et al. start them, gains of batch norm about 1 and offsets
about 0. Its float32 gradients are off by 2e-3, even those of one program against its own in
float64: some activations lie within rounding of the kink of a ReLU, and each that falls to the
other side changes what all layers before it see. `clear`: offsets are plus or minus three times the
gains, so half of the channels are on and half are off, 1 in 700 activations is not as the rest of
its channel, and hardly any comes near the kink. Signs agree along the additions of a stage.

What the last stage adds up has small gains (`ordinary` 0.1, `clear` 0.03), which keeps features
short: adapted logits lose digits with the square of their length.
"""
import zlib

import numpy as np

RECIPES = ('ordinary', 'clear')
WAY, QUERY, SIZE = 5, 1, 80
PROJECTIONS = 8           # numbers that stand for a gradient
FEATURE_PROJECTIONS = 32  # numbers that stand for a feature vector
# Their model lists the base-learner twice; both names hold the same numbers.
_FIRST_NAMES = {'base_learner.fc1_w': 'base_learner.vars.0',
                'base_learner.fc1_b': 'base_learner.vars.1'}
_LAST_GAIN = {'ordinary': 0.1, 'clear': 0.03}
_PATCH = 8                # pixels of one colour along each side, in the pattern of a class


def tensor(key: str, shape: tuple[int, ...], recipe: str) -> np.ndarray:
  """Draws the tensor of a name.

  Args:
    key: the authors'; the normal numbers depend on it alone, and are the same for both names of
      one tensor.
    shape: of the tensor.
    recipe: one of `RECIPES`.

  Returns:
    float32.
  """
  key = _FIRST_NAMES.get(key, key)
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
  """Draws images: a colour and a pattern per class, a colour per image, and noise.

  Args:
    part: of the task, such as 'query'; colours of images and the noise depend on it alone.
    per_class: how many of each class.

  Returns:
    float32 [WAY * per_class, SIZE, SIZE, 3], one class after the other.
  """
  classes, random, patches = np.random.RandomState(1), _random(part), SIZE // _PATCH
  pattern = (classes.normal(size=(WAY, 1, patches, 1, patches, 1, 3))
             + classes.normal(size=(WAY, 1, 1, 1, 1, 1, 3)))
  pattern = np.broadcast_to(pattern, (WAY, 1, patches, _PATCH, patches, _PATCH, 3))
  colour = 0.5 * random.normal(size=(WAY, per_class, 1, 1, 3))
  noise = 0.5 * random.normal(size=(WAY, per_class, SIZE, SIZE, 3))
  drawn = pattern.reshape(WAY, 1, SIZE, SIZE, 3) + colour + noise
  return drawn.reshape(-1, SIZE, SIZE, 3).astype(np.float32)


def labels(per_class: int) -> np.ndarray:
  """Returns the classes of `images`, int [WAY * per_class]."""
  return np.repeat(np.arange(WAY), per_class)


def projected(key: str, gradient: np.ndarray) -> np.ndarray:
  """Computes the scalar products of a gradient with random directions, to tell it by few numbers.

  Args:
    key: of its tensor; the directions depend on it alone.
    gradient: any array.

  Returns:
    [PROJECTIONS].
  """
  directions = _random('directions of ' + key).normal(size=(PROJECTIONS, gradient.size))
  return directions @ np.asarray(gradient, np.float64).reshape(-1)


def projected_features(features: np.ndarray) -> np.ndarray:
  """Computes the same of feature vectors, each centred: [n, d] -> [n, FEATURE_PROJECTIONS]."""
  features = np.asarray(features, np.float64)
  directions = _random('directions of features').normal(
      size=(features.shape[1], FEATURE_PROJECTIONS))
  return (features - features.mean(axis=1, keepdims=True)) @ directions


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
  """Computes |found - expected| / |expected|."""
  difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
  return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(expected, np.float64)))


def _random(name):
  return np.random.RandomState(zlib.crc32(name.encode()))


def _adds(layer):
  """Whether the output of this batch norm is one side of the addition that ends a block."""
  return 'bn2' in layer or 'downsample' in layer


def _gain(layer, recipe):
  return _LAST_GAIN[recipe] if 'layer3' in layer and _adds(layer) else 1


def _signs(layer, shape):
  """Draws the signs of the offsets: of a channel the same in all that is added up in a stage."""
  name = layer
  if _adds(layer):
    name = next(part for part in layer.split('.') if part.startswith('layer'))
  return _random('signs of ' + name).choice([-1, 1], size=shape)
