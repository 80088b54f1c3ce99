"""PyTorch's `.pth` files, read without PyTorch.

Since version 1.6 PyTorch writes a zip archive, of a pickle and a file for each storage. Before, it
wrote one pickle after another and then the storages. Files are untrusted: `torch_pickles` says what
a pickle may hold, `zips` what an archive may hold.
"""
import functools
import io
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from mtl_jax.runs import new_files
from mtl_jax.untrusted import regular, torch_pickles, unpickler, zips
from mtl_jax.untrusted.torch_pickles import Storage, Tensor
from mtl_jax.untrusted.unpickler import Refused

MAX_PICKLE = 16 * 2**20   # bytes; a tensor takes some 200
MAX_DEPTH = 8             # of dicts in dicts
MAX_NODES = 300_000       # tensors, numbers, dicts ... in all, each as often as it is named
MAX_NAME = 1000           # characters
MAX_GROWTH = 16           # bytes of arrays for each byte of the file: tensors may share a storage
_ZIP_START = b'PK\3\4'
# The first two pickles of the older format: a number that marks the file, and the version.
_MAGIC = (0x1950a86a20f9469cfc6c, 1001)
_MAGIC_BYTES = _MAGIC[0].to_bytes(10, 'little')
_COUNT_BYTES = 8          # of the number of elements before each storage of the older format
_WRITABLE = ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', '?')  # dtypes that PyTorch has
_Content = Callable[[Storage], bytes]


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a checkpoint of PyTorch.

  Args:
    path: the file, by torch.save in either of its formats.

  Returns:
    Name -> array, in the order of the file. A state dict under 'params' or 'state_dict' is
    unwrapped where nothing but single values stands beside it. Other nested dicts become names with
    dots, and single values are left out. The prefix 'module.' of DataParallel is dropped where all
    names have it. bfloat16 becomes float32.

  Raises:
    ValueError: the file holds anything but tensors and plain values (named, and not run), or is cut
      off or damaged.
    OSError: it cannot be read.
  """
  regular.check(path)
  with open(path, 'rb') as file, unpickler.refusals(path, 'PyTorch checkpoint',
                                                    'PyTorch checkpoint of tensors'):
    start = file.read(len(_ZIP_START))
    file.seek(0)
    read_as = _read_zip if start == _ZIP_START else _read_legacy
    return read_as(file, os.fstat(file.fileno()).st_size)


def write(path: str | os.PathLike, tensors: Mapping[str, Any]) -> None:
  """Writes {'params': state dict} with PyTorch, as the authors' code reads it.

  Args:
    path: of the file, where none is yet.
    tensors: name -> array.

  Raises:
    ValueError: PyTorch is not installed, the file exists, or PyTorch has no such tensors.
    OSError: it cannot be written.
  """
  new_files.refuse_existing(path)
  arrays = new_files.check_tensors(path, tensors)
  for name, array in arrays.items():
    if array.dtype not in map(np.dtype, _WRITABLE):
      raise ValueError(f'{path}: expected {name} of a type that PyTorch has, got {array.dtype}')
  try:
    import torch  # pyright: ignore[reportMissingImports]  # nothing else here needs it
  except ImportError as error:
    raise ValueError(f'{path}: expected PyTorch to be installed to write .pth, found none '
                     f'({error}); write .npz instead') from error
  content = io.BytesIO()
  state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
  torch.save({'params': state}, content)
  new_files.write(path, content.getvalue())


def _read_zip(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    entries = _entries_below_folder(zips.entries(archive, most=size, deflated=False))
    if entries['data.pkl'].file_size > MAX_PICKLE:
      raise Refused(f'a pickle of {entries["data.pkl"].file_size} bytes')
    order = zips.content(archive, entries['byteorder']) if 'byteorder' in entries else b'little'
    if order not in (b'little', b'big'):
      raise Refused(f'the byte order {order[:20]!r}')

    def content(storage: Storage) -> bytes:
      return zips.content(archive, entries[f'data/{storage.key}'])

    storages: dict[str, Storage] = {}
    pickled = zips.content(archive, entries['data.pkl'])
    found = torch_pickles.load(unpickler.Mapped.of(pickled), storages)
    for key, storage in storages.items():
      info = entries.get(f'data/{key}')
      if info is None or info.file_size != storage.num_bytes:
        there = 'no' if info is None else info.file_size
        raise Refused(f'{there} bytes for the storage {key[:100]!r} of {storage.num_bytes}')
    return _arrays(_state_dict(found), content, '<' if order == b'little' else '>', size)


def _entries_below_folder(entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
  """Returns the entries of the one folder that everything lies in, by their names in it."""
  folders = [name.removesuffix('data.pkl') for name in entries
             if re.fullmatch(r'[^/]+/data\.pkl', name)]
  if len(folders) != 1:
    raise Refused(f'{len(folders)} pickles named data.pkl in the archive')
  return {name.removeprefix(folders[0]): info for name, info in entries.items()
          if name.startswith(folders[0])}


def _read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  head = file.read(MAX_PICKLE)
  if _MAGIC_BYTES not in head[:32]:
    raise Refused('neither an archive nor the number that PyTorch begins a file with')
  storages: dict[str, Storage] = {}
  mapped = unpickler.Mapped.of(head)
  magic, version, _, found, keys = (torch_pickles.load(mapped, storages) for _ in range(5))
  if (magic, version) != _MAGIC:
    raise Refused('another version of the format')
  if (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)
      or sorted(keys) != sorted(storages)):
    raise Refused('other storages than its tensors name')
  starts = _legacy_starts(file, mapped.tell(), [storages[key] for key in keys], size)

  def content(storage: Storage) -> bytes:
    file.seek(starts[storage.key])
    return file.read(storage.num_bytes)

  return _arrays(_state_dict(found), content, '<', size)


def _legacy_starts(file: BinaryIO, place: int, storages: Sequence[Storage],
                   size: int) -> dict[str, int]:
  """Returns where the bytes of each storage begin; before them stands their number of elements."""
  starts = {}
  for storage in storages:
    file.seek(place)
    announced = file.read(_COUNT_BYTES)
    # All numbers are little-endian whatever machine wrote them, but for this one.
    if storage.size not in (int.from_bytes(announced, 'little'), int.from_bytes(announced, 'big')):
      raise Refused(f'another size of the storage {storage.key[:100]!r} than its tensors name')
    starts[storage.key] = place + _COUNT_BYTES
    place = starts[storage.key] + storage.num_bytes
  if place != size:
    raise Refused(f'{size} bytes, where its storages end at {place}')
  return starts


def _state_dict(found: Any) -> dict[str, Tensor]:
  """Returns name -> tensor of whatever was saved."""
  if not isinstance(found, dict):
    raise Refused(f'a {type(found).__name__} where a dict of tensors was expected')
  containers = (dict, torch_pickles.Dict, list, tuple)
  nested = [key for key, value in found.items() if type(value) in containers]
  has_tensors = any(type(value) is Tensor for value in found.values())
  if nested in (['params'], ['state_dict']) and not has_tensors:
    found = found[nested[0]]
  tensors: dict[str, Tensor] = {}
  for name, tensor in _leaves(found, '', 0, iter(range(MAX_NODES))):
    if name in tensors:
      raise Refused(f'two tensors named {name[:100]!r}')
    tensors[name] = tensor
  if not tensors:
    raise Refused('no tensors')
  parallel = all(name.startswith('module.') for name in tensors)
  return {name.removeprefix('module.') if parallel else name: tensor
          for name, tensor in tensors.items()}


def _leaves(node: Any, name: str, depth: int, budget: Iterator[int]
            ) -> Iterator[tuple[str, Tensor]]:
  """Walks over nested containers, which a hostile file may have put into each other or themselves.

  Args:
    node: a tensor, a container or a plain value.
    name: of the node, with dots.
    depth: of the node.
    budget: has one element for each node that may still be visited.
  """
  if next(budget, None) is None or depth > MAX_DEPTH:
    raise Refused(f'dicts deeper than {MAX_DEPTH} or with more than {MAX_NODES} values')
  if len(name) > MAX_NAME:
    raise Refused(f'a name of {len(name)} characters, {name[:100]!r}...')
  if type(node) is Tensor:
    yield name, node
  # By type, since a Storage is a tuple as well.
  elif type(node) in (dict, torch_pickles.Dict, list, tuple):
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
      if not isinstance(key, str | int):
        raise Refused(f'a {type(key).__name__} for a name')
      yield from _leaves(child, f'{name}.{key}' if name else str(key), depth + 1, budget)
  elif not isinstance(node, str | bytes | int | float | None):
    raise Refused(f'a {type(node).__name__} under {name[:100]!r}')


def _arrays(tensors: Mapping[str, Tensor], content: _Content, order: str,
            size: int) -> dict[str, np.ndarray]:
  total = sum(tensor.num_bytes for tensor in tensors.values())
  if total > MAX_GROWTH * size:
    raise Refused(f'tensors of {total} bytes in a file of {size}')
  content = functools.cache(content)  # tensors that share a storage read it once
  return {name: torch_pickles.to_array(tensor, content(tensor.storage), order)
          for name, tensor in tensors.items()}
