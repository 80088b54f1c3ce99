"""A step of a checkpoint: its leaves by path, their checksums, and the tree that is expected.

`<step>/state` has the leaves, written by orbax; `<step>/leaves` lists the name, shape, dtype and
checksum of each. What is read is compared with that list, and the list with the tree that the
caller expects.
"""
import json
import os
import zlib
from typing import Any

import numpy as np

from mtl_jax.runs import leaves, orbax_io


class Damaged(Exception):
  """A step cannot be read; the message says why, in one line."""


def read(directory: str, step: int, like: Any) -> Any:
  """Reads one step.

  Args:
    directory: folder of the checkpoints.
    step: one of those in it.
    like: tree of arrays with the structure, shapes and dtypes expected; None for whatever is there,
      as nested dicts of NumPy arrays.

  Raises:
    Damaged: a leaf is missing, or not what was saved.
    ValueError: other leaves were saved than `like` has.
  """
  listed = read_leaf_list(directory, step)['leaves']
  if like is not None:
    found = {name: (tuple(shape), dtype) for name, (shape, dtype, _) in listed.items()}
    where = os.path.join(directory, str(step))
    leaves.check_same(found, like, f'checkpoint {where}', 'checkpoint')
  arrays = _read_arrays(directory, step, listed)
  return leaves.nested(arrays) if like is None else leaves.placed(arrays, like)


def _read_arrays(directory: str, step: int, listed: dict[str, list]) -> dict[str, np.ndarray]:
  """Reads the arrays of one step, and compares each with its checksum."""
  # Arrays without elements were not written.
  arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype, _) in listed.items()
            if 0 in shape}
  if len(arrays) < len(listed):
    try:
      arrays |= orbax_io.read_arrays(os.path.join(directory, str(step)))
    except MemoryError:  # says nothing about the files
      raise
    except Exception as error:
      raise Damaged(orbax_io.reason(error)) from error
  for name, entry in listed.items():
    if name not in arrays:
      raise Damaged(f'leaf {name} is missing')
    if _describe(arrays[name]) != entry:
      raise Damaged(f'leaf {name} is not what was saved (its checksum differs)')
  return arrays


def read_leaf_list(directory: str, step: int) -> dict[str, Any]:
  """Reads what `leaf_list` made of one step.

  Args:
    directory: folder of the checkpoints.
    step: one of those in it.

  Raises:
    Damaged: the list cannot be read, or is not what was saved.
  """
  path = os.path.join(directory, str(step), orbax_io.LEAVES, orbax_io.LEAVES_FILE)
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
    if content['checksum'] != _checksum_of_list(content):
      raise Damaged('the checksum of its list of leaves differs')
    return content
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise Damaged(f'its list of leaves cannot be read: {orbax_io.reason(error)}') from error


def leaf_list(step: int, arrays: dict[str, np.ndarray], accuracy: float | None,
              ci95: float | None = None, awaits_validation: bool = False) -> dict[str, Any]:
  """Returns what is stored of one step as JSON, beside its arrays.

  Args:
    step: number of the step.
    arrays: path -> array.
    accuracy: on the validation tasks; None where not measured.
    ci95: half-width of its 95% interval; None where not measured.
    awaits_validation: whether the accuracy is still to be measured.

  Returns:
    `step`, `accuracy`, `ci95`, `leaves` (path -> [shape, dtype, checksum]), `awaits_validation`
    where it does, and `checksum`, of all these.
  """
  described = {name: _describe(array) for name, array in arrays.items()}
  content = {'step': step, 'accuracy': accuracy, 'ci95': ci95, 'leaves': described}
  content |= {'awaits_validation': True} if awaits_validation else {}
  return content | {'checksum': _checksum_of_list(content)}


def _describe(array: np.ndarray) -> list:
  """Returns [shape, dtype, checksum of the bytes]."""
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  return [list(array.shape), array.dtype.name, zlib.crc32(data)]


def _checksum_of_list(content: dict[str, Any]) -> int:
  covered = {key: value for key, value in content.items() if key != 'checksum'}
  return zlib.crc32(json.dumps(covered, sort_keys=True).encode())
