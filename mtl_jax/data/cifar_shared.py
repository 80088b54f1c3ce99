"""FC100 and CIFAR-FS as repositories of the field share them: pickles by split, or class folders.

They come to the same images, classes and splits as CIFAR-100's own archive, in the same order.

- MetaOptNet's pickles, `FC100_train.pickle`, `CIFAR_FS_val.pickle` and so on; RFS calls them
  `train.pickle`. Each is a dict of `data`, uint8 [n, 32, 32, 3], and `labels`; some have
  `catname2label` too.
- Folders of images, `train/CLASS/*.png`, `val/...`, `test/...`; or all classes in one folder, as in
  the `cifar100/data` that CIFAR-FS was published in.

A class is known by its name, else by its images, else by its number among CIFAR-100's.
"""
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.data import (
  cache,
  cifar,
  cifar_classes,
  image_files,
  image_formats,
  imagenet,
  pools,
  trees,
)
from mtl_jax.untrusted import numpy_pickles

_ENDINGS = ('.pickle', '.pkl')
_CALLED = {'train': ('train',), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}
_INNER = ('cifar100', 'data', 'images', 'processed')  # folders that hold them elsewhere
_DEPTH = 3  # of folders that are looked into
_TORCHMETA = 'data.hdf5'

Labelled = Iterable[tuple[str, np.ndarray]]  # name or number of a class, its images


class Shared(NamedTuple):
  """A set that was found."""
  fingerprint: Any                                # JSON; differs when a file was replaced
  read: Callable[[], dict[str, pools.Classes]]


def find(name: str, root: pathlib.Path) -> Shared | None:
  """Finds a set in a folder, or in folders below it that are called as usual; None without any.

  Args:
    name: 'fc100' or 'cifar_fs'.
    root: data_dir.

  Raises:
    ValueError: a part of it is there, or the form that only torchmeta reads.
  """
  places = list(_places(root, {name.replace('_', ''), *_INNER}, _DEPTH))
  for look in (_pickles, _one_folder, _split_folders):  # `train` is a class, too
    for place in places:
      if (found := look(name, place)) is not None:
        return found
  for place in places:
    if (place / _TORCHMETA).exists():
      raise ValueError(f"{place / _TORCHMETA}: torchmeta's HDF5 files are not read; expected "
                       'cifar-100-python.tar.gz, which it was made from, in the same folder or '
                       'in data_dir')
  return None


def _places(root: pathlib.Path, inner: set[str], depth: int) -> Iterator[pathlib.Path]:
  yield root
  if depth:
    for child in sorted(root.iterdir()):
      if child.name.lower().replace('-', '').replace('_', '') in inner and child.is_dir():
        yield from _places(child, inner, depth - 1)


def _pickles(name: str, place: pathlib.Path) -> Shared | None:
  """Finds a pickle of each split."""
  there = {path.name.lower().replace('-', '_'): path for path in place.iterdir()
           if path.suffix.lower() in _ENDINGS}
  for start in (f'{name}_', ''):
    paths = {split: there[f'{start}{called}{ending}'] for split in pools.SPLITS
             for called in _CALLED[split] for ending in _ENDINGS
             if f'{start}{called}{ending}' in there}
    if missing := [split for split in pools.SPLITS if split not in paths]:
      if paths:
        raise ValueError(f'{name}: {place}: expected pickles of train, val and test, found '
                         f'{", ".join(path.name for path in paths.values())}, missing '
                         f'{", ".join(missing)}')
      continue
    return Shared(cache.fingerprint(paths.values()), lambda paths=paths: _arranged(
        name, place, {split: _read_pickle(path) for split, path in paths.items()}))
  return None


