"""A data set of arrays that are in memory already."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import types
from mtl_jax.data import division, pools

_CHANNELS = (1, 3)


def from_arrays(name: str, images: np.ndarray, labels: np.ndarray | Sequence, *,
                split: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0,
                classes: Mapping[str, Sequence] | None = None,
                flip: bool = True) -> types.Dataset:
  """Makes a data set of images and their labels, its classes divided into splits.

  Args:
    name: what runs and results call it.
    images: uint8 [n, H, W, C], of 1 or 3 channels.
    labels: n integers or strings, the class of each image; in any order.
    split: fractions of the classes for train, val and test.
    seed: decides which classes go where, as `division.by_fractions` does.
    classes: in place of `split`, the labels of each of train, val and test; others are left out.
    flip: whether a mirrored image is still of its class.

  Returns:
    The data set, with copies of the images; classes of a split stand in the order of their labels
    (or of `classes`), and are named by them.

  Raises:
    ValueError: shapes, types or labels are not as described, or a split would have no class.

  >>> images = np.zeros((10, 4, 4, 3), np.uint8)
  >>> from_arrays('toy', images, [0, 1, 2, 3, 4] * 2, seed=1).train
  ImagePool(6 images of 4x4x3 in 3 classes)
  """
  where = f'from_arrays {name!r}'
  images = _check_images(where, images)
  values, index = np.unique(_check_labels(where, labels, len(images)), return_inverse=True)
  names = [str(value) for value in values.tolist()]
  if classes is None:
    chosen = division.by_fractions(where, names, division.check(split), seed)
  else:
    chosen = _given(where, classes, set(names))
  # Sorted once: a search for each class would read all labels as often as there are classes.
  order = np.argsort(index, kind='stable')
  ends = np.cumsum(np.bincount(index))
  members = dict(zip(names, np.split(order, ends[:-1]), strict=True))
  return pools.dataset(name, [_pool(images, [members[c] for c in chosen[split_name]])
                              for split_name in pools.SPLITS],
                       {split_name: tuple(chosen[split_name]) for split_name in pools.SPLITS}, flip)


def _pool(images: np.ndarray, members: Sequence[np.ndarray]) -> types.ImagePool:
  sizes = np.array([len(indices) for indices in members], np.int32)
  return types.ImagePool(images[np.concatenate(members)], pools.offsets(sizes), sizes)


def _check_images(where: str, images: Any) -> np.ndarray:
  images = np.asarray(images)
  if images.dtype != np.uint8:
    more = ''
    if images.dtype.kind == 'f':
      bad = not np.isfinite(images).all()
      more = (', some of them NaN or infinite' if bad else
              '; where they lie in 0 to 1, multiply by 255, round and convert')
    raise ValueError(f'{where}: expected images uint8, values of 0 to 255, got {images.dtype}'
                     f'{more}')
  if images.ndim != 4 or images.shape[3] not in _CHANNELS or not all(images.shape):
    raise ValueError(f'{where}: expected images [n, height, width, 1 or 3 channels], got shape '
                     f'{images.shape}')
  return images


def _check_labels(where: str, labels: Any, count: int) -> np.ndarray:
  try:
    found = np.asarray(labels)
  except ValueError as e:  # lists of different lengths
    raise ValueError(f'{where}: expected labels [n], got nested lists') from e
  if found.dtype.kind == 'O' and found.size and all(isinstance(v, str) for v in found.flat):
    found = found.astype(str)  # strings of pandas
  if found.dtype.kind not in 'iuU' or found.ndim != 1:
    more = (', some of them NaN' if found.dtype.kind == 'f' and np.isnan(found).any() else '')
    raise ValueError(f'{where}: expected labels [n] of integers or strings, got {found.dtype} '
                     f'{list(found.shape)}{more}')
  if len(found) != count:
    raise ValueError(f'{where}: expected one label for each of {count} images, got {len(found)}')
  return found


def _given(where: str, classes: Mapping[str, Sequence], known: set[str]) -> dict[str, list[str]]:
  if set(classes) != set(pools.SPLITS) or any(isinstance(c, str) for c in classes.values()):
    raise ValueError(f'{where}: expected classes to list labels for train, val and test, got '
                     f'{list(classes)}')
  chosen = {split: [str(label) for label in classes[split]] for split in pools.SPLITS}
  division.check_disjoint(where, chosen)
  for split in pools.SPLITS:
    for label in chosen[split]:
      if label not in known:
        raise ValueError(f'{where}: {split} class {label!r} has no image')
  return chosen
