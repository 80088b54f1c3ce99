"""The authors' tensors to our trees and back: pure functions on dictionaries of arrays.

Scale and shift mean the same on both sides for PyTorch. In TensorFlow the shift takes the place of the bias, so here
the shift is the difference: b + Φ_S2 is theirs.
"""
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import backbones, base_learner, learnable, scale_shift
from mtl_jax.backbones.readout import READOUT
from mtl_jax.types import BackboneVars, BaseLearner, MetaParams
from mtl_jax.weights import names

_PUBLISHED_WIDTH = {'pytorch': 160, 'tensorflow': 64}


class Transferred(NamedTuple):
  """What a file of the authors has become."""
  backbone: dict                   # options of `backbones.create`
  backbone_vars: BackboneVars      # NumPy arrays, float32
  meta_params: MetaParams | None   # None where it was only pre-trained
  left_out: tuple[str, ...]        # their keys that have no place here


class Exported(NamedTuple):
  """What one of our runs has become."""
  tensors: dict[str, np.ndarray]  # under the authors' keys
  left_out: tuple[str, ...]       # our paths that have no place there


def from_authors(tensors: Mapping[str, np.ndarray], format: str) -> Transferred:
  """Places every tensor of the authors' file in our trees.

  The affine parameters of batch norm, which their PyTorch code meta-trains, then stand in Θ and among the learned
  weights of `MetaParams` alike: those of pre-training are lost. Without running statistics (TensorFlow) those of Θ are
  means of 0 and variances of 1, which say nothing.

  Args:
    tensors: their key -> array, of floats; keys as `names` has them.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    A Transferred; the width of the network is that of the file.

  Raises:
    ValueError: the file is of another network (the first names that are missing and unexpected), or a tensor has
      another shape, is not of floats, or not finite.
  """
  meta_trained = names.is_meta_trained(format, tensors)
  if format == 'pytorch' and not meta_trained:  # the whole model in place of its encoder
    tensors = {key.removeprefix('encoder.'): array for key, array in tensors.items()}
  known = names.places(format, meta_trained=meta_trained)
  left_out = _check_names(tensors, known, format, meta_trained)
  options = _options(tensors, format)
  shapes = _shapes(tuple(options.items()), np.size(tensors[known[-1].key]) if meta_trained else 1)
  ours = {place.path: _to_ours(_checked(place, tensors[place.key], shapes[place.path]), place.layout)
          for place in known}
  if format == 'tensorflow':
    ours |= {path: np.full(shape, path.endswith('/var'), np.float32)
             for path, shape in shapes.items() if path.startswith('batch_stats/')}
    ours |= {path: shift - ours[_bias_of(path)] for path, shift in ours.items() if path.endswith('/shift')}
  trees = _nested(ours)
  meta_params = None
  if meta_trained:
    affine = _nested({path: array for path, array in ours.items() if _is_affine(path, ours)})
    meta_params = MetaParams(trees['scale_shift'], affine.get('params', {}), BaseLearner(**trees['base_learner']), {})
  return Transferred(options, BackboneVars(trees['params'], trees['batch_stats']), meta_params, left_out)


def to_authors(backbone_vars: BackboneVars, meta_params: MetaParams | None, format: str) -> Exported:
  """Gives a pre-trained or meta-trained network under the authors' own keys.

  Layers that were not scaled have scales of 1 and shifts of 0; weights that were meta-trained themselves take the place
  of those of Θ.

  Args:
    backbone_vars: Θ, of the network that belongs to `format`.
    meta_params: after meta-training; None after pre-training.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    Exported; what is left out are running statistics (TensorFlow has none), learned inner rates and a temperature.

  Raises:
    ValueError: the network has no tensor for a key, or one that the authors' network has not.
  """
  known = names.places(format, meta_trained=meta_params is not None)
  if meta_params is not None:
    weights = {name: child for name, child in meta_params.weights.items() if name != READOUT}
    backbone_vars = backbone_vars._replace(params=learnable.merge(backbone_vars.params, weights))
    layers = tuple(tuple(place.path.split('/')[1:-1]) for place in known if place.path.endswith('/scale')
                   and place.path.startswith('scale_shift/'))
    identity = scale_shift.init(backbone_vars.params, layers)
    meta_params = meta_params._replace(scale_shift=learnable.merge(identity, meta_params.scale_shift))
  ours = {path: np.asarray(leaf, np.float32) for path, leaf in _flat(backbone_vars, meta_params).items()}
  extra = sorted(set(ours) - {place.path for place in known})
  unplaced = [path for path in extra if not (format == 'tensorflow' and path.startswith('batch_stats/'))]
  missing = [place for place in known if place.path not in ours]
  if unplaced or missing:
    raise ValueError(f"the authors' {format} network has no place for {unplaced[0]}" if unplaced else
                     f"expected {missing[0].path}, for the authors' {missing[0].key}, found none; train the network "
                     'with its published batch norm')
  if format == 'tensorflow':
    ours |= {path: shift + ours[_bias_of(path)] for path, shift in ours.items() if path.endswith('/shift')}
  tensors = {place.key: np.ascontiguousarray(_to_theirs(ours[place.path], place.layout)) for place in known}
  if format == 'pytorch':
    tensors |= _pytorch_extras(tensors)
  return Exported(tensors, tuple(extra) + _learned_besides(meta_params))


