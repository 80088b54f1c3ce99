"""An unpickler that runs nothing: names in a pickle are refused, or functions stand in for them.

A pickle is a small program that may call any function. The C unpickler can neither map bytes from
the file nor leave out the frames of protocol 4, and a few bytes make it reserve tens of gigabytes
for its memo; hence the Python unpickler, whose opcodes can be replaced separately.
"""
import contextlib
import mmap
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

SMALL = 1024       # bytes; longer strings of bytes are mapped
MAX_FOUND = 300    # characters of what was found, in a message
MAX_REASON = 100   # characters of an error of Python's, in a message
FRAME_HEADER = 8   # bytes

# Undocumented, but in every Python since 3.0; the type stubs of the standard library lack its body.
PythonUnpickler = cast(Any, pickle._Unpickler)


class Refused(ValueError):
  """A file asks for something else than data, or for other data than expected; says for what."""


@contextlib.contextmanager
def refusals(path: str | os.PathLike, kind: str, content: str) -> Iterator[None]:
  """Turns every error of the body into a ValueError of a single line.

  `Refused` becomes a refusal, with the advice not to open the file otherwise; any other error
  becomes the message that the file is cut off or damaged.

  Args:
    path: the file that the body reads.
    kind: what it is, such as "pickle".
    content: what it may hold, such as "pickle of arrays".

  Raises:
    ValueError: the body raised an error.
  """
  try:
    yield
  except Refused as e:
    raise ValueError(f'{path}: expected a {content} only, found {str(e)[:MAX_FOUND]}; '
                     'nothing of it was run, do not open it by other means') from e
  except Exception as e:  # Damaged opcodes make the unpickler raise nearly anything.
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise ValueError(f'{path}: expected a whole {kind}, found {os.path.getsize(path)} bytes, cut '
                     f'off or damaged ({reason[:MAX_REASON]}); download or copy it again') from e


class Mapped(mmap.mmap):
  """A mapped file, or bytes, in which a line without its end is an error."""

  @classmethod
  def of(cls, content: bytes) -> 'Mapped':
    """Copies bytes to where they can be read like a file.

    Args:
      content: at least one byte.
    """
    mapped = cls(-1, len(content))
    mapped[:] = content
    return mapped

  def readline(self) -> bytes:
    """Reads a line, which holds a name or a number in pickles.

    Raises:
      EOFError: the file ends before the line does, so that the name would be cut short.
    """
    line = super().readline()
    if not line.endswith(b'\n'):
      raise EOFError('half a line at the end')
    return line


class StandIn:
  """Base of what stands in for an instance of a class that a pickle names."""
  became = None  # what it stood for, once its state is known

  def set_state(self, state: Any) -> Any:
    """Takes the state in the file, and returns what the pickle goes on with instead of this.

    Args:
      state: as unpickled; it may be anything.
    """
    raise NotImplementedError


class Unpickler(PythonUnpickler):
  """Reads pickles, each from where the one before it ended, out of a file or bytes.

  Args:
    mapped: where to read.
    known: (module, name) -> what stands in for each global that a pickle may name; all others are
      refused.
  """
  dispatch = dict(PythonUnpickler.dispatch)

  def __init__(self, mapped: Mapped, known: Mapping[tuple[str, str], Any]):
    super().__init__(mapped, encoding='latin1')
    self.memo = _Memo()
    self._known = known
    self._mapped = mapped
    self._content = np.frombuffer(mapped, np.uint8)

  def find_class(self, module: str, name: str) -> Any:
    """Looks up what stands in for a global; nothing is imported.

    Args:
      module: as the pickle names it.
      name: as the pickle names it.

    Raises:
      Refused: nothing stands in for it.
    """
    if (module, name) not in self._known:
      raise Refused(f"the global {f'{module}.{name}'[:100]!r}")
    return self._known[module, name]

  def load_build(self) -> None:
    state = self.stack.pop()
    stand_in = self.stack[-1]
    if not isinstance(stand_in, StandIn):
      raise Refused(f'state for a {type(stand_in).__name__}')
    self.stack[-1] = stand_in.became = stand_in.set_state(state)

  def _set_items(self, target: Any, items: list) -> None:
    if not isinstance(target, dict):
      raise Refused(f'items for a {type(target).__name__}')
    for key, value in zip(items[::2], items[1::2], strict=True):
      # Hashing a tuple in a tuple in a tuple, a million deep, would crash the process.
      if not isinstance(key, str | bytes | int | float | None):
        raise Refused(f'a dict with a {type(key).__name__} for a key')
      target[key] = value

  def load_setitem(self) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self._set_items(self.stack[-1], [key, value])

  def load_setitems(self) -> None:
    items = self.pop_mark()
    self._set_items(self.stack[-1], items)

  def load_dict(self) -> None:
    items = self.pop_mark()
    self.append({})
    self._set_items(self.stack[-1], items)

  def load_frame(self) -> None:
    self.read(FRAME_HEADER)  # It only announces how much to read ahead.

  def _load_bytes(self, length_format: str) -> bytes | np.ndarray:
    """Reads a string of bytes, or maps it where it is long."""
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

  for _code in (pickle.EMPTY_SET, pickle.FROZENSET, pickle.PERSID, pickle.BINPERSID,
                pickle.NEXT_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4):
    dispatch[_code[0]] = refuse
  for _code, _load in (
      (pickle.SETITEM, load_setitem), (pickle.SETITEMS, load_setitems), (pickle.DICT, load_dict),
      (pickle.BUILD, load_build), (pickle.FRAME, load_frame), (pickle.BINBYTES, load_binbytes),
      (pickle.BINBYTES8, load_binbytes8), (pickle.BYTEARRAY8, load_binbytes8),
      (pickle.BINSTRING, load_binstring)):
    dispatch[_code[0]] = _load


class _Memo(dict):
  """A memo that returns arrays for their stand-ins: a pickle remembers these before their state."""

  def __getitem__(self, index: int) -> Any:
    found = super().__getitem__(index)
    return found.became if isinstance(found, StandIn) and found.became is not None else found
