"""Tensors in the pickles of PyTorch, without PyTorch and without running anything that they name.

A pickled tensor is a place in a storage: offset, shape and strides, counted in elements. The
storages lie elsewhere in the file, each a run of bytes, and several tensors may share a storage.
"""
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.untrusted import unpickler
from mtl_jax.untrusted.unpickler import Refused, StandIn

MAX_DIMS = 64  # of PyTorch and of NumPy


class Storage(NamedTuple):
  """A run of numbers in the file."""
  key: str
  kind: '_Kind'
  size: int  # elements

  @property
  def num_bytes(self) -> int:
    return self.size * np.dtype(self.kind.stored).itemsize


class Tensor(NamedTuple):
  """A place in a storage; offset and strides are in elements."""
  storage: Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape) * np.dtype(self.storage.kind.stored).itemsize


class Dict(dict, StandIn):
  """Stands in for an OrderedDict; what PyTorch notes beside the items (`_metadata`) is dropped."""

  def __init__(self, items: Iterable[tuple[Any, Any]] = ()):
    super().__init__()
    for key, value in items:
      if not isinstance(key, str):
        raise Refused(f'an OrderedDict with a {type(key).__name__} for a key')
      self[key] = value

  def set_state(self, state: Any) -> 'Dict':
    return self


def load(mapped: unpickler.Mapped, storages: dict[str, Storage]) -> Any:
  """Reads the next pickle.

  Args:
    mapped: where to read.
    storages: key -> storage; the storages that the pickle names are added.

  Returns:
    Dicts, lists and tuples of `Tensor`, strings and numbers.

  Raises:
    Refused: the pickle names anything else, or a tensor that its storage cannot hold.
    Exception: the pickle is damaged; see `unpickler.refusals`.
  """
  return _Unpickler(mapped, storages).load()


def to_array(tensor: Tensor, content: bytes, order: str) -> np.ndarray:
  """Copies the numbers of a tensor.

  Args:
    tensor: where they lie.
    content: all bytes of its storage.
    order: order of the bytes of a number, '<' (little-endian) or '>' (big-endian).

  Returns:
    An array of its own memory; bfloat16, which NumPy has not, as float32.
  """
  kind = tensor.storage.kind
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, kind.becomes)
  stored = np.frombuffer(content, np.dtype(order + kind.stored), tensor.storage.size)
  # `_rebuild_tensor` has checked that the last element lies within the storage.
  strides = [0 if n == 1 else step * stored.itemsize
             for n, step in zip(tensor.shape, tensor.stride, strict=True)]
  view = np.lib.stride_tricks.as_strided(stored[tensor.offset:], tensor.shape, strides,
                                         writeable=False)
  if kind == _KINDS['BFloat16']:  # the upper half of a float32
    bits = np.left_shift(view, 16, dtype=np.uint32, casting='unsafe').reshape(view.shape)
    return bits.view(kind.becomes).copy()
  return view.astype(kind.becomes, order='C', copy=True)


class _Kind(NamedTuple):
  """Type of the numbers of a storage."""
  stored: str   # dtype in the file
  becomes: str  # dtype of the array


_KINDS = {
    'Double': _Kind('f8', 'f8'), 'Float': _Kind('f4', 'f4'), 'Half': _Kind('f2', 'f2'),
    'BFloat16': _Kind('u2', 'f4'), 'Long': _Kind('i8', 'i8'), 'Int': _Kind('i4', 'i4'),
    'Short': _Kind('i2', 'i2'), 'Char': _Kind('i1', 'i1'), 'Byte': _Kind('u1', 'u1'),
    'Bool': _Kind('u1', '?'),
}


def _rebuild_tensor(storage: Storage, offset: int, shape: tuple, stride: tuple, *_) -> Tensor:
  """Stands in for the function of PyTorch, and checks that the tensor lies in its storage."""
  if type(storage) is not Storage or not _are_counts(shape) or not _are_counts(stride):
    raise Refused('a tensor without storage, shape or strides')
  if not _is_count(offset) or len(shape) != len(stride):
    raise Refused(f'a tensor of {len(shape)} dimensions and {len(stride)} strides, at '
                  f'{offset!r}'[:100])
  last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
  if 0 not in shape and (last >= storage.size or math.prod(shape) > storage.size):
    raise Refused(f'a tensor of shape {shape}, strides {stride}, offset {offset}, in a storage of '
                  f'{storage.size}')
  return Tensor(storage, offset, shape, stride)


def _rebuild_parameter(tensor: Tensor, *_) -> Tensor:
  if type(tensor) is not Tensor:
    raise Refused('a parameter that is no tensor')
  return tensor


def _size(sizes: tuple) -> tuple:
  return sizes


def _are_counts(sizes: Any) -> bool:
  return type(sizes) is tuple and len(sizes) <= MAX_DIMS and all(map(_is_count, sizes))


def _is_count(number: Any) -> bool:
  return type(number) is int and 0 <= number < 2**63


_KNOWN: dict[tuple[str, str], Callable | _Kind] = {
    ('collections', 'OrderedDict'): Dict,
    ('torch', 'Size'): _size,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    **{('torch', f'{name}Storage'): kind for name, kind in _KINDS.items()},
}


class _Unpickler(unpickler.Unpickler):
  # A persistent id stands for a storage, so the opcode that is refused elsewhere is back here.
  dispatch = {**unpickler.Unpickler.dispatch,
              pickle.BINPERSID[0]: unpickler.PythonUnpickler.load_binpersid}

  def __init__(self, mapped: unpickler.Mapped, storages: dict[str, Storage]):
    super().__init__(mapped, _KNOWN)
    self._storages = storages

  def persistent_load(self, pid: Any) -> Storage:
    """Looks up the storage of ('storage', kind, key, device, elements).

    The older format adds a view of the storage, which must be None.
    """
    if (type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != 'storage'
        or pid[5:] not in ((), (None,))):
      raise Refused('a persistent id of something else than a storage')
    _, kind, key, _, size = pid[:5]
    if type(kind) is not _Kind or type(key) is not str or not _is_count(size):
      raise Refused('a storage without a type, a key or a size')
    storage = Storage(key, kind, size)
    if self._storages.setdefault(key, storage) != storage:
      raise Refused(f'two types or sizes of the storage {key[:100]!r}')
    return storage
