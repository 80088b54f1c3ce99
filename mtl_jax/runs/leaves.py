"""Trees of arrays as named leaves: to the host, compared with what is expected, and back.

A leaf is named by its path, as in `meta_params/base_learner/kernel`.
"""
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MOST_NAMED = 3  # leaves in one message; a wrong network differs in all of them


def to_host(tree: Any) -> dict[str, np.ndarray]:
  """Copies each leaf to the host, safe from donation and from changes in place.

  Args:
    tree: of arrays of numbers.

  Returns:
    Path -> NumPy array.

  Raises:
    ValueError: a leaf is not an array of numbers, or two have the same path.
  """
  leaves = named(tree)
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


def named(tree: Any) -> dict[str, Any]:
  """Returns path -> leaf.

  Args:
    tree: of arrays, or of `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: two leaves have the same path.
  """
  pairs = [(jax.tree_util.keystr(path, simple=True, separator='/') or 'array', leaf)
           for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
  leaves = dict(pairs)
  if len(leaves) < len(pairs):
    raise ValueError('expected leaves with distinct paths, but two have the same one; rename a key '
                     'with "/"')
  return leaves


def check_same(found: Mapping[str, tuple[tuple[int, ...], str]], like: Any, where: str,
               kind: str) -> None:
  """Refuses leaves that are not those of a tree.

  Args:
    found: path -> (shape, name of the dtype).
    like: the tree that is expected.
    where: what they were found in, to be named.
    kind: a word for that.

  Raises:
    ValueError: it names the first leaves that differ.
  """
  expected = {name: (np.shape(leaf), _dtype_name(leaf)) for name, leaf in named(like).items()}
  names = [*expected, *(name for name in found if name not in expected)]
  differing = [name for name in names if found.get(name) != expected.get(name)]
  if not differing:
    return
  said = []
  for name in differing[:_MOST_NAMED]:
    a, b = found.get(name), expected.get(name)
    with_dtype = a is not None and b is not None and a[0] == b[0]
    said.append(f'{name}: {kind} {_text(a, with_dtype)}, expected {_text(b, with_dtype)}')
  more = len(differing) - len(said)
  raise ValueError(f'{where} has other arrays than expected: {"; ".join(said)}'
                   + (f'; and {more} more' if more else ''))


def placed(arrays: Mapping[str, np.ndarray], like: Any) -> Any:
  """Returns the tree that `like` is, of these arrays, each where its leaf is.

  Args:
    arrays: path -> array.
    like: a leaf comes back as a NumPy array where `like` has one, else as a JAX array, on the
      devices of that in `like`, or on no particular one where that is on none.
  """
  leaves = [_placed(arrays[name], leaf) for name, leaf in named(like).items()]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns nested dicts of arrays.

  Args:
    arrays: path -> array.
  """
  tree = {}
  for name, array in arrays.items():
    *parents, last = name.split('/')
    functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = array
  return tree


def _placed(array: np.ndarray, leaf: Any) -> Any:
  if isinstance(leaf, jax.Array):
    return jax.device_put(array, leaf.sharding) if leaf.committed else jnp.asarray(array)
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jnp.asarray(array) if leaf.sharding is None else jax.device_put(array, leaf.sharding)
  return array


def _dtype_name(leaf: Any) -> str:
  return (leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)).dtype.name


def _text(entry: tuple[tuple[int, ...], str] | None, with_dtype: bool) -> str:
  if entry is None:
    return 'no such leaf'
  shape = '(' + ','.join(map(str, entry[0])) + ')'
  return f'{entry[1]} {shape}' if with_dtype else shape
