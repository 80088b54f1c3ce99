"""Decoded data sets on disk, so that the second load takes a moment.

One entry is one directory `<name>-<key>` holding `train.npy`, `val.npy`, `test.npy` (uint8 images, class
after class) and `entry.json` (all else). The key is a hash of everything that affects the result, so an entry
is never updated: changed sources make another one.
"""
import hashlib
import json
import os
import pathlib
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import platformdirs

from mtl_jax import types
from mtl_jax.data import pools

FORMAT = 1  # Counts up when the layout of an entry changes.


def directory(cache_dir: str | os.PathLike | None) -> pathlib.Path:
  """Makes the cache directory, by default the per-user one.

  Raises:
    ValueError: If it cannot be written.
  """
  root = pathlib.Path(platformdirs.user_cache_dir("mtl_jax") if cache_dir is None else cache_dir)
  try:
    root.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise ValueError(f"cache_dir {root}: cannot be made ({e.strerror}); pass one that can be written") from e
  if not os.access(root, os.W_OK | os.X_OK):
    raise ValueError(f"cache_dir {root}: cannot be written; pass one that can")
  return root


def digest(key: Any) -> str:
  """A short name for a key made of JSON values."""
  return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(paths: Iterable[str | os.PathLike]) -> list[list]:
  """Path, size in bytes and time of change of each file: differs when a file was replaced."""
  found = []
  for path in sorted(str(p) for p in paths):
    stat = os.stat(path)
    found.append([os.path.abspath(path), stat.st_size, stat.st_mtime_ns])
  return found


def load_or_build(name: str, key: dict[str, Any], build: Callable[[], types.Dataset],
                  root: pathlib.Path) -> types.Dataset:
  """Reads the entry of `key`, or builds the data set and writes the entry.

  A damaged entry is built again, with a warning; one that cannot be written (a full disk) costs a warning.

  Args:
    name: Name of the data set, the first part of the entry's name.
    key: Everything that affects the result, as JSON values: version, image size, `fingerprint` of sources.
    build: Called without arguments when there is no sound entry.
    root: Where entries lie, see `directory`.

  Returns:
    The data set; its images are read-only and mapped from disk when they come from an entry.
  """
  key = {"format": FORMAT, "name": name, **key}
  entry = root / f"{name}-{digest(key)}"
  found = _read(entry, name)
  if found is not None:
    return found
  built = build()
  try:
    _write(entry, built, key)
  except OSError as e:
    warnings.warn(f"{name}: decoded images not cached in {root}: {e}; pass another cache_dir", stacklevel=2)
  return built


def _read(entry: pathlib.Path, name: str) -> types.Dataset | None:
  """The data set of an entry, or None if there is none or it is damaged."""
  if not entry.is_dir():
    return None
  try:
    meta = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
    splits = [_read_pool(entry / f"{split}.npy", meta[split]) for split in pools.SPLITS]
    names = {split: tuple(meta[split]["class_names"]) for split in pools.SPLITS}
    mean, std = (np.asarray(meta[k], np.float32) for k in ("mean", "std"))
    return types.Dataset(name, *splits, names, mean, std, meta["flip"])
  except (OSError, ValueError, KeyError, TypeError, EOFError) as e:
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    warnings.warn(f"{name}: cached entry {entry} is damaged ({reason}); building it again", stacklevel=3)
    return None


def _read_pool(path: pathlib.Path, meta: dict[str, Any]) -> types.ImagePool:
  images = np.load(path, mmap_mode="r", allow_pickle=False)
  sizes = np.asarray(meta["class_sizes"], np.int32)
  if images.dtype != np.uint8 or list(images.shape) != meta["shape"] or sizes.sum() != len(images):
    raise ValueError(f"{path.name}: expected uint8 {meta['shape']}, found {images.dtype} "
                     f"{list(images.shape)}")
  return types.ImagePool(images, pools.offsets(sizes), sizes)


def _write(entry: pathlib.Path, dataset: types.Dataset, key: dict[str, Any]) -> None:
  """Writes beside the entry and renames, so that a reader sees a whole entry or none."""
  temp = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
  try:
    temp.mkdir()
    meta = {"key": key, "mean": dataset.mean.tolist(), "std": dataset.std.tolist(),
            "flip": dataset.flip}
    for split in pools.SPLITS:
      pool = getattr(dataset, split)
      np.save(temp / f"{split}.npy", pool.images, allow_pickle=False)
      meta[split] = {"shape": list(pool.images.shape), "class_sizes": pool.class_sizes.tolist(),
                     "class_names": list(dataset.class_names[split])}
    (temp / "entry.json").write_text(json.dumps(meta), encoding="utf-8")
    if entry.is_dir():  # Damaged, or written by another process meanwhile: ours is as good.
      shutil.rmtree(entry)
    os.replace(temp, entry)
  finally:
    shutil.rmtree(temp, ignore_errors=True)
