"""The authors' tensors to our trees and back: pure functions on dictionaries of arrays.

For PyTorch, scale and shift mean the same on both sides. In TensorFlow a shift takes the place of
the bias of its layer; here it is added to the bias. So their shift is our bias + shift:

    Φ_S2 (theirs) = b + Φ_S2 (ours)
"""
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import parts, scale_shift
from mtl_jax.types import BackboneVars, BaseLearner, MetaParams
from mtl_jax.weights import correspondence, expected_tensors, layouts, paths
from mtl_jax.weights.correspondence import Place
from mtl_jax.weights.left_out import LeftOut, group, kind_of_ours


class Transferred(NamedTuple):
  """What a file of the authors has become."""
  backbone: dict[str, Any]         # options of `backbones.create`
  backbone_vars: BackboneVars      # Θ: NumPy arrays, float32
  meta_params: MetaParams | None   # None where it was only pre-trained
  left_out: LeftOut                # kind -> their keys that have no place here


class Exported(NamedTuple):
  """What a run of ours has become."""
  tensors: dict[str, np.ndarray]   # under the authors' keys
  left_out: LeftOut                # kind -> our paths that have no place there


def from_authors(tensors: Mapping[str, np.ndarray], format: str) -> Transferred:
  """Moves every tensor of the authors' file to its place in our trees.

  The affine parameters of batch norm, which their PyTorch code meta-trains, then stand in Θ and
  among the learned weights of `MetaParams` alike: those of pre-training are lost. Where a file has
  no running statistics (TensorFlow), those of Θ are means of 0 and variances of 1, which say
  nothing.

  Args:
    tensors: their key -> array of floating-point numbers.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    A Transferred; the width of the network is that of the file.

  Raises:
    ValueError: the file is of another network (the first names that are missing and unexpected), or
      a tensor has another shape, does not hold floating-point numbers, or not finite ones.
  """
  meta_trained = correspondence.is_meta_trained(format, tensors)
  if format == 'pytorch' and not meta_trained:  # the whole model in place of its encoder
    tensors = {key.removeprefix('encoder.'): array for key, array in tensors.items()}
  known = correspondence.places(format, meta_trained=meta_trained)
  left_out = expected_tensors.check_names(tensors, known, format, meta_trained=meta_trained)
  options = expected_tensors.network_options(tensors, format)
  way = np.size(tensors[known[-1].key]) if meta_trained else 1  # the bias of θ comes last
  ours = _placed(tensors, known, expected_tensors.shapes(options, way))
  if format == 'tensorflow':
    ours |= {path: shift - ours[_bias_of(path)] for path, shift in _shifts(ours).items()}
  trees = paths.nested(ours)
  backbone_vars = BackboneVars(trees['params'], trees['batch_stats'])
  return Transferred(options, backbone_vars,
                     _meta_params(ours, trees) if meta_trained else None, left_out)


def to_authors(backbone_vars: BackboneVars, meta_params: MetaParams | None,
               format: str) -> Exported:
  """Names the tensors of a pre-trained or meta-trained network as the authors' code does.

  Layers that were not scaled have scales of 1 and shifts of 0. Weights that were meta-trained
  themselves take the place of those of Θ.

  Args:
    backbone_vars: Θ, of the network that belongs to `format`; NumPy arrays.
    meta_params: after meta-training, NumPy arrays; None after pre-training.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    An Exported; left out are running statistics (TensorFlow has none), learned rates of the inner
    loop and a learned temperature.

  Raises:
    ValueError: the network has no tensor for a key, or one that the authors' network has not.
  """
  known = correspondence.places(format, meta_trained=meta_params is not None)
  if meta_params is not None:
    params = parts.merge(backbone_vars.params, meta_params.weights)
    backbone_vars = backbone_vars._replace(params=params)
    identity = scale_shift.init(params, _scaled_layers(known))
    meta_params = meta_params._replace(
        scale_shift=parts.merge(identity, meta_params.scale_shift))
  ours = {path: np.asarray(leaf, np.float32)
          for path, leaf in paths.flat(backbone_vars, meta_params).items()}
  left_out = _check_paths(ours, known, format)
  if format == 'tensorflow':
    ours |= {path: shift + ours[_bias_of(path)] for path, shift in _shifts(ours).items()}
  tensors = {place.key: np.ascontiguousarray(
      layouts.to_theirs(ours[place.path], place.layout)) for place in known}
  if format == 'pytorch':
    tensors |= _pytorch_extras(tensors)
  return Exported(tensors, left_out)


def _placed(tensors: Mapping[str, np.ndarray], known: tuple[Place, ...],
            shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """Returns our path -> array; statistics that no file holds are means of 0 and variances of 1."""
  ours = {path: np.full(shape, path.endswith('/var'), np.float32)
          for path, shape in shapes.items() if path.startswith('batch_stats/')}
  for place in known:
    array = expected_tensors.check_tensor(place, tensors[place.key], shapes[place.path])
    ours[place.path] = layouts.to_ours(array, place.layout)
  return ours


def _meta_params(ours: Mapping[str, np.ndarray], trees: Mapping[str, Any]) -> MetaParams:
  affine = paths.nested({path: array for path, array in ours.items() if _is_affine(path, ours)})
  return MetaParams(trees['scale_shift'], affine.get('params', {}),
                    BaseLearner(**trees['base_learner']), inner_lr={}, temperature={})


def _is_affine(path: str, ours: Mapping[str, np.ndarray]) -> bool:
  """Whether it is a scale or an offset of batch norm: it has running statistics beside it."""
  layer = path.removeprefix('params/').rsplit('/', 1)[0]
  return path.startswith('params/') and f'batch_stats/{layer}/mean' in ours


def _shifts(ours: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {path: array for path, array in ours.items() if path.endswith('/shift')}


def _bias_of(shift_path: str) -> str:
  layer = shift_path.removeprefix('scale_shift/').removesuffix('/shift')
  return f'params/{layer}/bias'


def _scaled_layers(known: tuple[Place, ...]) -> tuple[tuple[str, ...], ...]:
  """Lists the layers that Φ_S of the authors acts on, as paths of `scale_shift.init`."""
  return tuple(tuple(place.path.split('/')[1:-1]) for place in known
               if place.path.startswith('scale_shift/') and place.path.endswith('/scale'))


def _check_paths(ours: Mapping[str, np.ndarray], known: tuple[Place, ...],
                 format: str) -> LeftOut:
  """Returns our paths that have no place there, by kind; refuses any other difference."""
  without_place = sorted(set(ours) - {place.path for place in known})
  left_out, unknown = group(without_place, functools.partial(kind_of_ours, format))
  if unknown:
    raise ValueError(f"the authors' {format} network has no place for {unknown[0]}")
  for place in known:
    if place.path not in ours:
      raise ValueError(f"expected {place.path}, for the authors' {place.key}, found none; "
                       'train the network with its published batch norm')
  return left_out


def _pytorch_extras(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns what PyTorch's `load_state_dict` asks for besides."""
  # Batch norm of a fixed momentum, as theirs, never reads its counter.
  counters = {key.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
              for key in tensors if key.endswith('.running_mean')}
  return counters | {second: tensors[first]
                     for second, first in correspondence.SECOND_NAMES.items() if first in tensors}
