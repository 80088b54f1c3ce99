"""A step of a checkpoint: its leaves by path, their checksums, and the tree that is expected.

`<step>/state` has the leaves, written by orbax; `<step>/leaves` lists the name, shape, dtype and
checksum of each. What is read is compared with that list, and the list with the tree that the
caller expects.
"""
import functools
import json
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.runs import orbax_io

_MOST_NAMED = 3  # leaves in one message; a wrong network differs in all of them


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
  leaves = read_leaf_list(directory, step)['leaves']
  if like is not None:
    _check_same_leaves(leaves, like, os.path.join(directory, str(step)))
  arrays = _read_arrays(directory, step, leaves)
  if like is None:
    return _nested(arrays)
  placed = [_placed(arrays[name], leaf) for name, leaf in _named_leaves(like).items()]
  return jax.tree.unflatten(jax.tree.structure(like), placed)


def _read_arrays(directory: str, step: int, leaves: dict[str, list]) -> dict[str, np.ndarray]:
  """Reads the arrays of one step, and compares each with its checksum."""
  # Arrays without elements were not written.
  arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype, _) in leaves.items()
            if 0 in shape}
  if len(arrays) < len(leaves):
    try:
      arrays |= orbax_io.read_arrays(os.path.join(directory, str(step)))
    except MemoryError:  # says nothing about the files
      raise
    except Exception as error:
      raise Damaged(orbax_io.reason(error)) from error
  for name, entry in leaves.items():
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


def leaf_list(step: int, arrays: dict[str, np.ndarray], accuracy: float | None) -> dict[str, Any]:
  """Returns what is stored of one step as JSON, beside its arrays.

  Args:
    step: number of the step.
    arrays: path -> array.
    accuracy: on the validation tasks; None where not measured.

  Returns:
    `step`, `accuracy`, `leaves` (path -> [shape, dtype, checksum]) and `checksum`, of these three.
  """
  leaves = {name: _describe(array) for name, array in arrays.items()}
  content = {'step': step, 'accuracy': accuracy, 'leaves': leaves}
  return content | {'checksum': _checksum_of_list(content)}


def to_host(tree: Any) -> dict[str, np.ndarray]:
  """Copies each leaf to the host, safe from donation and from changes in place.

  Args:
    tree: of arrays of numbers.

  Returns:
    Path -> NumPy array.

  Raises:
    ValueError: a leaf is not an array of numbers, or two have the same path.
  """
  leaves = _named_leaves(tree)
  for name, leaf in leaves.items():
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise ValueError(f'leaf {name} is a typed random key: expected numbers; save '
                       'jax.random.key_data(key)')
  # `device_get` may return views of what lies on the host already, so each is copied.
  arrays = {name: np.array(leaf) for name, leaf in jax.device_get(leaves).items()}
  for name, array in arrays.items():
    if array.dtype.kind in 'OSUMm':  # objects, texts and dates
      raise ValueError(f'leaf {name} has dtype {array.dtype}: expected an array of numbers')
  return arrays


def _named_leaves(tree: Any) -> dict[str, Any]:
  """Returns path -> leaf, as in 'meta_params/base_learner/kernel'."""
  pairs = [(jax.tree_util.keystr(path, simple=True, separator='/') or 'array', leaf)
           for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
  leaves = dict(pairs)
  if len(leaves) < len(pairs):
    raise ValueError('expected leaves with distinct paths, but two have the same one; rename a key '
                     'with "/"')
  return leaves


def _check_same_leaves(leaves: dict[str, list], like: Any, where: str) -> None:
  """Raises ValueError that names the first leaves that differ."""
  found = {name: (tuple(shape), dtype) for name, (shape, dtype, _) in leaves.items()}
  expected = {name: (np.shape(leaf), _dtype_name(leaf))
              for name, leaf in _named_leaves(like).items()}
  names = [*expected, *(name for name in found if name not in expected)]
  differing = [name for name in names if found.get(name) != expected.get(name)]
  if not differing:
    return
  said = []
  for name in differing[:_MOST_NAMED]:
    a, b = found.get(name), expected.get(name)
    with_dtype = a is not None and b is not None and a[0] == b[0]
    said.append(f'{name}: checkpoint {_shape_text(a, with_dtype)}, '
                f'expected {_shape_text(b, with_dtype)}')
  more = len(differing) - len(said)
  raise ValueError(f'checkpoint {where} has other arrays than expected: {"; ".join(said)}'
                   + (f'; and {more} more' if more else ''))


def _dtype_name(leaf: Any) -> str:
  return (leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)).dtype.name


def _shape_text(entry: tuple[tuple[int, ...], str] | None, with_dtype: bool) -> str:
  if entry is None:
    return 'no such leaf'
  shape = '(' + ','.join(map(str, entry[0])) + ')'
  return f'{entry[1]} {shape}' if with_dtype else shape


def _placed(array: np.ndarray, leaf: Any) -> Any:
  """Copies `array` to where `leaf` is; to no particular device where `leaf` is on none."""
  if isinstance(leaf, jax.Array):
    return jax.device_put(array, leaf.sharding) if leaf.committed else jnp.asarray(array)
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jnp.asarray(array) if leaf.sharding is None else jax.device_put(array, leaf.sharding)
  return array


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns nested dicts from paths."""
  tree = {}
  for name, array in arrays.items():
    *parents, last = name.split('/')
    functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = array
  return tree


def _describe(array: np.ndarray) -> list:
  """Returns [shape, dtype, checksum of the bytes]."""
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  return [list(array.shape), array.dtype.name, zlib.crc32(data)]


def _checksum_of_list(content: dict[str, Any]) -> int:
  covered = {key: content[key] for key in ('step', 'accuracy', 'leaves')}
  return zlib.crc32(json.dumps(covered, sort_keys=True).encode())
