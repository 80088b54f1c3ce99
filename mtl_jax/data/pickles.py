"""Pickles that others share, read without importing or running anything that they name.

A pickle is a small program that may call any function. Here only arrays, scalars, dicts, lists, tuples, strings
and numbers are understood, and the NumPy functions that such pickles name are replaced by the ones below, so
that no state out of the file reaches NumPy's own unpickling either.

The bytes of an array are not read but mapped from the file: 13 GB of images cost no memory until used. The C
unpickler can do neither this nor leave out the frames of protocol 4, hence the Python one, whose opcodes can be
replaced one by one.
"""
import mmap
import os
import pathlib
import pickle
import re
import struct
from typing import Any

import numpy as np

SMALL = 1024  # bytes; longer strings of bytes are mapped


class _Refused(ValueError):
  """The pickle asks for something else than data."""


def load(path: pathlib.Path) -> Any:
  """Reads a pickle of arrays, dicts, lists, tuples, strings, bytes and numbers, by Python 2 or 3.

  Strings of Python 2 are decoded as latin1. Only arrays that Python 3 wrote by protocol 2 or below are read at
  once: their bytes are encoded as text.

  Args:
    path: The file; it must stay as it is while the result is in use.

  Returns:
    What was pickled; arrays, and bytes of more than `SMALL`, are read-only and mapped from the file.

  Raises:
    ValueError: If it names anything else (named, and not run), or is cut off or damaged.
  """
  size = path.stat().st_size
  try:
    with path.open("rb") as file:
      return _Unpickler(_Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)).load()
  except _Refused as e:
    raise ValueError(f"{path}: expected a pickle of arrays, dicts, lists, strings and numbers only, found {e}; "
                     "nothing of it was run, do not open it by other means") from e
  except Exception as e:  # Damaged opcodes make the machine raise nearly anything.
    reason = " ".join(str(e).split()) or type(e).__name__
    raise ValueError(f"{path}: expected a whole pickle, found {size} bytes, cut off or damaged ({reason[:100]}); "
                     "download or copy it again") from e


class _Dtype:
  """Stands in for numpy.dtype: plain numbers and strings, no objects, no fields."""

  def __init__(self, code: str | bytes, *_):
    code = code.decode("latin1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or not re.fullmatch(r"[biufSU]\d{1,9}", code):
      raise _Refused(f"an array of dtype {code!r}")
    self.value = np.dtype(code)

  def set_state(self, state: tuple) -> "_Dtype":
    _, order, *parts = state
    order = order.decode("latin1") if isinstance(order, bytes) else order
    if order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
      raise _Refused("an array with a structured dtype")
    if order == ">":
      self.value = self.value.newbyteorder(">")
    return self


class _Array:
  """Stands in for numpy.ndarray until its state is known."""
  value = None

  def set_state(self, state: tuple) -> np.ndarray:
    _, shape, dtype, fortran, content = state
    self.value = _from_buffer(content, dtype, shape, "F" if fortran else "C")
    return self.value


def _from_buffer(content: Any, dtype: _Dtype, shape: tuple, order: str, axis_order: None = None) -> np.ndarray:
  if axis_order is not None or not isinstance(dtype, _Dtype):
    raise _Refused("an array in an unknown layout")
  array = np.ndarray(shape, dtype.value, buffer=_as_bytes(content), order=order)
  array.flags.writeable = False
  return array


def _reconstruct(kind: type, *_) -> _Array:
  if kind is not _Array:
    raise _Refused("an array of an unknown class")
  return _Array()


def _scalar(dtype: _Dtype, content: Any) -> bool | int | float | str | bytes:
  return np.ndarray((), dtype.value, buffer=_as_bytes(content)).item()


def _encode(text: str, encoding: str) -> bytes:
  """Bytes that Python 3 wrote by protocol 2 or below."""
  if encoding != "latin1":
    raise _Refused(f"text encoded as {encoding!r}")
  return text.encode("latin1")


def _no_bytes() -> bytes:
  """Empty bytes by protocol 2 or below."""
  return b""


def _as_bytes(content: Any) -> bytes | bytearray | np.ndarray:
  return content.encode("latin1") if isinstance(content, str) else content


_KNOWN = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Memo(dict):
  """Remembers an array by its stand-in, since a pickle remembers it before its state."""

  def __getitem__(self, index: int) -> Any:
    found = super().__getitem__(index)
    return found if not isinstance(found, _Array) or found.value is None else found.value


class _Mapped(mmap.mmap):
  """The file; half a line at its end is no line: it would be half a name."""

  def readline(self) -> bytes:
    line = super().readline()
    if not line.endswith(b"\n"):
      raise EOFError("half a line at the end")
    return line


class _Unpickler(pickle._Unpickler):
  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, mapped: _Mapped):
    super().__init__(mapped, encoding="latin1")
    self.memo = _Memo()
    self._mapped = mapped
    self._content = np.frombuffer(mapped, np.uint8)

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _KNOWN:
      raise _Refused(f"the global {f'{module}.{name}'[:100]!r}")
    return _KNOWN[module, name]

  def load_build(self) -> None:
    state = self.stack.pop()
    if not isinstance(self.stack[-1], _Array | _Dtype):
      raise _Refused(f"state for a {type(self.stack[-1]).__name__}")
    self.stack[-1] = self.stack[-1].set_state(state)

  def load_frame(self) -> None:
    self.read(8)  # A frame only tells how much to read ahead.

  def _load_bytes(self, length_format: str) -> bytes | np.ndarray:
    length, = struct.unpack(length_format, self.read(struct.calcsize(length_format)))
    start = self._mapped.tell()
    if not 0 <= length <= len(self._mapped) - start:
      raise EOFError(f"{length} bytes expected at {start}")
    if length <= SMALL:
      return self.read(length)
    self._mapped.seek(length, os.SEEK_CUR)
    return self._content[start:start + length]

  def load_binbytes(self) -> None:
    self.append(self._load_bytes("<I"))

  def load_binbytes8(self) -> None:
    self.append(self._load_bytes("<Q"))

  def load_binstring(self) -> None:
    content = self._load_bytes("<i")
    self.append(content.decode("latin1") if isinstance(content, bytes) else content)

  def refuse(self) -> None:
    raise _Refused("a set, a persistent id or a buffer outside of the file")

  for _code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER):
    dispatch[_code[0]] = refuse
  dispatch[pickle.BUILD[0]] = load_build
  dispatch[pickle.FRAME[0]] = load_frame
  dispatch[pickle.BINBYTES[0]] = load_binbytes
  dispatch[pickle.BINBYTES8[0]] = load_binbytes8
  dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8
  dispatch[pickle.BINSTRING[0]] = load_binstring
