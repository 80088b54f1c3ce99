"""A classifier as one file, `.mtl`: the network, the features of its photos, and its head.

The file is a `.safetensors`, so nothing in it is code. Its metadata says what made it, and holds a
digest of all of it.
"""
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import backbones, configs
from mtl_jax.classifiers.encoder import Encoder
from mtl_jax.classifiers.heads import Head
from mtl_jax.configs import PretrainConfig
from mtl_jax.runs import finished, new_files, workdirs
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import BackboneVars, Normalization
from mtl_jax.weights import paths, public_files

FORMAT = 3  # of the file; 2 has a digest of its arrays alone; others are refused
_HEAD = ('weights', 'labels', 'left_out', 'left_out_logits')


class Content(NamedTuple):
  """All that makes a classifier, in the order in which `Classifier` takes it."""
  encoder: Encoder
  names: tuple[str, ...]     # of the classes
  features: np.ndarray       # float32 [n, d], of the photos that it was fitted to
  head: Head
  photos: tuple[str, ...]    # what to call each of them
  left_out: tuple[str, ...]  # a line for each photo that could not be read


def write(content: Content, path: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Writes a classifier: all of it or nothing.

  Args:
    content: of a classifier.
    path: of the file, `.mtl`.
    overwrite: replace a file that is there.

  Raises:
    ValueError: another ending, or a file that is there.
    OSError: it cannot be written.
  """
  import safetensors.numpy
  check_place(path, overwrite=overwrite)
  run, fitted = content.encoder.run, content.head
  network = paths.flat(BackboneVars(*finished.network_of(run)), None)
  tensors = {f'network/{name}': np.asarray(leaf) for name, leaf in network.items()}
  tensors |= {f'head/{name}': np.asarray(getattr(fitted, name)) for name in _HEAD}
  tensors['features'] = content.features
  tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  about = {'format': FORMAT, 'names': content.names, 'photos': content.photos,
           'left_out': content.left_out, 'kind': fitted.kind, 'strength': fitted.strength,
           'temperature': fitted.temperature, 'versions': workdirs.describe_machine()['versions'],
           **_network_settings(run)}
  about = json.loads(json.dumps(about))  # as it will be read: tuples come back as lists
  about['digest'] = _digest(tensors, about)
  folder, name = os.path.split(os.path.abspath(path))
  workdirs.write_file(folder, name,
                      safetensors.numpy.save(tensors, {'mtl_jax': json.dumps(about)}))


def check_place(path: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    path: as in `write`.
    overwrite: as in `write`.

  Raises:
    ValueError, OSError: another ending, or as `new_files.check_place`.
  """
  path = os.fspath(path)
  if not path.endswith('.mtl'):
    raise ValueError(f'expected the file of a classifier to end in .mtl, got {path}')
  new_files.check_place(path, overwrite=overwrite)


def read(path: str | os.PathLike) -> Content:
  """Reads a classifier, as strictly as a checkpoint.

  Args:
    path: of a `.mtl`.

  Returns:
    What was written; nothing is fitted anew.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, of another version, or of a network that is not known here.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path} does not exist: expected the file of a classifier (.mtl)')
  tensors = public_files.read_safetensors(path)
  about = _read_about(path)
  if about.get('format') not in (2, FORMAT):
    raise ValueError(f'{path}: expected a classifier of format {FORMAT}, got '
                     f'{about.get("format")}: fit it again with this version')
  digest = about.pop('digest', None)
  if digest != _digest(tensors, about if about['format'] == FORMAT else None):
    raise ValueError(f'{path}: damaged: it is not what was written')
  try:
    return _content(path, about, tensors)
  except (KeyError, TypeError) as error:  # of format 2, which does not see to this
    raise ValueError(f'{path}: damaged: {error} is not as it was written') from error


def _content(path: str, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Content:
  run = _run_of(path, about, {name.removeprefix('network/'): array
                              for name, array in tensors.items() if name.startswith('network/')})
  fitted = Head(about['kind'], strength=about['strength'], temperature=about['temperature'],
                **{name: tensors[f'head/{name}'] for name in _HEAD})
  return Content(Encoder(run), tuple(about['names']), tensors['features'], fitted,
                 tuple(about['photos']), tuple(about['left_out']))


def _network_settings(run: FinishedRun) -> dict[str, Any]:
  return {'backbone': run.settings['backbone'], 'image_shape': list(run.backbone.image_shape),
          'readout': run.settings.get('readout', {}),
          'normalization': {name: np.asarray(value).tolist()
                            for name, value in run.normalization._asdict().items()}}


def _run_of(path: str, about: Mapping[str, Any], leaves: Mapping[str, np.ndarray]) -> FinishedRun:
  height, width, channels = about['image_shape']
  try:
    network = backbones.create(image_shape=(height, width, channels), **about['backbone'])
  except ValueError as error:
    raise ValueError(f'{path}: its network is not known here: {error}') from error
  network = backbones.read_out(network, **about['readout'])
  trees = paths.nested(leaves)
  settings = {'command': 'pretrain', 'dataset': 'photos', 'image_shape': about['image_shape'],
              'backbone': about['backbone'], 'readout': about['readout'],
              'config': configs.to_json(PretrainConfig())}
  return FinishedRun(network, BackboneVars(trees['params'], trees.get('batch_stats', {})), None,
                     Normalization(*(np.asarray(about['normalization'][name], np.float32)
                                     for name in ('mean', 'std'))), settings)


def _read_about(path: str) -> dict[str, Any]:
  import safetensors
  with safetensors.safe_open(path, 'numpy') as file:
    found = (file.metadata() or {}).get('mtl_jax')
  try:
    about = json.loads(found) if found is not None else None
  except (ValueError, RecursionError):
    about = None
  if not isinstance(about, dict):
    raise ValueError(f'{path}: expected the file of a classifier, got other tensors')
  return about


def _digest(tensors: Mapping[str, np.ndarray], about: Mapping[str, Any] | None) -> str:
  found = hashlib.blake2b(digest_size=16)
  if about is not None:
    found.update(json.dumps(about, sort_keys=True).encode())
  for name in sorted(tensors):
    array = np.ascontiguousarray(tensors[name])
    found.update(f'{name} {array.dtype} {array.shape}'.encode())
    found.update(array.tobytes())
  return found.hexdigest()
