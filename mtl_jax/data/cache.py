"""Decoded data sets on disk, so that the second load takes a moment.

An entry is a directory `<name>-<key>` that holds `train.npy`, `val.npy` and `test.npy` (uint8
images, class after class) and `entry.json` (all else). The key is a hash of everything that affects
the result, so an entry is never updated: changed sources make another entry. Checksums of all of it
stand in `entry.json`: an entry that is damaged in any way is made again, with a warning.

Small sets are built in memory and written (`load_or_build`); sets that may be larger than memory
are written class after class (`load_or_stream`).
"""
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import filelock
import numpy as np
import platformdirs

from mtl_jax import stages, types
from mtl_jax.data import checksums, pools
from mtl_jax.untrusted import checked_json

FORMAT = 2  # Counts up when the layout of an entry changes.


def directory(cache_dir: str | os.PathLike | None) -> pathlib.Path:
  """Makes the cache directory.

  Args:
    cache_dir: its path; None for the per-user one.

  Raises:
    ValueError: it cannot be written.
  """
  root = pathlib.Path(platformdirs.user_cache_dir('mtl_jax') if cache_dir is None else cache_dir)
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise ValueError(f'cache_dir {root}: cannot be made ({e.strerror}); pass one that can be '
                     'written') from e
  if not os.access(root, os.W_OK | os.X_OK):
    raise ValueError(f'cache_dir {root}: cannot be written; pass one that can')
  return root


def digest(key: Any) -> str:
  """Computes a short name for a key.

  Args:
    key: made of JSON values.
  """
  return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(paths: Iterable[str | os.PathLike]) -> list[list]:
  """Lists path, size and time of change of each file; the list differs when one was replaced.

  Args:
    paths: of files that exist.
  """
  found = []
  for path in sorted(str(p) for p in paths):
    stat = os.stat(path)
    found.append([os.path.abspath(path), stat.st_size, stat.st_mtime_ns])
  return found


def load_or_build(name: str, key: dict[str, Any], build: Callable[[], types.Dataset],
                  root: pathlib.Path) -> types.Dataset:
  """Reads the entry of `key`, or builds the data set and writes the entry.

  A damaged entry is built again, with a warning; a failure to write (a full disk) is a warning too.

  Args:
    name: name of the data set, the first part of the entry's name.
    key: all that affects the result, as JSON values: version, image size, `fingerprint` of files.
    build: called without arguments when there is no sound entry.
    root: where entries lie, see `directory`.

  Returns:
    The data set; its images are read-only and mapped from disk when they come from an entry.
  """
  key = {'format': FORMAT, 'name': name, **key}
  entry = root / f'{name}-{digest(key)}'
  found = _read(entry, name)
  if found is not None:
    return found
  with stages.stage(f'preparing the images of {name}'):
    built = build()
  try:
    _write(entry, built, key)
  except OSError as e:
    warnings.warn(f'{name}: decoded images not cached in {root}: {e}; pass another cache_dir',
                  stacklevel=2)
  return built


def load_or_stream(name: str, key: dict[str, Any], read: Callable[[], pools.Streams], flip: bool,
                   root: pathlib.Path) -> types.Dataset:
  """Reads the entry of `key`, or writes it class after class: memory holds one class at a time.

  A damaged entry is written again, with a warning. Of several processes the first writes, and the
  others wait for it.

  Args:
    name: as in `load_or_build`.
    key: as in `load_or_build`.
    read: called when there is no sound entry; returns the classes, all images of one shape.
    flip: as in types.Dataset.
    root: as in `load_or_build`.

  Returns:
    The data set; its images are read-only and mapped from disk.

  Raises:
    ValueError: the entry cannot be written: in memory the images might not fit.
  """
  key = {'format': FORMAT, 'name': name, **key}
  entry = root / f'{name}-{digest(key)}'
  found = _read(entry, name)
  if found is not None:
    return found
  try:
    with filelock.FileLock(root / f'.{entry.name}.lock'):
      found = _read(entry, name)  # Another process may have written it meanwhile.
      if found is None:
        with stages.stage(f'decoding the images of {name}'):
          _stream(entry, read(), key, flip)
        found = _read(entry, name)
  except OSError as e:
    raise ValueError(f'{name}: decoded images cannot be written to {root} ({e}); make room there, '
                     'or pass another cache_dir') from e
  if found is None:
    raise ValueError(f'{name}: {entry} is damaged although just written; pass another cache_dir')
  return found


def _read(entry: pathlib.Path, name: str) -> types.Dataset | None:
  """Reads the data set of an entry; None where there is none, or it is damaged."""
  if not entry.is_dir():
    return None
  try:
    meta = checked_json.load((entry / 'entry.json').read_bytes(), 'entry.json')
    mean, std = (np.asarray(meta[moment], np.float32) for moment in ('mean', 'std'))
    normalization, notes = types.Normalization(mean, std), checksums.Notes(entry)
    train, val, test = (_read_pool(entry / f'{split}.npy', meta[split], normalization, notes)
                        for split in pools.SPLITS)
    names = {split: tuple(meta[split]['class_names']) for split in pools.SPLITS}
    return types.Dataset(name, train, val, test, names, meta['flip'])
  except MemoryError:  # says nothing about the files
    raise
  except Exception as e:  # NumPy raises nearly anything where the header of a file is damaged.
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    warnings.warn(f'{name}: cached entry {entry} is damaged ({reason}); building it again',
                  stacklevel=3)
    return None


