"""Checksums of large arrays, by parts that several cores go over at once."""
import concurrent.futures
import os
import zlib

import numpy as np

PART = 1 << 24  # bytes


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
