"""Arrays of a run, as `.npy` files with a checksum behind the array.

`np.load` reads them as any other, because it stops where the array ends. `read` compares the
checksum. A file without one is taken as it is: an earlier version, or somebody else, wrote it.
"""
import io
import os
import zlib

import numpy as np

from mtl_jax.runs import workdirs
from mtl_jax.untrusted import regular

_MOST_BYTES = 2**30
_MARK = b'\ncrc32 '
_LENGTH = len(_MARK) + 8  # of the trailer: the mark, then eight hexadecimal digits


def write(workdir: str | os.PathLike, name: str, array: np.ndarray) -> None:
  """Writes an array to `<workdir>/<name>`, over an earlier one.

  Args:
    workdir: directory of the run.
    name: of the file, with its ending `.npy`.
    array: any array of numbers.

  Raises:
    OSError: the file cannot be written; an earlier one stays.
  """
  content = io.BytesIO()
  np.save(content, array, allow_pickle=False)
  content = content.getvalue()
  workdirs.write_file(workdir, name, content + _trailer(content))


def read(path: str | os.PathLike) -> np.ndarray:
  """Returns what `write` wrote.

  Args:
    path: of the file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is damaged, or no array of numbers.
  """
  path = os.fspath(path)
  regular.check(path, _MOST_BYTES)
  with open(path, 'rb') as file:
    content = file.read()
  if content[-_LENGTH:].startswith(_MARK):
    content, trailer = content[:-_LENGTH], content[-_LENGTH:]
    if trailer != _trailer(content):
      raise ValueError(f'{path} is damaged: its content is not what was written; restore it, or '
                       'run its command anew in another --workdir')
  stream = io.BytesIO(content)
  try:
    array = np.load(stream, allow_pickle=False)
  except (ValueError, EOFError, MemoryError, OverflowError) as error:
    raise ValueError(f'{path} is damaged: expected an array of numbers ({error})') from error
  if not isinstance(array, np.ndarray) or stream.read(1):
    raise ValueError(f'{path} is damaged: expected one array of numbers and nothing behind it')
  return array


def _trailer(content: bytes) -> bytes:
  return _MARK + b'%08x' % zlib.crc32(content)
