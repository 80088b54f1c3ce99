"""What both sides load: random weights, tasks, features and images, drawn by NumPy.

They travel in one npz file, or in a folder of image files.
"""
import os

import numpy as np
from PIL import Image

from benchmarks import network_shapes


def write(path: str, *parts: dict[str, np.ndarray]) -> str:
  """Writes arrays to an npz file, floats as float32.

  Args:
    path: of the file.
    *parts: name -> array.

  Returns:
    The path.
  """
  arrays = {name: array for part in parts for name, array in part.items()}
  np.savez(path, **{name: array.astype(np.float32) if array.dtype.kind == 'f' else array
                    for name, array in arrays.items()})
  return path


def weights(network: str, *, width: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
  """Draws weights with gains that keep activations of order one.

  Args:
    network: one of `network_shapes.NAMES`.
    width: channels of the first block; None as published.
    seed: of the random numbers.

  Returns:
    Name -> array, under the names of the JAX tree; running statistics of batch norm too.
  """
  rng, arrays = np.random.default_rng(seed), {}
  # Kernels do not depend on the image size, which is any here.
  for layer in network_shapes.layers(network, 64, width):
    rows, columns, c_in, c_out = layer.kernel
    shape = (c_in, c_out) if rows == 1 else layer.kernel
    gain = 0.5 if layer.path.endswith('shortcut') else 1.0
    std = (gain / (rows * columns * c_in)) ** 0.5
    arrays[f'{layer.path}/kernel'] = rng.normal(size=shape) * std
    # All that a trained network would have is there, so that no term of the sums is zero.
    if layer.bias:
      arrays[f'{layer.path}/bias'] = 0.1 * rng.normal(size=c_out)
    if layer.norm is not None:
      arrays[f'{layer.norm}/mean'] = 0.1 * rng.normal(size=c_out)
      arrays[f'{layer.norm}/var'] = rng.uniform(0.5, 1.5, size=c_out)
    if layer.affine:
      arrays[f'{layer.norm}/scale'] = rng.uniform(0.5, 1.0, size=c_out)
      arrays[f'{layer.norm}/bias'] = 0.1 * rng.normal(size=c_out)
  return arrays


def tasks(*, tasks: int, way: int, shot: int, query: int, image_size: int,
          seed: int = 1) -> dict[str, np.ndarray]:
  """Draws tasks of images whose classes differ in their mean, so that there is something to learn.

  Args:
    tasks: how many.
    way: N.
    shot: K.
    query: Q, per class.
    image_size: side, pixels.
    seed: of the random numbers.

  Returns:
    `support_images` [tasks, N*K, H, W, 3], `support_labels` int32 [tasks, N*K], `query_images` and
    `query_labels`.
  """
  rng, arrays = np.random.default_rng(seed), {}
  means = rng.normal(size=(tasks, way, image_size, image_size, 3))
  for name, per_class in (('support', shot), ('query', query)):
    noise = rng.normal(size=(tasks, way * per_class, image_size, image_size, 3))
    # Mean and noise of variance one add up to two, hence the root.
    arrays[f'{name}_images'] = (np.repeat(means, per_class, axis=1) + noise) / 2**0.5
    arrays[f'{name}_labels'] = labels(tasks, way, per_class)
  return arrays


def features(*, tasks: int, way: int, support: int, query: int, dim: int,
             seed: int = 2) -> dict[str, np.ndarray]:
  """Draws the features of tasks and an initial classifier.

  Args:
    tasks: how many.
    way: N.
    support: n, images per task.
    query: m, images per task.
    dim: d.
    seed: of the random numbers.

  Returns:
    `support` [tasks, n, d], `query` [tasks, m, d], their labels, `kernel` [d, N] and `bias` [N].
  """
  rng = np.random.default_rng(seed)
  return {'support': rng.normal(size=(tasks, support, dim)),
          'support_labels': labels(tasks, way, support // way),
          'query': rng.normal(size=(tasks, query, dim)),
          'query_labels': labels(tasks, way, query // way),
          'kernel': 0.1 * rng.normal(size=(dim, way)), 'bias': 0.1 * rng.normal(size=way)}


def labels(tasks: int, way: int, per_class: int) -> np.ndarray:
  """Returns the labels of tasks, class after class.

  Args:
    tasks: how many.
    way: N.
    per_class: images of each class.

  Returns:
    int32 [tasks, way * per_class].
  """
  return np.tile(np.repeat(np.arange(way, dtype=np.int32), per_class), (tasks, 1))


def images(*, classes: int, per_class: int, image_size: int,
           seed: int = 3) -> dict[str, np.ndarray]:
  """Draws images of noise, sorted by class.

  Args:
    classes: how many.
    per_class: images of each.
    image_size: side, pixels.
    seed: of the random numbers.

  Returns:
    `images` uint8 [n, H, W, 3] and `classes` int32 [n].
  """
  shape = (classes * per_class, image_size, image_size, 3)
  noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return {'images': noise, 'classes': _classes(classes, per_class)}


def split_features(*, classes: int, per_class: int, dim: int,
                   seed: int = 4) -> dict[str, np.ndarray]:
  """Draws the features of a whole split.

  Args:
    classes: how many.
    per_class: images of each.
    dim: d.
    seed: of the random numbers.

  Returns:
    `features` [n, d] and `classes` int32 [n].
  """
  noise = np.random.default_rng(seed).normal(size=(classes * per_class, dim))
  return {'features': noise, 'classes': _classes(classes, per_class)}


def _classes(classes, per_class):
  """Returns the class of each image of a split, int32 [n]."""
  return np.repeat(np.arange(classes, dtype=np.int32), per_class)


def image_folder(folder: str, *, classes: int, per_class: int, image_size: int, ending: str,
                 seed: int = 5) -> str:
  """Writes images as files `folder/CLASS/NUMBER.ENDING`, which compress as photos do.

  They are smooth patterns with some noise.

  Args:
    folder: to be made.
    classes: how many.
    per_class: images of each.
    image_size: side, pixels.
    ending: 'png' or 'jpg'.
    seed: of the random numbers.

  Returns:
    The folder.
  """
  rng, coarse = np.random.default_rng(seed), max(2, image_size // 8)
  for i in range(classes):
    os.makedirs(os.path.join(folder, f'class{i:03d}'))
    for j in range(per_class):
      small = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), np.uint8))
      smooth = small.resize((image_size, image_size), Image.Resampling.BICUBIC)
      # Signed and wider than a byte, as noise may leave its range.
      noisy = np.asarray(smooth, np.int16) + rng.integers(-8, 9, (image_size, image_size, 3))
      image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
      image.save(os.path.join(folder, f'class{i:03d}', f'{j:04d}.{ending}'))
  return folder
