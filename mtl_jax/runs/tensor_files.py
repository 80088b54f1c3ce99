"""One tree of arrays as a `.safetensors` file, which other programs read too.

A tensor is named by its path in the tree, as in `params/block1/conv/kernel`. The header carries the
SHA-256 of all numbers, so that a file is checked even where nothing else is known of it; whoever
knows the SHA-256 of the whole file has that checked as well.
"""
import hashlib
import json
import os
import struct
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from mtl_jax.runs import leaves, workdirs

_CHECKSUM = 'data_sha256'  # in the header's metadata
_HEADER_SIZE = struct.Struct('<Q')
_DTYPES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64',
           'I32': 'int32', 'I16': 'int16', 'I8': 'int8', 'U64': 'uint64', 'U32': 'uint32',
           'U16': 'uint16', 'U8': 'uint8', 'BOOL': 'bool'}  # the format's names -> NumPy's


def write(path: str | os.PathLike, tree: Any) -> str:
  """Writes a tree; an earlier file stays until the new one is whole on disk.

  Args:
    path: of the file.
    tree: nested dicts, tuples or NamedTuples of arrays.

  Returns:
    The SHA-256 of the file, in hexadecimal; the same tree makes the same file.

  Raises:
    ValueError: a leaf is not an array of finite numbers, or has a dtype that the format has not.
    OSError: it cannot be written.
  """
  # The format has C order; the package writes the memory of an array as it lies.
  arrays = {name: np.asarray(array, order='C') for name, array in leaves.to_host(tree).items()}
  for name, array in arrays.items():
    if array.dtype.name not in _DTYPES.values():
      raise ValueError(f'leaf {name} has dtype {array.dtype}, which {path} cannot hold')
    if not _is_finite(array):
      raise ValueError(f'leaf {name} is not finite: nothing is written to {path}')
  data = _split(safetensors.numpy.save(arrays))[1]
  content = safetensors.numpy.save(arrays, {_CHECKSUM: sha256(data)})
  workdirs.write_file(*os.path.split(os.path.abspath(path)), content)
  return sha256(content)


def read(path: str | os.PathLike, like: Any = None, expected_sha256: str | None = None) -> Any:
  """Reads what `write` wrote, bit for bit.

  Args:
    path: of the file.
    like: tree of arrays, or of `jax.ShapeDtypeStruct`, that is expected; leaves come back as in
      `leaves.placed`. None for whatever is there, as nested dicts of NumPy arrays.
    expected_sha256: of the whole file; None where it is not known.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or its tensors are not those of `like`.
    OSError: it cannot be read.
  """
  content = _content(path)
  if expected_sha256 is not None and sha256(content) != expected_sha256:
    raise _damaged(path, f'it is not what was written ({len(content)} bytes, another SHA-256)')
  arrays = _arrays(path, content)
  if like is not None:
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    leaves.check_same(found, like, os.fspath(path), 'file')
  for name, array in arrays.items():
    if not _is_finite(array):
      raise _damaged(path, f'tensor {name} is not finite')
  return leaves.nested(arrays) if like is None else leaves.placed(arrays, like)


def sha256(content: bytes) -> str:
  """Returns the SHA-256 of some bytes in hexadecimal, as `sha256sum` prints it.

  Args:
    content: any bytes.
  """
  return hashlib.sha256(content).hexdigest()


def _content(path: str | os.PathLike) -> bytes:
  try:
    with open(path, 'rb') as file:
      return file.read()
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} is missing: expected a file of tensors') from None
  except OSError as error:
    raise OSError(f'could not read {path}: {error.strerror}') from error


def _arrays(path: str | os.PathLike, content: bytes) -> dict[str, np.ndarray]:
  """Name -> array, after the checksum of the header was compared."""
  try:
    header, data = _split(content)
    tensors = safetensors.deserialize(content)
    checksum = json.loads(header).get('__metadata__', {}).get(_CHECKSUM)
  except (safetensors.SafetensorError, ValueError, struct.error, AttributeError) as error:
    raise _damaged(path, f'it is cut off, or no .safetensors ({error})') from error
  if checksum != sha256(data):
    raise _damaged(path, f'its numbers are not those of its {_CHECKSUM}')
  unknown = [name for name, tensor in tensors if tensor['dtype'] not in _DTYPES]
  if unknown:
    raise _damaged(path, f'tensor {unknown[0]} has a dtype that is not known here')
  return {name: np.frombuffer(tensor['data'], jnp.dtype(_DTYPES[tensor['dtype']]))
                .reshape(tensor['shape']) for name, tensor in tensors}


def _split(content: bytes) -> tuple[bytes, bytes]:
  """(header, data) of a file."""
  start = _HEADER_SIZE.size + _HEADER_SIZE.unpack_from(content)[0]
  return content[_HEADER_SIZE.size:start], content[start:]


def _is_finite(array: np.ndarray) -> bool:
  return not jnp.issubdtype(array.dtype, jnp.inexact) or bool(np.isfinite(array).all())


def _damaged(path: str | os.PathLike, reason: str) -> ValueError:
  return ValueError(f'{path} is damaged: {" ".join(reason.split())}; restore it from a copy')
