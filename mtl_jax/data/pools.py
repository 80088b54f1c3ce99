"""From images and labels to the pools that episodes are drawn from."""
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from mtl_jax import types

SPLITS = ('train', 'val', 'test')
Classes = list[tuple[str, np.ndarray]]  # name of a class, its images uint8 [n, H, W, C]
Streams = Mapping[str, Iterable[tuple[str, np.ndarray]]]  # split -> the same, one class at a time


def build(images: np.ndarray, labels: np.ndarray, num_classes: int) -> types.ImagePool:
  """Sorts images by class; images of one class keep their order.

  Args:
    images: uint8 [n, H, W, C].
    labels: int [n], in [0, num_classes).
    num_classes: Number of classes; each must have an image.

  Returns:
    A pool of NumPy arrays.

  Raises:
    ValueError: If the images are not uint8 [n, H, W, C], or a class has no image.

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
    raise ValueError(f'expected images of each of {num_classes} classes, got counts {sizes.tolist()}')
  if np.any(np.diff(labels) < 0):  # Sorting copies all images: only when needed.
    images = images[np.argsort(labels, kind='stable')]
  return types.ImagePool(images, offsets(sizes), sizes)


def offsets(class_sizes: np.ndarray) -> np.ndarray:
  """Index of the first image of each class, int32 [classes]."""
  return (np.cumsum(class_sizes) - class_sizes).astype(np.int32)


def mean_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation per channel of uint8 images [n, H, W, C] / 255; see `moments`."""
  return moments(count_values(images))


def count_values(images: np.ndarray, chunk: int = 16) -> np.ndarray:
  """How often each value is found in each channel; counts of parts of a set add up.

  Args:
    images: uint8 [n, H, W, C].
    chunk: Images counted at a time: few enough to stay in the cache of the processor.

  Returns:
    int64 [C, 256].
  """
  channels = images.shape[-1]
  counts = np.zeros((channels, 256), np.int64)
  for start in range(0, len(images), chunk):
    for c in range(channels):
      counts[c] += np.bincount(images[start:start + chunk, ..., c].reshape(-1), minlength=256)
  return counts


def moments(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation per channel of images / 255, exact for uint8.

  Args:
    counts: int64 [C, 256], see `count_values`.

  Returns:
    mean and std, float32 [C] each; std at least 1/255.
  """
  values = np.arange(256) / 255
  share = counts / counts.sum(axis=1, keepdims=True)
  mean = share @ values
  variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
  # A channel that is the same everywhere must not be divided by zero.
  return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1 / 255).astype(np.float32)


def dataset(name: str, pools: Sequence[types.ImagePool], class_names: dict[str, tuple[str, ...]],
            flip: bool) -> types.Dataset:
  """Puts train, val and test pools together, with mean and std of the training images."""
  mean, std = mean_std(pools[0].images)
  return types.Dataset(name, *pools, class_names, mean, std, flip)


def from_classes(name: str, splits: dict[str, Classes], flip: bool) -> types.Dataset:
  """Puts a data set together from the classes of each split."""
  pools, names = [], {}
  for split in SPLITS:
    sizes = np.array([len(images) for _, images in splits[split]], np.int32)
    images = np.concatenate([images for _, images in splits[split]])
    pools.append(types.ImagePool(images, offsets(sizes), sizes))
    names[split] = tuple(c for c, _ in splits[split])
  return dataset(name, pools, names, flip)


def resize_dataset(original: types.Dataset, size: int) -> types.Dataset:
  """Resizes all images of a data set, see `resize`."""
  resized = [pool._replace(images=resize(pool.images, size))
             for pool in (original.train, original.val, original.test)]
  return dataset(original.name, resized, original.class_names, original.flip)


# Mean and deviation of pixel values that may be subtracted and divided by, of images / 255: those of the authors'
# TensorFlow code (none) and of their PyTorch code.
NORMALIZATIONS = {
    'unit': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'authors': ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
}


def normalized(original: types.Dataset, name: str) -> types.Dataset:
  """Changes what images are normalised by.

  Args:
    original: any data set.
    name: "dataset" for the mean and deviation of its training images, or one of `NORMALIZATIONS`.

  Returns:
    The data set with other `mean` and `std`.

  Raises:
    ValueError: If the name is unknown, or the images are not in colour.
  """
  if name == 'dataset':
    return original
  if name not in NORMALIZATIONS:
    raise ValueError(f"expected normalization to be one of dataset, {', '.join(NORMALIZATIONS)}, got {name!r}")
  if original.train.images.shape[-1] != 3:
    raise ValueError(f'normalization {name}: expected images of 3 channels, got {original.train.images.shape[-1]} in '
                     f'{original.name}')
  mean, std = (np.asarray(values, np.float32) for values in NORMALIZATIONS[name])
  return original._replace(mean=mean, std=std)


def center_crop(original: types.Dataset, size: int) -> types.Dataset:
  """Keeps the middle of each image; mean and deviation stay those of whole images.

  Args:
    original: any data set; images mapped from disk stay so.
    size: Side of the middle in pixels.

  Returns:
    The data set with images [n, size, size, C].

  Raises:
    ValueError: If the images are smaller than that.
  """
  height, width = original.train.images.shape[1:3]
  if size > min(height, width):
    raise ValueError(f'expected center_crop of at most {min(height, width)} pixels, the side of the images, got {size}')
  top, left = (height - size) // 2, (width - size) // 2
  cropped = {split: getattr(original, split)._replace(
      images=getattr(original, split).images[:, top:top + size, left:left + size]) for split in SPLITS}
  return original._replace(**cropped)


def resize(images: np.ndarray, size: int) -> np.ndarray:
  """Resizes uint8 [n, H, W, C] to [n, size, size, C], bilinear, antialiased when shrinking."""
  if images.shape[1:3] == (size, size):
    return images
  out = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
  for i, image in enumerate(images):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    out[i] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)).reshape(out.shape[1:])
  return out
