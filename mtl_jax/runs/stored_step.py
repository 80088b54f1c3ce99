"""One step of a checkpoint on disk: its leaves by path, their checksums, and the comparison with what is expected.

`<step>/state` has the leaves, written by orbax; `<step>/leaves` lists the name, shape, dtype and checksum of each.
What is read is compared with that list, and the list with the tree that the caller expects.
"""
import functools
import json
import logging as python_logging
import os
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

LEAVES_FILE = 'leaves.json'


class Damaged(Exception):
  """A step cannot be read; the message says why, in one line."""


def read(directory: str, step: int, like: Any) -> Any:
  """Reads one step into the structure of `like`; `Damaged` where a leaf is not what was saved."""
  leaves = read_leaf_list(directory, step)['leaves']
  if like is not None:
    _check_same_leaves(leaves, like, os.path.join(directory, str(step)))
  arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype, _) in leaves.items() if 0 in shape}
  if len(arrays) < len(leaves):
    try:
      ocp = orbax()
      alone = alone_options()
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
                            multiprocessing_options=alone) as checkpointer:
        arrays |= checkpointer.restore(os.path.join(directory, str(step), 'state'))
    except Exception as error:  # Damage surfaces as errors of many kinds, from orbax, JSON and tensorstore.
      if isinstance(error, MemoryError):
        raise
      raise Damaged(reason(error)) from error
  for name, entry in leaves.items():
    if name not in arrays:
      raise Damaged(f'leaf {name} is missing')
    if _describe(arrays[name]) != entry:
      raise Damaged(f'leaf {name} is not what was saved (its checksum differs)')
  return _nested(arrays) if like is None else jax.tree.unflatten(
    jax.tree.structure(like), [_placed(arrays[name], leaf) for name, leaf in _named_leaves(like).items()])


def read_leaf_list(directory: str, step: int) -> dict[str, Any]:
  """Returns the object with `accuracy` and `leaves` (name -> [shape, dtype, checksum])."""
  try:
    with open(os.path.join(directory, str(step), 'leaves', LEAVES_FILE), encoding='utf-8') as file:
      content = json.load(file)
    if content['checksum'] != _text_checksum(content):
      raise Damaged('the checksum of its list of leaves differs')
    return content
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise Damaged(f'its list of leaves cannot be read: {reason(error)}') from error


def orbax_items(step: int, arrays: dict[str, np.ndarray], accuracy: float | None):
  """What is written of one step."""
  content = {'step': step, 'accuracy': accuracy, 'leaves': {n: _describe(a) for n, a in arrays.items()}}
  args = orbax().args
  items = {'leaves': args.JsonSave(content | {'checksum': _text_checksum(content)})}
  stored = {name: array for name, array in arrays.items() if array.size}
  if stored:  # Orbax refuses arrays without elements, and trees without arrays.
    items['state'] = args.PyTreeSave(stored)
  return args.Composite(**items)


def _text_checksum(content: dict[str, Any]) -> int:
  text = json.dumps({key: content[key] for key in ('step', 'accuracy', 'leaves')}, sort_keys=True)
  return zlib.crc32(text.encode())


def _describe(array: np.ndarray) -> list:
  """Returns [shape, dtype, checksum of the bytes]."""
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return [list(array.shape), array.dtype.name, zlib.crc32(data)]


def _named_leaves(tree: Any) -> dict[str, Any]:
  """Returns path -> leaf, as in 'meta_params/base_learner/kernel'."""
  pairs = [(jax.tree_util.keystr(path, simple=True, separator='/') or 'array', leaf)
           for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
  leaves = dict(pairs)
  if len(leaves) < len(pairs):
    raise ValueError('expected leaves with distinct paths, but two have the same one; rename a key with "/"')
  return leaves


def to_host(tree: Any) -> dict[str, np.ndarray]:
  """Returns path -> a copy of the leaf as a NumPy array, safe from donation and changes in place."""
  leaves = _named_leaves(tree)
  for name, leaf in leaves.items():
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      raise ValueError(f'leaf {name} is a typed random key: expected numbers; save jax.random.key_data(key)')
  arrays = {name: np.array(leaf) for name, leaf in jax.device_get(leaves).items()}
  for name, array in arrays.items():
    if array.dtype.kind in 'OSUMm':
      raise ValueError(f'leaf {name} has dtype {array.dtype}: expected an array of numbers')
  return arrays


def _check_same_leaves(leaves: dict[str, list], like: Any, where: str) -> None:
  """Raises ValueError that names the first three leaves that differ."""
  expected = {name: (np.shape(leaf), (leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)).dtype.name)
              for name, leaf in _named_leaves(like).items()}
  found = {name: (tuple(shape), dtype) for name, (shape, dtype, _) in leaves.items()}
  differing = []
  for name in [*expected, *(name for name in found if name not in expected)]:
    if found.get(name) != expected.get(name):
      same_shape = name in found and name in expected and found[name][0] == expected[name][0]
      say = [_shape_text(side.get(name), same_shape) for side in (found, expected)]
      differing.append(f'{name}: checkpoint {say[0]}, expected {say[1]}')
  if differing:
    more = f'; and {len(differing) - 3} more' if len(differing) > 3 else ''
    raise ValueError(f'checkpoint {where} has other arrays than expected: {"; ".join(differing[:3])}{more}')


def _shape_text(entry, with_dtype: bool) -> str:
  if entry is None:
    return 'no such leaf'
  shape = '(' + ','.join(map(str, entry[0])) + ')'
  return f'{entry[1]} {shape}' if with_dtype else shape


def _placed(array: np.ndarray, leaf: Any) -> Any:
  """Puts `array` where `leaf` is; on no particular device where `leaf` is on none."""
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


def reason(error: BaseException) -> str:
  """Returns the error in at most one line of 200 characters, in the words of the system where it has some."""
  cause = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  if 'No space left' in str(error):  # tensorstore has the text only
    return 'No space left on device'
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:200]


def alone_options():
  """Returns the options by which orbax does not wait for other processes of the run: each reads and writes alone."""
  options = orbax().options.MultiprocessingOptions
  if jax.process_count() == 1:
    return options()
  me = jax.process_index()
  return options(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'process{me}')


@functools.cache
def orbax():
  """Imports orbax when it is first needed (it takes seconds), and mutes its chatter.

  Of what orbax logs, only warnings and errors pass, and no tracebacks: it raises those errors as well.
  """
  import orbax.checkpoint as ocp
  def keep(record: python_logging.LogRecord) -> bool:
    of_orbax = f'orbax{os.sep}checkpoint{os.sep}' in record.pathname
    return not of_orbax or (record.levelno >= python_logging.WARNING and not record.exc_info)
  logging.get_absl_logger().addFilter(keep)
  return ocp