def _read_pool(path: pathlib.Path, meta: dict[str, Any],
               normalization: types.Normalization, notes: checksums.Notes) -> types.ImagePool:
  images = np.load(path, mmap_mode='r', allow_pickle=False)
  sizes = np.asarray(meta['class_sizes'], np.int32)
  if (images.dtype != np.uint8 or list(images.shape) != meta['shape']
      or sizes.sum() != len(images)):
    raise ValueError(f"{path.name}: expected uint8 {meta['shape']}, found {images.dtype} "
                     f"{list(images.shape)}")
  with stages.stage(f'checking {path}'):
    notes.check(path, images, meta['checksums'])
  return types.ImagePool(images, pools.offsets(sizes), sizes, normalization)


def _write(entry: pathlib.Path, dataset: types.Dataset, key: dict[str, Any]) -> None:
  assert dataset.train.normalization is not None  # `pools.dataset` has seen to it.
  with _replacing(entry, f'.{entry.name}-{uuid.uuid4().hex}') as temp:
    meta: dict[str, Any] = {'key': key, **_moments(dataset.train.normalization),
                            'flip': dataset.flip}
    for split in pools.SPLITS:
      pool: types.ImagePool = getattr(dataset, split)
      np.save(temp / f'{split}.npy', np.asarray(pool.images), allow_pickle=False)
      meta[split] = {'shape': list(pool.images.shape), 'class_sizes': pool.class_sizes.tolist(),
                     'class_names': list(dataset.class_names[split]),
                     'checksums': checksums.of(np.asarray(pool.images))}
    (temp / 'entry.json').write_bytes(checked_json.dump(meta, indent=None))


def _stream(entry: pathlib.Path, splits: pools.Streams, key: dict[str, Any], flip: bool) -> None:
  # One name for all processes, under the lock: the next attempt removes what a killed process left,
  # which may be 17 GB.
  with _replacing(entry, f'.{entry.name}.partial') as temp:
    meta: dict[str, Any] = {'key': key, 'flip': flip}
    for split in pools.SPLITS:
      meta[split], counts = _stream_split(temp / f'{split}.npy', splits[split])
      if split == 'train':
        meta |= _moments(pools.normalization_of(counts))
    (temp / 'entry.json').write_bytes(checked_json.dump(meta, indent=None))


def _moments(normalization: types.Normalization) -> dict[str, list[float]]:
  return {'mean': normalization.mean.tolist(), 'std': normalization.std.tolist()}


def _stream_split(path: pathlib.Path, classes: Iterable[tuple[str, np.ndarray]]
                  ) -> tuple[dict[str, Any], np.ndarray]:
  """Writes a .npy file class after class; returns its part of `entry.json`, and counts of values.

  Plain writes, not a memory map: on a full disk they raise an error, where a map ends the process.
  """
  names, sizes, shape, header, counts = [], [], (), 0, np.int64(0)
  running = checksums.Running()
  with path.open('wb') as file:
    for class_name, images in classes:
      if (images.dtype != np.uint8 or images.ndim != 4
          or images.shape[1:] != (shape or images.shape[1:])):
        raise ValueError(f"class {class_name}: expected uint8 images of shape "
                         f"{shape or '[n, H, W, C]'}, got {images.dtype} {images.shape}")
      if not names:
        shape = images.shape[1:]
        header = _write_header(file, (0, *shape))
      data = np.ascontiguousarray(images).reshape(-1).data
      file.write(data)
      running.update(data)
      counts = counts + pools.count_values(images)
      names.append(class_name)
      sizes.append(len(images))
    if not names:
      raise ValueError(f'{path}: expected at least one class, got none')
    file.seek(0)
    # NumPy leaves room for the number of images to grow, so the second header fits in the first.
    if _write_header(file, (sum(sizes), *shape)) != header:
      raise ValueError(f'{path}: the header of {sum(sizes)} images does not fit')
  meta = {'shape': [sum(sizes), *shape], 'class_sizes': sizes, 'class_names': names,
          'checksums': running.parts()}
  return meta, np.asarray(counts)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
  """Writes the header of a .npy file of bytes; returns where it ends."""
  header = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)
  return file.tell()


@contextlib.contextmanager
def _replacing(entry: pathlib.Path, temp_name: str) -> Iterator[pathlib.Path]:
  """Makes a directory to write in, which then replaces the entry: readers see whole entries."""
  temp = entry.with_name(temp_name)
  shutil.rmtree(temp, ignore_errors=True)
  try:
    temp.mkdir()
    yield temp
    if entry.is_dir():  # Damaged, or written by another process meanwhile: ours is as good.
      shutil.rmtree(entry)
    os.replace(temp, entry)
  finally:
    shutil.rmtree(temp, ignore_errors=True)
