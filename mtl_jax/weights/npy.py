"""NumPy's files of named arrays: the `.npy` dictionaries of the TensorFlow code, and `.npz`.

np.save writes a dict as a pickle behind a header, so such a file is an untrusted program.
`untrusted.numpy_pickles` reads the pickle without running it; `.npz` is read as an archive of plain
arrays.
"""
import io
import math
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from mtl_jax.runs import new_files
from mtl_jax.untrusted import numpy_pickles, regular, unpickler, zips
from mtl_jax.untrusted.unpickler import Refused

MAX_GROWTH = 16         # bytes of arrays for each byte of a pickle, which may name one repeatedly
# Bytes that even a small archive may grow to. One of equal numbers grows a thousandfold, so a ratio
# alone would refuse it.
MAX_INFLATED = 2**30
_NUMBER_KINDS = 'biuf'  # of NumPy's dtypes: bool, integers, floating point

# NumPy 2 moved its core; what a pickle begins with there, and what every version reads.
_NEW_START = b'\x80\x02cnumpy._core.multiarray\n'
_OLD_START = b'\x80\x02cnumpy.core.multiarray\n'


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a `.npy` dictionary or of a `.npz` archive, told apart by content.

  Args:
    path: the file, by np.save of a dict under Python 2 or 3 and any version of NumPy, or by
      np.savez.

  Returns:
    Name -> array of its own memory, in the order of the file. Numbers, and lists of numbers, become
    arrays too.

  Raises:
    ValueError: the file holds anything but named numbers (named, and not run), or is cut off or
      damaged.
    OSError: it cannot be read.
  """
  regular.check(path)
  with open(path, 'rb') as file:
    with unpickler.refusals(path, 'file of arrays', 'file of named arrays'):
      size, start = os.fstat(file.fileno()).st_size, file.read(6)
      file.seek(0)
      if start[:2] == b'PK':
        return _read_npz(file, size)
      _read_header_of_dict(file, start)
    found = numpy_pickles.load(pathlib.Path(path), start=file.tell(), boxed=True)
  with unpickler.refusals(path, 'file of arrays', 'file of named arrays'):
    return _named_arrays(found, size)


def write(path: str | os.PathLike, tensors: Mapping[str, Any]) -> None:
  """Writes named arrays: `.npz` as they are, `.npy` as the dictionary that the authors' code reads.

  Args:
    path: of the file, where none is yet; its ending chooses.
    tensors: name -> array of numbers.

  Raises:
    ValueError: the ending is another, the file exists, or the tensors are not fit for it.
    OSError: it cannot be written.
  """
  ending = os.path.splitext(path)[1]
  if ending not in ('.npz', '.npy'):
    raise ValueError(f'{path}: expected a name that ends in .npz or .npy, got '
                     f'{ending or "no ending"}')
  new_files.refuse_existing(path)
  arrays = new_files.check_tensors(path, tensors)
  new_files.write(path, _npz(arrays) if ending == '.npz' else _npy(arrays))


def _read_npz(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    entries = zips.entries(archive, most=max(4 * size, MAX_INFLATED), deflated=True)
    if not entries:
      raise Refused('no arrays')
    return {_array_name(name): plain_array(zips.content(archive, info), name)
            for name, info in entries.items()}


def _array_name(entry: str) -> str:
  if not entry.endswith('.npy'):
    raise Refused(f'the entry {entry[:100]!r}, which is no array')
  return entry.removesuffix('.npy')


def plain_array(content: bytes, name: str) -> np.ndarray:
  """Reads an array as np.load does, but takes no memory for more than there is.

  Args:
    content: of a `.npy` file.
    name: what to call it.

  Raises:
    Refused: other elements than numbers, or not as many as it announces.
    ValueError: no such file.
  """
  file = io.BytesIO(content)
  shape, fortran, dtype = _read_header(file)
  if dtype.kind not in _NUMBER_KINDS:
    raise Refused(f'an array of dtype {dtype}, {name[:100]!r}')
  there = len(content) - file.tell()
  if math.prod(shape) * dtype.itemsize != there:
    raise Refused(f'{there} bytes for an array of shape {shape}, {name[:100]!r}')
  found = np.ndarray(shape, dtype, content, file.tell(), order='F' if fortran else 'C')
  return found.astype(dtype.newbyteorder('='), order='C')


def _read_header(file: BinaryIO | io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
  version = np.lib.format.read_magic(file)
  if version == (1, 0):
    return np.lib.format.read_array_header_1_0(file)
  if version == (2, 0):
    return np.lib.format.read_array_header_2_0(file)
  raise Refused(f'version {version} of the format')


def _read_header_of_dict(file: BinaryIO, start: bytes) -> None:
  """Reads up to the pickle, and refuses a file that does not announce one object."""
  if start != np.lib.format.MAGIC_PREFIX:
    raise Refused('neither the beginning of .npy nor of .npz')
  shape, _, dtype = _read_header(file)
  if dtype.kind != 'O' or shape != ():
    raise Refused(f'one array of dtype {dtype} and shape {shape} without a name')


def _named_arrays(found: Any, size: int) -> dict[str, np.ndarray]:
  """Copies what was unpickled into arrays, or refuses what is no dict of numbers."""
  if not isinstance(found, dict) or not found:
    raise Refused(f'a {type(found).__name__} where a dict with arrays was expected')
  total = sum(8 * len(value) if isinstance(value, list | tuple) else getattr(value, 'nbytes', 8)
              for value in found.values())
  if total > MAX_GROWTH * size:
    raise Refused(f'arrays of {total} bytes in a file of {size}')
  arrays: dict[str, np.ndarray] = {}
  for key, value in found.items():
    name = key.decode('latin1') if isinstance(key, bytes) else key
    if not isinstance(name, str) or name in arrays:
      raise Refused(f'the name {str(key)[:100]!r} for an array, which is no text or not the only '
                    'one')
    arrays[name] = _array(value, name)
  return arrays


def _array(value: Any, name: str) -> np.ndarray:
  if not isinstance(value, np.ndarray):
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, bool | int | float) for number in numbers):
      value = np.array(value)
  if not isinstance(value, np.ndarray) or value.dtype.kind not in _NUMBER_KINDS:
    kind = getattr(value, 'dtype', type(value).__name__)
    raise Refused(f'a {kind} where numbers were expected, {name[:100]!r}')
  return value.astype(value.dtype.newbyteorder('='), order='C')


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
  """Packs arrays as np.savez does, which cannot take every name (such as `file`)."""
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    for name, array in arrays.items():
      with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
  return content.getvalue()


def _npy(arrays: dict[str, np.ndarray]) -> bytes:
  """Packs a dict as np.save did under NumPy 1 and Python 2; later ones read that too."""
  content = io.BytesIO()
  header = {'descr': '|O', 'fortran_order': False, 'shape': ()}
  np.lib.format.write_array_header_1_0(content, header)
  pickled = pickle.dumps(np.array(arrays, object), protocol=2)  # the newest that Python 2 reads
  # Only the first opcode is exchanged: arrays inside take it from the memo.
  return content.getvalue() + pickled.replace(_NEW_START, _OLD_START, 1)
