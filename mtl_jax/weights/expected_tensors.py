"""What a file of the authors' network must hold: names, shapes, finite floating-point numbers.

The width of the network is read off the file: their code has one, tests have smaller ones.
"""
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import backbones, learnable
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.weights import correspondence, layouts, paths
from mtl_jax.weights.correspondence import Place
from mtl_jax.weights.left_out import LeftOut, group, kind_of

DEFAULT_EPSILON = 1e-5  # of batch norm in `backbones.create`, and in PyTorch
NORM_EPSILON = {'pytorch': DEFAULT_EPSILON, 'tensorflow': 1e-3}
_PUBLISHED_WIDTH = {'pytorch': 160, 'tensorflow': 64}  # channels of the first block
_MOST_NAMED = 3         # keys in a message


def network_options(tensors: Mapping[str, np.ndarray], format: str) -> dict[str, Any]:
  """Recognises the network of a file by its first layer.

  Args:
    tensors: their key -> array.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    Options of `backbones.create`; 'width' and 'norm_epsilon' where they are not its defaults.

  Raises:
    ValueError: the first layer is no convolution.
  """
  key, axis = {'pytorch': ('conv1.weight', 0), 'tensorflow': ('weights/block1_conv1', -1)}[format]
  shape = np.shape(tensors['encoder.' + key if 'encoder.' + key in tensors else key])
  if len(shape) != 4 or not all(shape):
    raise ValueError(f'expected {key} to be the kernel of a convolution, got shape {shape}')
  # Their ResNet-25 has a stem of half the width of its first stage.
  width = shape[axis] * (2 if format == 'pytorch' else 1)
  options: dict[str, Any] = {'name': correspondence.FORMATS[format]}
  if width != _PUBLISHED_WIDTH[format]:
    options['width'] = width
  if NORM_EPSILON[format] != DEFAULT_EPSILON:
    options['norm_epsilon'] = NORM_EPSILON[format]
  return options


def shapes(options: Mapping[str, Any], way: int) -> dict[str, tuple[int, ...]]:
  """Returns the shapes that our trees have for a network.

  Args:
    options: of `backbones.create`.
    way: N, classes of θ.

  Returns:
    Path -> shape, of Θ, its Φ_S and θ.
  """
  return _shapes(tuple(options.items()), way)


def check_names(tensors: Mapping[str, np.ndarray], known: Sequence[Place], format: str, *,
                meta_trained: bool) -> LeftOut:
  """Refuses a file where a tensor is missing, or one belongs to no network of theirs.

  Args:
    tensors: their key -> array.
    known: all that have a place here.
    format: 'pytorch' or 'tensorflow'.
    meta_trained: as in `correspondence.places`.

  Returns:
    The keys that have no place here, by kind.

  Raises:
    ValueError: a tensor is missing or unexpected, or the two names of one have different values.
  """
  missing = [place.key for place in known if place.key not in tensors]
  without_place = sorted(set(tensors) - {place.key for place in known})
  left_out, unexpected = group(
      without_place, functools.partial(kind_of, format, meta_trained=meta_trained))
  if missing or unexpected:
    kind = 'meta-trained' if meta_trained else 'pre-trained'
    raise ValueError(f"expected the authors' {kind} {correspondence.FORMATS[format]} ({format}), "
                     f'got another network; missing: {first_names(missing)}; '
                     f'unexpected: {first_names(unexpected)}')
  for second, first in correspondence.SECOND_NAMES.items():
    if meta_trained and second in tensors:
      if not np.array_equal(tensors[second], tensors[first]):
        raise ValueError(f'expected {second} to equal {first}, of which it is another name, '
                         'got other values')
  return left_out


def check_tensor(place: Place, array: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a tensor of theirs as float32, or refuses it.

  Args:
    place: which one it is.
    array: as in their file.
    shape: of the leaf that it becomes here.

  Raises:
    ValueError: another shape, no floating-point numbers, not finite, or a negative variance.
  """
  array = np.asarray(array)
  # A view of one number in our shape, so that nothing of the size of the tensor is made for this.
  expected = layouts.to_theirs(np.broadcast_to(np.float32(0), shape), place.layout).shape
  if array.shape != expected or not array.size:
    raise ValueError(f'expected {place.key} of shape {expected}, got {array.shape}')
  if not jnp.issubdtype(array.dtype, jnp.floating):  # NumPy's own does not know bfloat16
    raise ValueError(f'expected {place.key} to hold floating-point numbers, got {array.dtype}')
  with np.errstate(over='ignore'):  # what overflows becomes infinite, and is refused below
    array = array.astype(np.float32)
  if not np.all(np.isfinite(array)) or (place.path.endswith('/var') and np.any(array < 0)):
    raise ValueError(f'expected {place.key} to hold finite numbers, and variances of at least 0, '
                     'got others')
  return array


@functools.lru_cache(maxsize=8)
def _shapes(options: tuple[tuple[str, Any], ...], way: int) -> dict[str, tuple[int, ...]]:
  # Weights do not depend on the size of the images, so any that the networks take will do.
  network = backbones.create(image_shape=(32, 32, 3), **dict(options))
  initial = jax.eval_shape(network.init, jax.random.key(0))
  learned = jax.eval_shape(
      lambda start: learnable.init(network, start, way, Learn(), InnerLoop()), initial)
  return {path: leaf.shape for path, leaf in paths.flat(initial, learned).items()}


def first_names(keys: Sequence[str]) -> str:
  """Names the first tensors of several, for a message of one line.

  Args:
    keys: any number of names.

  >>> first_names(['a', 'b', 'c', 'd'])
  'a, b, c and 1 more'
  """
  more = len(keys) - _MOST_NAMED
  named = ', '.join(keys[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
  return named or 'none'
