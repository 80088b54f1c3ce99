"""A machine for pickles that runs nothing: what they name is refused, or one of our own functions stands in for it.

A pickle is a small program that may call any function. The C unpickler can neither map bytes from the file nor leave
out the frames of protocol 4, and a few bytes make it reserve tens of gigabytes for its memo; hence the Python one,
whose opcodes can be replaced one by one.
"""
import contextlib
import mmap
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

SMALL = 1024  # bytes; longer strings of bytes are mapped


class Refused(ValueError):
  """The file asks for something else than data, or for other data than expected; says what was found."""


@contextlib.contextmanager
def refusals(path: str | os.PathLike, kind: str, content: str) -> Iterator[None]:
  """Makes whatever goes wrong with a file one ValueError of one line.

  Args:
    path: The file.
    kind: What it is, such as "pickle".
    content: What it may hold, such as "pickle of arrays".

  Raises:
    ValueError: For any error in the body.
  """
  try:
    yield
  except Refused as e:
    raise ValueError(f'{path}: expected a {content} only, found {str(e)[:300]}; '
                     'nothing of it was run, do not open it by other means') from e
  except Exception as e:  # Damaged opcodes make the machine raise nearly anything.
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise ValueError(f'{path}: expected a whole {kind}, found {os.path.getsize(path)} bytes, cut off or damaged '
                     f'({reason[:100]}); download or copy it again') from e


class Mapped(mmap.mmap):
  """A file, or bytes; half a line at its end is no line: it would be half a name."""

  @classmethod
  def of(cls, content: bytes) -> 'Mapped':
    """The bytes as if they were a file."""
    mapped = cls(-1, len(content))
    mapped[:] = content
    return mapped

  def readline(self) -> bytes:
    line = super().readline()
    if not line.endswith(b'\n'):
      raise EOFError('half a line at the end')
    return line


class StandIn:
  """Of a class that a pickle names; does with the state in the file what is safe."""
  became = None  # what it stood for, once its state is known

  def set_state(self, state: Any) -> Any:
    """Returns what the pickle then goes on with: itself, or what it stood for."""
    raise NotImplementedError


class Unpickler(pickle._Unpickler):
  """Reads one pickle after another, out of a file or bytes, from where they stand.

  Args:
    mapped: Where to read.
    known: (module, name) -> what stands in for each global that a pickle may name; all others are refused.
  """
  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, mapped: Mapped, known: Mapping[tuple[str, str], Any]):
    super().__init__(mapped, encoding='latin1')
    self.memo = _Memo()
    self._known = known
    self._mapped = mapped
    self._content = np.frombuffer(mapped, np.uint8)

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in self._known:
      raise Refused(f"the global {f'{module}.{name}'[:100]!r}")
    return self._known[module, name]

  def load_build(self) -> None:
    state = self.stack.pop()
    stand_in = self.stack[-1]
    if not isinstance(stand_in, StandIn):
      raise Refused(f'state for a {type(stand_in).__name__}')
    self.stack[-1] = stand_in.became = stand_in.set_state(state)

  def _set(self, target: Any, items: list) -> None:
    """Hashing a tuple in a tuple in a tuple, a million times, would end the process, so keys are plain."""
    if not isinstance(target, dict):
      raise Refused(f'items for a {type(target).__name__}')
    for key, value in zip(items[::2], items[1::2], strict=True):
      if not isinstance(key, str | bytes | int | float | None):
        raise Refused(f'a dict with a {type(key).__name__} for a key')
      target[key] = value

  def load_setitem(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self._set(self.stack[-1], [key, value])

  def load_setitems(self) -> None:
    items = self.pop_mark()
    self._set(self.stack[-1], items)

  def load_dict(self) -> None:
    items = self.pop_mark()
    self.append({})
    self._set(self.stack[-1], items)

  def load_frame(self) -> None:
    self.read(8)  # A frame only tells how much to read ahead.

  def _load_bytes(self, length_format: str) -> bytes | np.ndarray:
    length, = struct.unpack(length_format, self.read(struct.calcsize(length_format)))
    start = self._mapped.tell()
    if not 0 <= length <= len(self._mapped) - start:
      raise EOFError(f'{length} bytes expected at {start}')
    if length <= SMALL:
      return self.read(length)
    self._mapped.seek(length, os.SEEK_CUR)
    return self._content[start:start + length]

  def load_binbytes(self) -> None:
    self.append(self._load_bytes('<I'))

  def load_binbytes8(self) -> None:
    self.append(self._load_bytes('<Q'))

  def load_binstring(self) -> None:
    content = self._load_bytes('<i')
    self.append(content.decode('latin1') if isinstance(content, bytes) else content)

  def refuse(self) -> None:
    raise Refused('a set, a persistent id, a registered extension or a buffer outside of the file')

  for _code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.EXT1,
                pickle.EXT2, pickle.EXT4):
    dispatch[_code[0]] = refuse
  for _code, _load in ((pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems), (pickle.DICT, load_dict)):
    dispatch[_code[0]] = _load
  dispatch[pickle.BUILD[0]] = load_build
  dispatch[pickle.FRAME[0]] = load_frame
  dispatch[pickle.BINBYTES[0]] = load_binbytes
  dispatch[pickle.BINBYTES8[0]] = load_binbytes8
  dispatch[pickle.BYTEARRAY8[0]] = load_binbytes8
  dispatch[pickle.BINSTRING[0]] = load_binstring


class _Memo(dict):
  """Remembers an array by its stand-in, since a pickle remembers it before its state."""

  def __getitem__(self, index: int) -> Any:
    found = super().__getitem__(index)
    return found.became if isinstance(found, StandIn) and found.became is not None else found
