"""Functions from data set to data set: other classes, other sizes, another normalisation."""
import re

import numpy as np

from mtl_jax import types
from mtl_jax.data import pools

# Mean and deviation of images / 255 that may be subtracted and divided by in place of the data
# set's own: of the authors' TensorFlow code, which does neither, and of their PyTorch code.
NORMALIZATIONS = {
    'unit': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'authors': ((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
    # Of public networks: what their pre-training normalised by.
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'half': ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    'efficientnet_lite': ((127 / 255,) * 3, (128 / 255,) * 3),
    'clip': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}

_QUARTERS = range(4)  # turns by 90 degrees, counter-clockwise


def choose_classes(dataset: types.Dataset, part: str) -> types.Dataset:
  """Keeps part of the training classes, so that the rest is new to the network (cross-fitting).

  Pre-training fits the base classes, so tasks made of them are easier than tasks of new classes. A
  network pre-trained without a part of them meets, in tasks made of that part, classes as new as
  those of a test.

  Args:
    dataset: any data set.
    part: "all"; "fold:K/N" for part K of N, which has every N-th class, from the K-th on;
      "rest:K/N" for the other classes.

  Returns:
    The data set with a copy of those training classes; validation and test classes are the same,
    and so is the normalisation.

  Raises:
    ValueError: `part` is none of these, or leaves no class.
  """
  if part == 'all':
    return dataset
  match = re.fullmatch(r'(fold|rest):([1-9]\d{0,8})/([1-9]\d{0,8})', part)
  if not match or not 1 <= int(match[2]) <= int(match[3]):
    raise ValueError('expected base classes all, fold:K/N or rest:K/N with K from 1 to N, '
                     f'got {part!r}')
  classes = _train_classes(dataset)
  in_fold = [i % int(match[3]) == int(match[2]) - 1 for i in range(len(classes))]
  kept = [c for c, inside in zip(classes, in_fold, strict=True) if inside == (match[1] == 'fold')]
  if not kept:
    raise ValueError(f'expected base classes {part} to leave some of {len(classes)} classes of '
                     f'{dataset.name}, got none')
  return _with_train_classes(dataset, kept)


def rotate_train_classes(dataset: types.Dataset) -> types.Dataset:
  """Adds the turned training classes: new ones to a network that has only seen upright images.

  Args:
    dataset: any data set of square images.

  Returns:
    The data set with a copy of the training images, four times as many; validation and test
    classes are the same, and so is the normalisation.

  Raises:
    ValueError: its training classes are turned already, or images are not square.
  """
  height, width = dataset.train.images.shape[1:3]
  if any('/rot' in name for name in dataset.class_names['train']):
    raise ValueError(f'rotated_classes: the training classes of {dataset.name} are turned already')
  if height != width:
    raise ValueError(f'rotated_classes: expected square images, got {(height, width)}')
  return _with_train_classes(dataset, with_rotations(_train_classes(dataset)))


def with_rotations(classes: pools.Classes) -> pools.Classes:
  """Lists each class and, as classes of their own, the same turned by 90, 180 and 270 degrees.

  Args:
    classes: name and uint8 images [n, H, H, C] of each.

  Returns:
    Four times as many classes; those turned counter-clockwise are named NAME/rot90 and so on.
  """
  return [(f'{name}/rot{90 * turns}' if turns else name, np.rot90(images, turns, axes=(1, 2)))
          for name, images in classes for turns in _QUARTERS]


def resize(dataset: types.Dataset, size: int) -> types.Dataset:
  """Resizes all images; the normalisation is computed from them anew.

  Args:
    dataset: any data set.
    size: side of the results in pixels.

  Returns:
    The data set with images [n, size, size, C].
  """
  resized = [pool._replace(images=pools.resize(np.asanyarray(pool.images), size))
             for pool in (dataset.train, dataset.val, dataset.test)]
  found = pools.dataset(dataset.name, resized, dataset.class_names, dataset.flip)
  return found._replace(origin=dataset.origin)


def center_crop(dataset: types.Dataset, size: int) -> types.Dataset:
  """Keeps the middle of each image; the normalisation stays that of whole images.

  Args:
    dataset: any data set; images mapped from disk stay so.
    size: side of the middle in pixels.

  Returns:
    The data set with images [n, size, size, C].

  Raises:
    ValueError: the images are smaller than that, or `size` is below 1.
  """
  height, width = dataset.train.images.shape[1:3]
  if size < 1:
    raise ValueError(f'expected center_crop of at least 1 pixel, got {size}')
  if size > min(height, width):
    raise ValueError(f'expected center_crop of at most {min(height, width)} pixels, the side of '
                     f'the images, got {size}')
  rows, columns = (slice((side - size) // 2, (side - size) // 2 + size) for side in (height, width))
  train, val, test = (pool._replace(images=pool.images[:, rows, columns])
                      for pool in (dataset.train, dataset.val, dataset.test))
  return dataset._replace(train=train, val=val, test=test)


def with_channels(dataset: types.Dataset, channels: int) -> types.Dataset:
  """Repeats the channel of grey images, for a network that takes three.

  Args:
    dataset: images of 1 or 3 channels.
    channels: 3; or what the images have, which changes nothing.

  Returns:
    The data set; each grey value stands in all channels.

  Raises:
    ValueError: images in colour for a network of grey images.
  """
  found = dataset.train.images.shape[-1]
  if found == channels:
    return dataset
  if found != 1:
    raise ValueError(f'expected images of {channels} channel{"s" if channels > 1 else ""}, as the '
                     f'network takes, got {found} in {dataset.name}')
  splits = {}
  for split in ('train', 'val', 'test'):
    pool = getattr(dataset, split)
    normalization = pool.normalization
    if normalization is not None:
      normalization = types.Normalization(*(np.repeat(values, channels)
                                            for values in normalization))
    splits[split] = pool._replace(images=np.repeat(pool.images, channels, axis=-1),
                                  normalization=normalization)
  return dataset._replace(**splits)


def normalized(dataset: types.Dataset, name: str) -> types.Dataset:
  """Changes what images are normalised by.

  Args:
    dataset: any data set.
    name: "dataset" for what it has, when loaded the mean and deviation of its training images; or
      one of `NORMALIZATIONS`.

  Returns:
    The data set with that normalisation in all of its pools.

  Raises:
    ValueError: the name is unknown, or the images are not in colour.
  """
  if name == 'dataset':
    return dataset
  if name not in NORMALIZATIONS:
    raise ValueError(f"expected normalization to be one of dataset, {', '.join(NORMALIZATIONS)}, "
                     f'got {name!r}')
  channels = dataset.train.images.shape[-1]
  if channels != 3:
    raise ValueError(f'normalization {name}: expected images of 3 channels, got {channels} in '
                     f'{dataset.name}')
  mean, std = (np.asarray(values, np.float32) for values in NORMALIZATIONS[name])
  train, val, test = (pool._replace(normalization=types.Normalization(mean, std))
                      for pool in (dataset.train, dataset.val, dataset.test))
  return dataset._replace(train=train, val=val, test=test)


def _train_classes(dataset: types.Dataset) -> pools.Classes:
  """Lists names and images of the training classes; the images are views."""
  images = np.asarray(dataset.train.images)
  starts, sizes = np.asarray(dataset.train.class_offsets), np.asarray(dataset.train.class_sizes)
  return [(name, images[start:start + size]) for name, start, size
          in zip(dataset.class_names['train'], starts, sizes, strict=True)]


def _with_train_classes(dataset: types.Dataset, classes: pools.Classes) -> types.Dataset:
  names = dataset.class_names | {'train': tuple(name for name, _ in classes)}
  train = pools.join(classes, dataset.train.normalization)
  return dataset._replace(train=train, class_names=names)
