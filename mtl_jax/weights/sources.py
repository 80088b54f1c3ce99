"""The files that hold the authors' weights, read and written as one dictionary of arrays under the keys of `names`."""
import os
import re
from collections.abc import Mapping

import numpy as np

_DICTIONARIES = ('weights', 'ss_weights', 'fc_weights')  # of the TensorFlow code, each in a file of its own


def read(source: str, format: str) -> dict[str, np.ndarray]:
  """Reads weights, without PyTorch, TensorFlow, or running anything that a file names.

  Args:
    source: for PyTorch a `.pth`; for TensorFlow the `.npy` files of `weights`, and after meta-training of `ss_weights`
      and `fc_weights`, separated by commas, or their folder; for both an `.npz` that `write` made.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    Key -> array.

  Raises:
    ValueError: a file is damaged, holds something else than arrays, or it is not clear which dictionary it is.
    OSError: it is not there, or cannot be read.
  """
  from mtl_jax.weights import npy, pth  # lazily, as each reads one kind of file
  if format == 'pytorch' or source.endswith('.npz'):
    _check_file(source)
  if source.endswith('.npz'):
    return npy.read(source)
  if format == 'pytorch':
    return pth.read(source)
  tensors = {}
  for dictionary, path in _dictionaries(source).items():
    tensors |= {f'{dictionary}/{key}': array for key, array in npy.read(path).items()}
  return tensors


def write(path: str, tensors: Mapping[str, np.ndarray], format: str) -> None:
  """Writes weights under the authors' keys.

  Args:
    path: ends in `.npz`; or, for PyTorch, in `.pth`, which needs PyTorch; or, for TensorFlow, is a folder, which then
      holds `weights.npy`, `ss_weights.npy` and `fc_weights.npy` as the authors' code loads them. None may exist.
    tensors: key -> array.
    format: 'pytorch' or 'tensorflow'.

  Raises:
    ValueError: another ending, or PyTorch is not installed.
    OSError: it is there already, or cannot be written.
  """
  from mtl_jax.weights import npy, pth
  ending = os.path.splitext(path)[1]
  check_new(path, format)
  if ending == '.npz':
    npy.write(path, tensors)
  elif format == 'pytorch':
    pth.write(path, tensors)
  else:
    os.makedirs(path)
    for dictionary in _DICTIONARIES:
      part = {key.split('/')[1]: array for key, array in tensors.items() if key.startswith(dictionary + '/')}
      if part:
        npy.write(os.path.join(path, dictionary + '.npy'), part)


def check_new(path: str, format: str) -> None:
  """Refuses a place that `write` could not write to; arguments and errors as there."""
  ending = os.path.splitext(path)[1]
  allowed = ('.npz', '.pth') if format == 'pytorch' else ('.npz', '')
  if ending not in allowed:
    raise ValueError(f"expected the export for {format} to end in {' or '.join(filter(None, allowed))}"
                     f"{', or to be a folder' if '' in allowed else ''}, got {path}")
  if os.path.exists(path):
    raise FileExistsError(f'{path} is there already: choose another --export')
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'folder {folder} does not exist: choose another --export')


def _check_file(path):
  if not os.path.exists(path):
    raise FileNotFoundError(f'{path} does not exist: expected a file of weights')
  if os.path.isdir(path):
    raise IsADirectoryError(f'{path} is a folder: expected a file of weights')


def _dictionaries(source):
  """Returns dictionary -> file."""
  if os.path.isdir(source):
    paths = sorted(os.path.join(source, name) for name in os.listdir(source) if name.endswith('.npy'))
  else:
    paths = source.split(',')
  found = {}
  for path in paths:
    _check_file(path)
    match = re.match(r'(ss_|fc_)?weights', os.path.basename(path))
    if not match:
      raise ValueError(f'expected the name of {path} to begin with {", ".join(_DICTIONARIES)}, to tell which '
                       'dictionary it holds; rename it, or name the files by --source=FILE,FILE,FILE')
    if match.group() in found:
      raise ValueError(f'expected one file of {match.group()}, got {found[match.group()]} and {path}; name the files '
                       'by --source=FILE,FILE,FILE')
    found[match.group()] = path
  if not found:
    raise ValueError(f'expected weights*.npy in {source}, found no .npy file')
  return found