def _check_names(tensors, known, format, meta_trained):
  """Returns the keys that have no place here; raises where one is missing or belongs to no network of theirs."""
  expected = {place.key for place in known}
  missing = [place.key for place in known if place.key not in tensors]
  extra = sorted(set(tensors) - expected)
  unexpected = [key for key in extra if not names.has_no_place(format, key, meta_trained=meta_trained)]
  if missing or unexpected:
    kind = 'meta-trained' if meta_trained else 'pre-trained'
    raise ValueError(f"expected the authors' {kind} {names.FORMATS[format]} ({format}), got another network; "
                     f'missing: {_first(missing)}; unexpected: {_first(unexpected)}')
  for second, first in names.SECOND_NAMES.items():
    if meta_trained and second in tensors and not np.array_equal(tensors[second], tensors[first]):
      raise ValueError(f'expected {second} to equal {first}, of which it is another name, got other values')
  return tuple(extra)


def _first(keys):
  return ', '.join(keys[:3]) + (f' and {len(keys) - 3} more' if len(keys) > 3 else '') if keys else 'none'


def _options(tensors, format):
  """Reads the width off the first layer: the authors' code has one, tests have smaller ones."""
  key, axis = {'pytorch': ('conv1.weight', 0), 'tensorflow': ('weights/block1_conv1', -1)}[format]
  first = np.shape(tensors.get('encoder.' + key, tensors.get(key)))
  if len(first) != 4 or not all(first):
    raise ValueError(f'expected {key} to be the kernel of a convolution, got shape {first}')
  width = first[axis] * (2 if format == 'pytorch' else 1)
  options = {'name': names.FORMATS[format]} | ({} if width == _PUBLISHED_WIDTH[format] else {'width': width})
  return options | ({'norm_epsilon': 1e-3} if format == 'tensorflow' else {})


@functools.lru_cache(maxsize=8)
def _shapes(options, way):
  """Our path -> shape, of the network that these pairs of option and value make, its Φ_S, and θ of N classes."""
  network = backbones.create(image_shape=(32, 32, 3), **dict(options))
  initial = jax.eval_shape(network.init, jax.random.key(0))
  phi = jax.eval_shape(lambda params: scale_shift.init(params, network.scaled_layers), initial.params)
  theta = jax.eval_shape(lambda: base_learner.init(network.feature_dim, way))
  return {path: leaf.shape for path, leaf in _flat(initial, MetaParams(phi, {}, theta, {})).items()}


def _checked(place, array, shape):
  array = np.asarray(array)
  expected = _to_theirs(np.broadcast_to(np.float32(0), shape), place.layout).shape
  if array.shape != expected or not array.size:
    raise ValueError(f'expected {place.key} of shape {expected}, got {array.shape}')
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f'expected {place.key} to hold floating-point numbers, got {array.dtype}')
  with np.errstate(over='ignore'):  # what overflows is not finite and refused
    array = array.astype(np.float32)
  if not np.all(np.isfinite(array)) or place.path.endswith('/var') and np.any(array < 0):
    raise ValueError(f'expected {place.key} to hold finite numbers, and variances of at least 0, got others')
  return array


def _to_ours(array, layout):
  return {'same': lambda: array, 'oihw': lambda: array.transpose(2, 3, 1, 0), 'oi11': lambda: array[:, :, 0, 0].T,
          '11io': lambda: array[0, 0], 'oi': lambda: array.T}[layout]()


def _to_theirs(array, layout):
  return {'same': lambda: array, 'oihw': lambda: array.transpose(3, 2, 0, 1), 'oi11': lambda: array.T[:, :, None, None],
          '11io': lambda: array[None, None], 'oi': lambda: array.T}[layout]()


def _is_affine(path, ours):
  """Whether it is a scale or an offset of batch norm that was meta-trained."""
  return path.startswith('params/') and 'batch_stats/' + path.split('/', 1)[1].rsplit('/', 1)[0] + '/mean' in ours


def _bias_of(shift_path):
  return shift_path.replace('scale_shift/', 'params/', 1).removesuffix('/shift') + '/bias'


def _pytorch_extras(tensors):
  """What PyTorch's `load_state_dict` asks for besides."""
  counters = {key.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
              for key in tensors if key.endswith('.running_mean')}
  return counters | {second: tensors[first] for second, first in names.SECOND_NAMES.items() if first in tensors}


def _learned_besides(meta_params):
  if meta_params is None:
    return ()
  return (('inner_lr',) if meta_params.inner_lr else ()) + ((READOUT,) if READOUT in meta_params.weights else ())


def _flat(backbone_vars, meta_params):
  """Path -> array; what stands in `weights` and `inner_lr` is not looked at."""
  trees = {'params': backbone_vars.params, 'batch_stats': backbone_vars.batch_stats}
  if meta_params is not None:
    trees |= {'scale_shift': meta_params.scale_shift, 'base_learner': meta_params.base_learner._asdict()}
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]}


def _nested(flat):
  tree = {}
  for path, leaf in flat.items():
    *folders, name = path.split('/')
    place = tree
    for folder in folders:
      place = place.setdefault(folder, {})
    place[name] = leaf
  return tree
