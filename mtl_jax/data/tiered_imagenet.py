"""tieredImageNet: 608 classes of ImageNet, 779,165 images of 84x84, in the layouts it is shared in.

It is split 351/97/160. The classes of folders are checked against the known split. The shared
labels are numbers from 0 in each split, with descriptions or without names: there the numbers of
classes are checked, and that no description is in two splits.

References:
  Ren et al., Meta-learning for semi-supervised few-shot classification, ICLR 2018, section 5.1.
"""
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from mtl_jax import types
from mtl_jax.data import cache, image_files, imagenet, imagenet_classes, pools
from mtl_jax.untrusted import numpy_pickles, regular

ARRAYS, PNGS, LABELS = '{}_images.npz', '{}_images_png.pkl', '{}_labels.pkl'
_LENGTHS_AT = 26  # bytes into the header of a file in a zip archive: lengths of its last fields

Indices = dict[str, dict[str, np.ndarray]]  # split -> class -> indices of its images


def load(name: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         skip_broken: bool = False) -> types.Dataset:
  """Loads tieredImageNet; see `mtl_jax.data.load`.

  Args:
    name: 'tiered_imagenet'.
    data_dir, cache_dir, image_size, skip_broken: as there.
  """
  return imagenet.load(name, LAYOUTS, data_dir, cache_dir, image_size, skip_broken)


def _open_arrays(request: imagenet.Request) -> imagenet.Source:
  """Opens {train,val,test}_images.npz: an array each, written by OpenCV, so blue comes first."""
  paths = {split: request.root / ARRAYS.format(split) for split in pools.SPLITS}

  def read() -> pools.Streams:
    images = {split: imagenet.check_images(_map_npz(path), path) for split, path in paths.items()}
    indices = _read_labels(request, {split: len(images[split]) for split in pools.SPLITS})
    return {split: _take(images[split], indices[split], request.size) for split in pools.SPLITS}

  return imagenet.Source(_fingerprint(request, paths), read)


def _take(images: np.ndarray, indices: dict[str, np.ndarray],
          size: int) -> Iterator[tuple[str, np.ndarray]]:
  for name, listed in indices.items():
    yield name, pools.resize(images[listed][..., ::-1], size)


def _map_npz(path: pathlib.Path) -> np.ndarray:
  """Maps the array `images` of an uncompressed .npz file, unread: that of train has 9.5 GB."""
  regular.check(path)
  try:
    with zipfile.ZipFile(path) as archive, path.open('rb') as file:
      member = archive.getinfo('images.npy')
      if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError('compressed, which numpy.savez does not do; load and save it again')
      file.seek(member.header_offset + _LENGTHS_AT)
      # The file itself begins after its name and the extra field, whose lengths stand here.
      file.seek(sum(np.frombuffer(file.read(4), '<u2').tolist()), os.SEEK_CUR)
      shape, fortran, dtype = _read_header(file)
      if dtype.hasobject:
        raise ValueError('an array of Python objects')
      return np.memmap(path, dtype, 'r', file.tell(), shape, 'F' if fortran else 'C')
  except Exception as e:  # Damaged files make both readers raise nearly anything.
    raise ValueError(f"{path}: expected a whole .npz file with an uncompressed array 'images', "
                     f'found {path.stat().st_size} bytes: {e}') from e


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Reads shape, Fortran order and dtype of a .npy file."""
  if np.lib.format.read_magic(file) == (1, 0):
    return np.lib.format.read_array_header_1_0(file)
  return np.lib.format.read_array_header_2_0(file)


def _open_pngs(request: imagenet.Request) -> imagenet.Source:
  """Opens {train,val,test}_images_png.pkl: a list of PNG files, each as an array of bytes."""
  paths = {split: request.root / PNGS.format(split) for split in pools.SPLITS}

  def read() -> pools.Streams:
    files = {split: _load_list(path) for split, path in paths.items()}
    indices = _read_labels(request, {split: len(files[split]) for split in pools.SPLITS})
    return {split: image_files.decode(request.name, _as_items(indices[split]),
                                      _decoder(paths[split], files[split], request.size),
                                      request.skip_broken) for split in pools.SPLITS}

  return imagenet.Source(_fingerprint(request, paths), read)


def _load_list(path: pathlib.Path) -> list:
  found = numpy_pickles.load(path)
  if not isinstance(found, list):
    raise ValueError(f'{path}: expected a list of PNG files, found a {type(found).__name__}')
  return found


def _as_items(indices: dict[str, np.ndarray]) -> Iterator[tuple[str, list[int]]]:
  return ((name, listed.tolist()) for name, listed in indices.items())


def _decoder(path: pathlib.Path, files: list, size: int) -> Callable[[int], np.ndarray]:
  """Returns a function from the index of an image to its pixels."""
  def decode(index: int) -> np.ndarray:
    content = files[index] if isinstance(files[index], np.ndarray | bytes) else b''
    return image_files.decode_image(io.BytesIO(bytes(content)), f'{path}: image {index}', size)
  return decode


def _fingerprint(request: imagenet.Request, paths: dict[str, pathlib.Path]) -> list:
  labels = [request.root / LABELS.format(split) for split in pools.SPLITS]
  return cache.fingerprint([*paths.values(), *labels])


def _read_labels(request: imagenet.Request, counts: dict[str, int]) -> Indices:
  """Reads the indices of the images of each class, and checks the classes of all splits."""
  indices = {split: _group_by_name(request.root / LABELS.format(split), split, counts[split])
             for split in pools.SPLITS}
  where = f"data_dir {request.root}: {LABELS.format('*')}"
  imagenet_classes.check_ids_or_counts(request.name, where, indices)
  return indices


def _group_by_name(path: pathlib.Path, split: str, count: int) -> dict[str, np.ndarray]:
  """Groups the indices of images by description or, without one, by split and label."""
  content = numpy_pickles.load(path)
  labels = imagenet.field(content, 'labels', object, path)  # As MetaOptNet's authors named them.
  if labels is None:
    labels = imagenet.field(content, 'label_specific', np.ndarray | list, path)
  by_label = imagenet.by_label(labels, count, path)
  names = [imagenet.text(c)
           for c in imagenet.field(content, 'label_specific_str', list, path, default=[])]
  if not names:
    return {f'{split}_{label:03d}': listed for label, listed in by_label.items()}
  if min(by_label) < 0 or max(by_label) >= len(names):
    raise ValueError(f"{path}: expected labels below the number of 'label_specific_str', "
                     f'{len(names)}, found {min(by_label)} to {max(by_label)}')
  return {names[label]: listed for label, listed in by_label.items()}


LAYOUTS = (
    imagenet.FOLDERS,
    imagenet.Layout('{train,val,test}_images.npz and {train,val,test}_labels.pkl',
                    (ARRAYS, LABELS), _open_arrays),
    imagenet.Layout('{train,val,test}_images_png.pkl and {train,val,test}_labels.pkl',
                    (PNGS, LABELS), _open_pngs),
)
