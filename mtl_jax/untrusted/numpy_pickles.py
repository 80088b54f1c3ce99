"""Pickles of arrays that others share, read without importing or running anything that they name.

Only arrays, scalars, dicts, lists, tuples, strings and numbers are understood, and the functions
below replace the functions of NumPy that such pickles name, so that no state out of the file
reaches NumPy's own unpickling either. The bytes of an array are not read but mapped from the file:
13 GB of images cost no memory until used.
"""
import mmap
import pathlib
import re
from typing import Any

import numpy as np

from mtl_jax.untrusted import regular, unpickler
from mtl_jax.untrusted.unpickler import Refused, StandIn


def load(path: pathlib.Path, start: int = 0, boxed: bool = False) -> Any:
  """Reads a pickle of arrays, dicts, lists, tuples, strings, bytes and numbers, by Python 2 or 3.

  Strings of Python 2 are decoded as latin1. Only arrays that Python 3 wrote by protocol 2 or below
  are read at once: their bytes are encoded as text.

  Args:
    path: the file; it must stay as it is while the result is in use.
    start: where in the file the pickle begins, in bytes.
    boxed: whether a dict may be boxed, that is in an array of objects of shape (), as np.save
      writes it.

  Returns:
    What was pickled; arrays, and bytes of more than `unpickler.SMALL`, are read-only and mapped
    from the file.

  Raises:
    ValueError: it names anything else (named, and not run), or is cut off or damaged.
  """
  regular.check(path)
  with (path.open('rb') as file,
        unpickler.refusals(path, 'pickle', 'pickle of arrays, dicts, lists, strings and numbers')):
    mapped = unpickler.Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.seek(start)
    return unpickler.Unpickler(mapped, _KNOWN_BOXED if boxed else _KNOWN).load()


def of_bytes(source: pathlib.Path, name: str, content: bytes) -> dict[str, Any]:
  """Reads a dict by texts from a member of an archive, as `load` reads a file.

  Args:
    source: the archive, or the folder, that the member was read from.
    name: of the member.
    content: all of it.

  Returns:
    The dict; a key that is missing is a ValueError too.

  Raises:
    ValueError: as `load`, or it is no dict.
  """
  with unpickler.refusals(source, f'pickle {name}',
                          f'pickle {name} of arrays, dicts, lists, strings and numbers'):
    found = unpickler.Unpickler(unpickler.Mapped.of(content), _KNOWN).load()
    if not isinstance(found, dict):
      raise Refused(f'a {type(found).__name__}')
  return _Fields(f'{source}: {name}', found)


class _Fields(dict):
  """A dict whose missing keys are named."""

  def __init__(self, where: str, content: dict):
    super().__init__((key.decode('latin1') if isinstance(key, bytes) else key, value)
                     for key, value in content.items())
    self._where = where

  def __missing__(self, key: str) -> Any:
    raise ValueError(f'{self._where}: expected {key!r} in it, found none')


class _Dtype(StandIn):
  """Stands in for numpy.dtype: plain numbers and strings, no objects, no fields."""

  def __init__(self, code: str | bytes, *_):
    code = code.decode('latin1') if isinstance(code, bytes) else code
    if not isinstance(code, str) or not re.fullmatch(r'[biufSU]\d{1,9}', code):
      raise Refused(f'an array of dtype {code!r}')
    self.value = np.dtype(code)

  def set_state(self, state: tuple) -> '_Dtype':
    _, order, *parts = state
    order = order.decode('latin1') if isinstance(order, bytes) else order
    if order not in ('<', '>', '=', '|') or any(part is not None for part in parts[:3]):
      raise Refused('an array with a structured dtype')
    if order == '>':
      self.value = self.value.newbyteorder('>')
    return self


class _Array(StandIn):
  """Stands in for numpy.ndarray until its state is known."""

  def set_state(self, state: tuple) -> np.ndarray | dict:
    _, shape, dtype, fortran, content = state
    if isinstance(dtype, _Box):
      return dtype.unbox(shape, content)
    return _from_buffer(content, dtype, shape, 'F' if fortran else 'C')


class _Box(StandIn):
  """Stands in for the dtype of objects, in an array that holds a single dict."""

  def set_state(self, state: tuple) -> '_Box':
    return self

  def unbox(self, shape: tuple, content: list) -> dict:
    """Returns the dict, out of the state of the array."""
    if shape != () or len(content) != 1 or not isinstance(content[0], dict):
      raise Refused(f'an array of objects of shape {shape!r}'[:100])
    return content[0]


def _dtype_or_box(code: str | bytes, *_) -> _Dtype | _Box:
  return _Box() if code in ('O8', b'O8', 'O4', b'O4') else _Dtype(code)


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple, order: Any,
                 axis_order: None = None) -> np.ndarray:
  """Stands in for numpy's _frombuffer: an array over the bytes in the file, read-only."""
  if axis_order is not None or not isinstance(dtype, _Dtype):
    raise Refused('an array in an unknown layout')
  array = np.ndarray(shape, dtype.value, buffer=_as_bytes(content), order=order)
  array.flags.writeable = False
  return array


def _reconstruct(kind: type, *_) -> _Array:
  """Stands in for numpy's _reconstruct: an array without state."""
  if kind is not _Array:
    raise Refused('an array of an unknown class')
  return _Array()


def _scalar(dtype: _Dtype, content: Any) -> bool | int | float | str | bytes:
  """Stands in for numpy's scalar: a number or string of Python."""
  return np.ndarray((), dtype.value, buffer=_as_bytes(content)).item()


def _encode(text: str, encoding: str) -> bytes:
  """Stands in for codecs.encode, by which Python 3 writes bytes up to protocol 2."""
  if encoding != 'latin1':
    raise Refused(f'text encoded as {encoding!r}')
  return text.encode('latin1')


def _no_bytes() -> bytes:
  """Stands in for bytes(), by which Python 3 writes empty bytes up to protocol 2."""
  return b''


def _as_bytes(content: Any) -> bytes | bytearray | np.ndarray:
  return content.encode('latin1') if isinstance(content, str) else content


_CORES = ('core', '_core')  # of NumPy 1 and 2
_KNOWN = {
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Dtype,
    ('_codecs', 'encode'): _encode,
    ('__builtin__', 'bytes'): _no_bytes,
    **{(f'numpy.{core}.multiarray', '_reconstruct'): _reconstruct for core in _CORES},
    **{(f'numpy.{core}.multiarray', 'scalar'): _scalar for core in _CORES},
    **{(f'numpy.{core}.numeric', '_frombuffer'): _from_buffer for core in _CORES},
}
# With the dtype of objects, for dicts that np.save has boxed.
_KNOWN_BOXED = {**_KNOWN, ('numpy', 'dtype'): _dtype_or_box}
