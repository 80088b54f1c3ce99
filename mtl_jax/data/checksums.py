"""Checksums of large arrays, by parts that several cores go over at once.

A file of more than WHOLE bytes is read through once: it then counts as sound for as long as its
size, time of change and inode stay what they were. So damage by any program is found, and what a
disk spoils by itself in files of up to WHOLE bytes.
"""
import concurrent.futures
import contextlib
import os
import pathlib
import zlib

import numpy as np

from mtl_jax.untrusted import checked_json

PART = 1 << 24   # bytes
WHOLE = 1 << 30  # bytes: of some 1.5 s of one core
_NOTES = 'checked.json'


class Running:
  """The checksums of bytes that come one after the other."""

  def __init__(self):
    self._parts: list[int] = []
    self._filled = PART  # bytes of the last part

  def update(self, data: memoryview) -> None:
    """Adds some bytes.

    Args:
      data: of format 'B'.
    """
    while data:
      if self._filled == PART:
        self._parts.append(0)
        self._filled = 0
      taken, data = data[:PART - self._filled], data[PART - self._filled:]
      self._parts[-1] = zlib.crc32(taken, self._parts[-1])
      self._filled += len(taken)

  def parts(self) -> list[int]:
    """Returns the CRC-32 of each PART of the bytes so far."""
    return self._parts


def of(array: np.ndarray) -> list[int]:
  """Returns the CRC-32 of each PART of an array, as `Running` does.

  Args:
    array: in memory or mapped from a file; best in C order, else it is copied.
  """
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  # zlib lets go of Python's lock, so that threads go on side by side.
  with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
    return list(threads.map(lambda start: zlib.crc32(data[start:start + PART]),
                            range(0, len(data), PART)))


class Notes:
  """Which large files of a folder were found sound, and what they looked like then.

  Args:
    folder: that holds the files; what was noted of them lies beside them.
  """

  def __init__(self, folder: pathlib.Path):
    self._path = folder / _NOTES
    try:
      self._sound = checked_json.load(self._path.read_bytes(), _NOTES)
    except (OSError, ValueError):
      self._sound = {}

  def check(self, path: pathlib.Path, array: np.ndarray, expected: list[int]) -> None:
    """Compares an array with its checksums, unless it is large and was found sound before.

    Args:
      path: of its file.
      array: mapped from there.
      expected: as `of` returned them.

    Raises:
      ValueError: they differ.
    """
    stat = os.stat(path)
    looks = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    if array.nbytes > WHOLE and self._sound.get(path.name) == [*looks, expected[-1]]:
      return
    if of(array) != expected:
      raise ValueError(f'{path.name}: its checksum differs')
    if array.nbytes > WHOLE:
      self._sound[path.name] = [*looks, expected[-1]]
      with contextlib.suppress(OSError):  # of a cache that is only read
        self._path.unlink(missing_ok=True)
        with self._path.open('xb') as file:  # never through a link
          file.write(checked_json.dump(self._sound))