def _read_pickle(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
  """Reads the classes of a split, by `catname2label` or by number."""
  content = numpy_pickles.load(path)
  images = imagenet.field(content, 'data', np.ndarray | list, path)
  images = imagenet.check_images(np.asarray(images), path)
  labels = imagenet.field(content, 'labels', np.ndarray | list, path)
  named = imagenet.field(content, 'catname2label', dict, path, default={})
  names = {label: imagenet.text(c) for c, label in named.items() if isinstance(label, int)}
  for label, listed in imagenet.by_label(labels, len(images), path).items():
    yield names.get(label, str(label)), images[listed]


def _split_folders(name: str, place: pathlib.Path) -> Shared | None:
  """Finds class folders in folders of splits."""
  if not any(image_files.place(place, '{}', split).is_dir() for split in pools.SPLITS):
    return None
  folders = image_files.split_folders(place)
  return _of_folders(name, place, folders)


def _one_folder(name: str, place: pathlib.Path) -> Shared | None:
  """Finds all of CIFAR-100's class folders side by side."""
  splits = cifar.split_of(name)
  folders = {split: [place / c for c in classes] for split, classes in splits.items()}
  if not all(path.is_dir() for paths in folders.values() for path in paths):
    return None
  return _of_folders(name, place, folders)


def _of_folders(name: str, place: pathlib.Path,
                folders: dict[str, list[pathlib.Path]]) -> Shared:
  files = {split: [image_files.class_files(path) for path in paths]
           for split, paths in folders.items()}

  def read_split(classes: list[image_files.ClassFiles]) -> Labelled:
    paths = ((c.name, [os.path.join(c.folder, file) for file in c.files]) for c in classes)
    return image_files.decode(name, paths, _read_image, skip_broken=False)

  return Shared(image_files.fingerprint(files), lambda: _arranged(
      name, place, {split: read_split(classes) for split, classes in files.items()}))


def _read_image(path: str) -> np.ndarray:
  """Reads an image of CIFAR-100's size, and no other: its pixels are taken as they are."""
  try:
    with image_formats.open_image(path, path) as image:
      size = image.size
  except OSError:  # which `read_image` words
    size = (cifar.SIDE, cifar.SIDE)
  if size != (cifar.SIDE, cifar.SIDE):
    raise ValueError(f'{path}: expected an image of {cifar.SIDE}x{cifar.SIDE} pixels, found '
                     f'{size[0]}x{size[1]}; --dataset=folder takes images of any size')
  return image_files.read_image(path, cifar.SIDE)


def _arranged(name: str, place: pathlib.Path,
              found: dict[str, Labelled]) -> dict[str, pools.Classes]:
  """Names all classes, and puts them and their images in the order of CIFAR-100's archive."""
  arranged = {}
  for split, wanted in cifar.split_of(name).items():
    classes: dict[str, np.ndarray] = {}
    for label, images in found[split]:
      if images.shape[1:] != (cifar.SIDE, cifar.SIDE, 3):
        raise ValueError(f'{place}: {split}: expected images [{cifar.SIDE}, {cifar.SIDE}, 3], '
                         f'found {list(images.shape[1:])}')
      by_image = hashes(images)
      called = cifar_classes.name_of(label, by_image)
      if called in classes:
        raise ValueError(f'{place}: {split}: expected each class once, found {called} twice')
      classes[called] = images[np.argsort(by_image, kind='stable')]
    missing, others = set(wanted) - set(classes), set(classes) - set(wanted)
    if missing or others:
      raise ValueError(f'{place}: expected the {len(wanted)} classes of {name} in {split}, found '
                       f'{len(classes)}; missing: {trees.some(sorted(missing)) or "none"}; '
                       f'others: {trees.some(sorted(others)) or "none"}')
    arranged[split] = [(c, classes[c]) for c in wanted]
  return arranged


def hashes(images: np.ndarray) -> np.ndarray:
  """Returns the hashes of images by which those of a class are ordered.

  Args:
    images: uint8 [n, 32, 32, 3].
  """
  planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # as in records of the archive
  return cifar_classes.hashes(planes.reshape(len(images), -1))
