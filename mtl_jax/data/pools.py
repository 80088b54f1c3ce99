"""Pools of images, which episodes are drawn from, and the normalisation that they carry."""
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from mtl_jax import types

SPLITS = ('train', 'val', 'test')
NUM_VALUES = 256  # of a pixel
COUNTED_AT_ONCE = 16  # images: few enough to stay in the cache of the processor

Classes = list[tuple[str, np.ndarray]]  # name of a class, its images uint8 [n, H, W, C]
Streams = Mapping[str, Iterable[tuple[str, np.ndarray]]]  # split -> the same, one class at a time


def build(images: np.ndarray, labels: np.ndarray, num_classes: int) -> types.ImagePool:
  """Sorts images by class; images of one class keep their order.

  Args:
    images: uint8 [n, H, W, C].
    labels: int [n], in [0, num_classes).
    num_classes: number of classes; each must have an image.

  Returns:
    A pool of NumPy arrays, without a normalisation: `dataset` computes that.

  Raises:
    ValueError: the images are not uint8 [n, H, W, C], or a class has no image.

  >>> pool = build(np.zeros((3, 2, 2, 1), np.uint8), np.array([1, 0, 1]), 2)
  >>> pool.class_offsets.tolist(), pool.class_sizes.tolist()
  ([0, 1], [1, 2])
  """
  labels = np.asarray(labels)
  if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
    raise ValueError(f'expected uint8 images [n, H, W, C] with a label each, got {images.dtype} '
                     f'{images.shape} and {len(labels)} labels')
  sizes = np.bincount(labels, minlength=num_classes).astype(np.int32)
  if len(sizes) != num_classes or not sizes.all():
    raise ValueError(f'expected images of each of {num_classes} classes, got counts '
                     f'{sizes.tolist()}')
  if np.any(np.diff(labels) < 0):  # Sorting copies all images: only when needed.
    images = images[np.argsort(labels, kind='stable')]
  return types.ImagePool(images, offsets(sizes), sizes)


def join(classes: Classes, normalization: types.Normalization | None = None) -> types.ImagePool:
  """Joins the images of classes to one pool, in the order given.

  Args:
    classes: at least one.
    normalization: what the pool carries, if known already.
  """
  sizes = np.array([len(images) for _, images in classes], np.int32)
  images = np.concatenate([images for _, images in classes])
  return types.ImagePool(images, offsets(sizes), sizes, normalization)


def offsets(class_sizes: np.ndarray) -> np.ndarray:
  """Computes the index of the first image of each class.

  Args:
    class_sizes: int [classes].

  Returns:
    int32 [classes].
  """
  return (np.cumsum(class_sizes) - class_sizes).astype(np.int32)


def dataset(name: str, splits: Sequence[types.ImagePool], class_names: dict[str, tuple[str, ...]],
            flip: bool) -> types.Dataset:
  """Makes a data set of three pools, normalised by its training images.

  Args:
    name: name of the data set.
    splits: the pools of train, val and test; what they were normalised by is replaced.
    class_names: split -> name of each class.
    flip: whether a mirrored image is still of its class.
  """
  normalization = normalization_of(count_values(np.asarray(splits[0].images)))
  train, val, test = (pool._replace(normalization=normalization) for pool in splits)
  return types.Dataset(name, train, val, test, class_names, flip)


def from_classes(name: str, splits: Mapping[str, Classes], flip: bool) -> types.Dataset:
  """Makes a data set of the classes of each split; see `dataset`.

  Args:
    name: name of the data set.
    splits: split -> its classes.
    flip: whether a mirrored image is still of its class.
  """
  names = {split: tuple(class_name for class_name, _ in splits[split]) for split in SPLITS}
  return dataset(name, [join(splits[split]) for split in SPLITS], names, flip)


def count_values(images: np.ndarray) -> np.ndarray:
  """Counts how often each channel has each value; counts of parts of a set add up.

  Args:
    images: uint8 [n, H, W, C].

  Returns:
    int64 [C, 256].
  """
  channels = images.shape[-1]
  counts = np.zeros((channels, NUM_VALUES), np.int64)
  for start in range(0, len(images), COUNTED_AT_ONCE):
    for c in range(channels):
      values = images[start:start + COUNTED_AT_ONCE, ..., c].reshape(-1)
      counts[c] += np.bincount(values, minlength=NUM_VALUES)
  return counts


def normalization_of(counts: np.ndarray) -> types.Normalization:
  """Computes mean and standard deviation per channel of images / 255, exactly.

  Args:
    counts: int64 [C, 256], of all training images; see `count_values`.

  Returns:
    float32 [C] each; the standard deviation is at least 1/255.
  """
  values = np.arange(NUM_VALUES) / 255
  share = counts / counts.sum(axis=1, keepdims=True)
  mean = share @ values
  variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
  # A channel that is the same everywhere must not be divided by zero.
  std = np.maximum(np.sqrt(variance), 1 / 255)
  return types.Normalization(mean.astype(np.float32), std.astype(np.float32))


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Resizes images by bilinear interpolation, antialiased when they shrink.

  Args:
    images: uint8 [n, H, W, C], of 1 or 3 channels.
    size: side of the results in pixels.

  Returns:
    uint8 [n, size, size, C]; the same array where the size is the same.
  """
  if images.shape[1:3] == (size, size):
    return images
  out = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
  for i, image in enumerate(images):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = picture.resize((size, size), Image.Resampling.BILINEAR)
    out[i] = np.asarray(resized).reshape(out.shape[1:])
  return out
