"""The files that hold the authors' weights, as one dictionary of arrays.

Keys are those of `correspondence`.
"""
import os
import re
from collections.abc import Mapping

import numpy as np

from mtl_jax.runs import new_files

# Of the TensorFlow code, each in a file of its own.
_DICTIONARIES = ('weights', 'ss_weights', 'fc_weights')


def read(source: str, format: str) -> dict[str, np.ndarray]:
  """Reads weights, without PyTorch, TensorFlow, or running anything that a file names.

  Args:
    source: for PyTorch a `.pth`; for TensorFlow the `.npy` files of `weights`, and after
      meta-training of `ss_weights` and `fc_weights`, separated by commas, or their folder; for both
      an `.npz` that `write` made.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    Key -> array.

  Raises:
    ValueError: a file is damaged, holds something else than arrays, or it is not clear which
      dictionary it is.
    OSError: a file is not there, or cannot be read.
  """
  from mtl_jax.weights import npy, pth  # lazily, as each reads one kind of file
  if format == 'pytorch' or source.endswith('.npz'):
    _check_is_file(source)
  if source.endswith('.npz'):
    return npy.read(source)
  if format == 'pytorch':
    return pth.read(source)
  tensors = {}
  for dictionary, path in _dictionary_files(source).items():
    tensors |= {f'{dictionary}/{key}': array for key, array in npy.read(path).items()}
  return tensors


def write(path: str, tensors: Mapping[str, np.ndarray], format: str) -> None:
  """Writes weights under the authors' keys.

  Args:
    path: ends in `.npz`; or, for PyTorch, in `.pth`, which needs PyTorch; or, for TensorFlow, is a
      folder, which then holds `weights.npy`, `ss_weights.npy` and `fc_weights.npy` as the authors'
      code loads them. None of these may exist.
    tensors: key -> array.
    format: 'pytorch' or 'tensorflow'.

  Raises:
    ValueError: another ending, or PyTorch is not installed.
    OSError: the file is there already, or cannot be written.
  """
  from mtl_jax.weights import npy, pth
  check_new(path, format)
  if os.path.splitext(path)[1] == '.npz':
    npy.write(path, tensors)
  elif format == 'pytorch':
    pth.write(path, tensors)
  else:
    os.makedirs(path)
    for dictionary in _DICTIONARIES:
      part = {key.split('/')[1]: array for key, array in tensors.items()
              if key.startswith(dictionary + '/')}
      if part:
        npy.write(os.path.join(path, dictionary + '.npy'), part)


def check_new(path: str, format: str) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    path: as in `write`.
    format: 'pytorch' or 'tensorflow'.

  Raises:
    ValueError, OSError: another ending, or as `new_files.check_place`.
  """
  ending = os.path.splitext(path)[1]
  if format == 'pytorch' and ending not in ('.npz', '.pth'):
    raise ValueError(f'expected the export for {format} to end in .npz or .pth, got {path}')
  if format == 'tensorflow' and ending not in ('.npz', ''):
    raise ValueError(f'expected the export for {format} to end in .npz, or to be a folder, '
                     f'got {path}')
  new_files.check_place(path)


def _check_is_file(path: str) -> None:
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist: expected a file of weights')
  if os.path.isdir(path):
    raise IsADirectoryError(f'{path} is a folder: expected a file of weights')


def _dictionary_files(source: str) -> dict[str, str]:
  """Returns dictionary -> file; the beginning of its name says which dictionary a file holds."""
  if os.path.isdir(source):
    paths = sorted(os.path.join(source, name) for name in os.listdir(source)
                   if name.endswith('.npy'))
  else:
    paths = source.split(',')
  found: dict[str, str] = {}
  for path in paths:
    _check_is_file(path)
    match = re.match(r'(ss_|fc_)?weights', os.path.basename(path))
    if not match:
      raise ValueError(f'expected the name of {path} to begin with {", ".join(_DICTIONARIES)}, to '
                       'tell which dictionary it holds; rename it, or name the files by '
                       '--source=FILE,FILE,FILE')
    if match.group() in found:
      raise ValueError(f'expected one file of {match.group()}, got {found[match.group()]} and '
                       f'{path}; name the files by --source=FILE,FILE,FILE')
    found[match.group()] = path
  if not found:
    raise ValueError(f'expected weights*.npy in {source}, found no .npy file')
  return found
