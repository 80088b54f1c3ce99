"""Parts of the base classes, so that meta-training can see classes that pre-training has not (cross-fitting).

Pre-training fits the base classes, so tasks made of them are easier than those of new classes. A network pre-trained
without one part of them meets, in tasks made of that part, classes as new as those of a test.
"""
import re

import numpy as np

from mtl_jax import types
from mtl_jax.data import pools


def choose(original: types.Dataset, part: str) -> types.Dataset:
  """Keeps some of the training classes; mean and deviation stay those of all of them.

  Args:
    original: any data set.
    part: "all"; "fold:K/N" for part K of N, which has every N-th class, from the K-th on; "rest:K/N" for the others.

  Returns:
    The data set with a copy of those training classes; validation and test classes are the same.

  Raises:
    ValueError: If `part` is none of these, or leaves no class.
  """
  if part == 'all':
    return original
  match = re.fullmatch(r'(fold|rest):([1-9]\d*)/([1-9]\d*)', part)
  if not match or not 1 <= int(match[2]) <= int(match[3]):
    raise ValueError(f'expected base classes all, fold:K/N or rest:K/N with K from 1 to N, got {part!r}')
  inside = _is_in_fold(len(original.train.class_sizes), int(match[2]), int(match[3]))
  kept = np.flatnonzero(inside if match[1] == 'fold' else ~inside)
  if not len(kept):
    raise ValueError(f'expected base classes {part} to leave some of {len(inside)} classes of {original.name}, '
                     'got none')
  names = original.class_names | {'train': tuple(original.class_names['train'][i] for i in kept)}
  return original._replace(train=_only(original.train, kept), class_names=names)


def _is_in_fold(num_classes, fold, num_folds):
  return np.arange(num_classes) % num_folds == fold - 1


def _only(pool, classes):
  starts, sizes = np.asarray(pool.class_offsets)[classes], np.asarray(pool.class_sizes)[classes]
  images = np.concatenate([pool.images[start:start + size] for start, size in zip(starts, sizes, strict=True)])
  return types.ImagePool(images, pools.offsets(sizes), sizes)
