"""Files of arrays that are written whole, and never over another."""
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_jax.runs import workdirs


def write(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file beside its place, then renames it: a reader sees all of it or nothing.

  Args:
    path: where no file is yet.
    content: all of it.

  Raises:
    ValueError: there is a file already.
    OSError: it cannot be written.
  """
  refuse_existing(path)
  directory, name = os.path.split(os.path.abspath(path))
  workdirs.write_file(directory, name, content)


def refuse_existing(path: str | os.PathLike) -> None:
  """Refuses a place where there is a file already.

  Args:
    path: of the file that is going to be written.

  Raises:
    ValueError: there is a file, a folder or a link.
  """
  if os.path.lexists(path):  # a link to nothing is in the way too
    raise ValueError(f'{path}: expected a file that does not exist yet, found one; move it, or '
                     'write another')


def check_place(path: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Refuses a place that a file could not be written to, before anything is computed for it.

  Args:
    path: of the file that is going to be written.
    overwrite: whether a file that is there will be replaced.

  Raises:
    ValueError: there is a file, a folder or a link.
    OSError: its folder is not there, or not writable; or the path is a folder.
  """
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'the folder of {path} does not exist')
  if not os.access(folder, os.W_OK):
    raise PermissionError(f'the folder of {path} is not writable')
  if os.path.isdir(path):
    raise IsADirectoryError(f'{path} is a folder: expected the name of a file')
  if not overwrite:
    refuse_existing(path)


def check_tensors(path: str | os.PathLike, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns tensors as arrays in C order and in the byte order of this machine.

  Args:
    path: the file that they are going to be written to, for messages.
    tensors: name -> array of numbers.

  Raises:
    ValueError: there are none, or a name or an array is not fit for a file.
  """
  if not tensors:
    raise ValueError(f'{path}: expected tensors to write, got none')
  arrays = {}
  for name, tensor in tensors.items():
    if not isinstance(name, str) or not name or '\0' in name:
      raise ValueError(f'{path}: expected names of tensors, got {name!r}')
    array = np.asarray(tensor)
    if array.dtype.kind not in 'biuf':
      raise ValueError(f'{path}: expected {name} to hold numbers, got {array.dtype}')
    arrays[name] = array.astype(array.dtype.newbyteorder('='), order='C')
  return arrays
