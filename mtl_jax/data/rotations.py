"""Classes that turned images make: more of them, and new ones to a network that has only seen upright images."""
import numpy as np

from mtl_jax import types
from mtl_jax.data import pools

_TURNS = range(4)  # quarters, counter-clockwise


def of_classes(classes: pools.Classes) -> pools.Classes:
  """Gives each class, and it turned by 90, 180 and 270 degrees counter-clockwise as three classes of their own.

  Args:
    classes: (name, uint8 images [n, H, H, C]) of each.

  Returns:
    Four times as many, the turned ones named NAME/rot90 and so on.
  """
  return [(f'{name}/rot{90 * turns}' if turns else name, np.rot90(images, turns, axes=(1, 2)))
          for name, images in classes for turns in _TURNS]


def of_train(original: types.Dataset) -> types.Dataset:
  """Turns the training classes of a data set; mean and deviation stay those of the upright images.

  Args:
    original: any data set of square images.

  Returns:
    The data set with a copy of the training images, four times as many; validation and test are the same.

  Raises:
    ValueError: its training classes are turned already, or images are not square.
  """
  names, pool = original.class_names['train'], original.train
  if any('/rot' in name for name in names):
    raise ValueError(f'rotated_classes: the training classes of {original.name} are turned already')
  if pool.images.shape[1] != pool.images.shape[2]:
    raise ValueError(f'rotated_classes: expected square images, got {pool.images.shape[1:3]}')
  starts = np.asarray(pool.class_offsets)
  turned = of_classes([(name, pool.images[start:start + size])
                       for name, start, size in zip(names, starts, pool.class_sizes, strict=True)])
  sizes = np.repeat(np.asarray(pool.class_sizes, np.int32), len(_TURNS))
  train = types.ImagePool(np.concatenate([images for _, images in turned]), pools.offsets(sizes), sizes)
  return original._replace(train=train, class_names=original.class_names | {'train': tuple(n for n, _ in turned)})
