"""Shared by miniImageNet and tieredImageNet: finding their layout, checking and caching it.

Decoded images go straight into the cache, one class at a time, and not through a builder as those
of the small sets do: a builder would write all 17 GB of tieredImageNet to disk once more, and read
them back.
"""
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mtl_jax import types
from mtl_jax.data import cache, image_files, imagenet_classes, pools

VERSION = 1  # Counts up when the same files give other arrays.
SIZE = 84    # pixels, when none is asked for


class Request(NamedTuple):
  """What a layout is asked to read."""
  name: str           # of the data set
  root: pathlib.Path  # data_dir
  size: int           # pixels
  skip_broken: bool   # leave out images that cannot be decoded


class Source(NamedTuple):
  """What a layout found."""
  fingerprint: Any                   # JSON; differs when a file was replaced
  read: Callable[[], pools.Streams]  # checks the classes where that needs reading


class Layout(NamedTuple):
  """A way in which a set is commonly kept."""
  what: str               # as told to the user
  files: tuple[str, ...]  # files and folders that must be there; {} stands for each split
  open: Callable[[Request], Source]


def load(name: str, layouts: tuple[Layout, ...], data_dir: str | os.PathLike | None,
         cache_dir: str | os.PathLike | None, image_size: int | None,
         skip_broken: bool) -> types.Dataset:
  """Loads the first of `layouts` that lies in `data_dir`; see `mtl_jax.data.load`.

  Args:
    name: 'mini_imagenet' or 'tiered_imagenet'.
    layouts: of that set, in the order of preference.
    data_dir, cache_dir, image_size, skip_broken: as there.
  """
  size = SIZE if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  layout, root = _find(name, layouts, data_dir)
  source = layout.open(Request(name, root, size, skip_broken))
  key = {'version': VERSION, 'layout': layout.what, 'image_size': size, 'skip_broken': skip_broken,
         'source': source.fingerprint}

  def read() -> pools.Streams:
    classes = source.read()
    return {split: _counted(name, split, classes[split]) for split in pools.SPLITS}

  return cache.load_or_stream(name, key, read, True, cache.directory(cache_dir))


def _find(name: str, layouts: tuple[Layout, ...],
          data_dir: str | os.PathLike | None) -> tuple[Layout, pathlib.Path]:
  """Finds the first layout that is there, and returns it with the folder."""
  every = ' or '.join(layout.what for layout in layouts)
  if data_dir is None or not pathlib.Path(data_dir).is_dir():
    raise ValueError(f'{name}: expected data_dir to be a folder with {every}; got {data_dir}')
  root = pathlib.Path(data_dir)
  missing = {layout: [file.format(split) for file, split in _files(layout)
                      if not image_files.place(root, file, split).exists()]
             for layout in layouts}
  for layout in layouts:
    if not missing[layout]:
      return layout, root
  # Where part of a layout is there, its rest is what the user lacks.
  best = max(layouts, key=lambda layout: len(_files(layout)) - len(missing[layout]))
  if len(missing[best]) < len(_files(best)):
    raise ValueError(f'{name}: data_dir {data_dir}: expected {best.what}, missing '
                     f"{', '.join(missing[best])}")
  raise ValueError(f'{name}: data_dir {data_dir}: expected {every}, found none of them')


def _files(layout: Layout) -> list[tuple[str, str]]:
  """Lists the files and folders of a layout once each, and the split of each."""
  found = {file.format(split): (file, split) for file in layout.files for split in pools.SPLITS}
  return list(found.values())


def _counted(name: str, split: str,
             classes: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
  """Passes classes on, and warns at the end if their images are not as many as were published."""
  count = 0
  for class_name, images in classes:
    count += len(images)
    yield class_name, images
  expected = imagenet_classes.NUM_IMAGES[name][split]
  if count != expected:
    warnings.warn(f'{name}: expected {expected} images in {split}, found {count}; accuracies will '
                  'not compare with published ones', stacklevel=2)


def open_folders(request: Request) -> Source:
  """Opens class folders `{train,val,test}/WORDNET_ID/*`; no other folder may lie beside them.

  Args:
    request: what to read.

  Raises:
    ValueError: a split is missing, a class has no image, or the classes are not those of the set.
  """
  folders = image_files.split_folders(request.root)
  imagenet_classes.check_wordnet_ids(request.name, f'data_dir {request.root}', {
      split: [path.name for path in paths] for split, paths in folders.items()})
  files = {split: [image_files.class_files(path) for path in paths]
           for split, paths in folders.items()}
  return Source(image_files.fingerprint(files), lambda: image_files.decode_files(
      request.name, files, request.size, request.skip_broken))


FOLDERS = Layout('class folders train/WORDNET_ID/*.jpg, val/..., test/...', ('{}',), open_folders)


def by_label(labels: np.ndarray | list, count: int, where: pathlib.Path) -> dict[int, np.ndarray]:
  """Groups the indices of images by label.

  Args:
    labels: integers, one for each image.
    count: number of images.
    where: file of the labels, for the message.

  Returns:
    Label -> indices, both in increasing order.

  Raises:
    ValueError: the labels are not integers, or not as many as the images.
  """
  array = as_integers(labels)
  if len(array) != count or not count:
    raise ValueError(f'{where}: expected one integer label for each of {count} images, found '
                     f'{len(array)}')
  order = np.argsort(array, kind='stable')
  values, starts = np.unique(array[order], return_index=True)
  return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))


def as_integers(listed: Any) -> np.ndarray:
  """Converts a list or array of integers to an array [n]; anything else to an empty one.

  Args:
    listed: anything that was unpickled.
  """
  try:
    array = np.asarray(listed)
  except ValueError:  # Lists of lists of different lengths.
    return np.array([], int)
  return array if array.ndim == 1 and array.dtype.kind in 'iu' else np.array([], int)


def field(content: Any, name: str, kinds: Any, where: pathlib.Path, default: Any = None) -> Any:
  """Looks up a value in an unpickled dict, whose keys may be bytes.

  Args:
    content: what was unpickled.
    name: the key.
    kinds: type that the value must have, or a union of types.
    where: the file, for the message.
    default: the value where there is none.

  Raises:
    ValueError: it is not a dict with such a value.
  """
  if not isinstance(content, dict):
    raise ValueError(f'{where}: expected a dict with {name!r}, found a {type(content).__name__}')
  keys = {text(key): key for key in content}
  found = content[keys[name]] if name in keys else default
  if not isinstance(found, kinds):
    problem = (f'a {type(found).__name__} for it' if name in keys
               else f'only {str(list(keys)[:5])[:80]}')
    raise ValueError(f'{where}: expected a dict with {name!r}, found {problem}')
  return found


def text(name: Any) -> str:
  """Converts a name, which Python 2 may have left as bytes, to text.

  Args:
    name: of a class, or a key.
  """
  return name.decode('latin1') if isinstance(name, bytes) else str(name)


def check_images(images: np.ndarray, where: pathlib.Path) -> np.ndarray:
  """Checks that images are uint8 [n, H, W, 3], and returns them.

  Args:
    images: any array.
    where: the file, for the message.

  Raises:
    ValueError: they are not.
  """
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
    raise ValueError(f'{where}: expected images uint8 [n, height, width, 3], found {images.dtype} '
                     f'{images.shape}')
  return images
