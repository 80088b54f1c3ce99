"""Readers of images that stay on the host: each is a pure function of a number, for `read_ahead`.

The draws of `episodes` run here on the CPU, from the keys that an in-memory run uses, so the same
steps see the same images, bit for bit.
"""
from collections.abc import Callable

import jax
import numpy as np

from mtl_jax import episodes
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig
from mtl_jax.execution.read_ahead import on_cpu
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.types import Array, Episode, EpisodeIndices, ImagePool


def read_episode(images: np.ndarray, drawn: EpisodeIndices, *, shot: int) -> Episode:
  """Reads the images of drawn episodes from host memory: `episodes.gather` in NumPy.

  Args:
    images: uint8 [n, H, W, C], in memory or mapped from a file.
    drawn: one EpisodeIndices of NumPy arrays, or several stacked along leading axes.
    shot: K, how many of each class are support.

  Returns:
    An Episode of NumPy arrays, or several stacked alike.
  """
  def take(indices):
    # Fancy indexing: np.take would first copy a cropped pool, all of it.
    return images[indices.reshape(*indices.shape[:-2], -1)]

  def labels(indices):
    of_class = np.arange(indices.shape[-2], dtype=np.int32)[:, None]
    return np.broadcast_to(of_class, indices.shape).reshape(*indices.shape[:-2], -1)

  support, query = drawn.indices[..., :shot], drawn.indices[..., shot:]
  return Episode(take(support), labels(support), take(query), labels(query), drawn.class_ids)


def ordinary_tasks(root_key: Array, pool: ImagePool,
                   config: MetaTrainConfig) -> Callable[[int], Episode]:
  """Makes the reader of ordinary tasks of meta-training.

  Args:
    root_key: of the run; outer step t uses `meta_train.task_keys(root_key, t, config)`.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    config: meta-batch, way, shot and query.

  Returns:
    outer step -> Episodes stacked along axis 0 [meta_batch, ...], NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _split_pool(pool)

  def draw(step, root_key, places):
    failures = np.zeros(places.class_sizes.shape, np.int32)
    keys = meta_train.task_keys(root_key, step, config)
    return episodes.draw_meta_batch(keys, places, failures, False, way=config.way,
                                    shot=config.shot, query=config.query)

  drawn = on_cpu(draw, root_key, places)
  return lambda step: read_episode(images, drawn(step), shot=config.shot)


def draw_hard_tasks(root_key: Array, places: ImagePool, failures: Array, steps: Array, *,
                    config: MetaTrainConfig) -> EpisodeIndices:
  """Draws which images make the hard tasks of several outer steps at once.

  It is to run on the device that holds `failures`, so that only indices are fetched. Classes are
  weighted by logarithms, whose last bit may differ between a CPU and an accelerator: on the
  device of an in-memory run they are drawn as in that run.

  Args:
    root_key: of the run; outer step t uses `meta_train.task_keys(root_key, t, config)`.
    places: a pool without images.
    failures: int [classes], the multiset of failure classes.
    steps: int [T], numbers of the outer steps.
    config: meta-batch, way, shot and query.

  Returns:
    EpisodeIndices stacked along axes 0 and 1 [T, meta_batch, ...].
  """
  def one_step(step):
    keys = meta_train.task_keys(root_key, step, config)
    return episodes.draw_meta_batch(keys, places, failures, True, way=config.way,
                                    shot=config.shot, query=config.query)

  return jax.vmap(one_step)(steps)


def drawn_tasks(pool: ImagePool, drawn: EpisodeIndices, *, shot: int) -> Callable[[int], Episode]:
  """Makes the reader of episodes that were drawn before: the hard tasks of a cycle.

  Args:
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    drawn: as `draw_hard_tasks` returns it; fetched from its device here, which waits for it.
    shot: K, support images per class.

  Returns:
    place along axis 0 of `drawn` -> Episodes, NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, _ = _split_pool(pool)
  drawn = jax.tree.map(np.asarray, drawn)

  def read(place):
    return read_episode(images, jax.tree.map(lambda x: x[place], drawn), shot=shot)

  return read


def meta_test_tasks(keys: Array, pool: ImagePool,
                    config: MetaTestConfig) -> Callable[[int], Episode]:
  """Makes the reader of tasks of meta-test, one by one: `episodes.sample` of each key.

  Args:
    keys: [num_tasks], one per task.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    config: way, shot and query.

  Returns:
    number of a task -> Episode of NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _split_pool(pool)

  def draw(number, keys, places):
    return episodes.draw(keys[number], places, way=config.way, shot=config.shot,
                         query=config.query)

  drawn = on_cpu(draw, keys, places)
  return lambda number: read_episode(images, drawn(number), shot=config.shot)


def batches(root_key: Array, pool: ImagePool, *,
            batch_size: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
  """Makes the reader of batches of pre-training.

  Args:
    root_key: of the run; step t uses `pretrain.batch_keys(root_key, t)`.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    batch_size: B.

  Returns:
    step -> (images uint8 [B, H, W, C], labels int [B]), NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _split_pool(pool)

  def draw(step, root_key, places):
    return episodes.draw_batch(pretrain.batch_keys(root_key, step).indices, places, batch_size)

  drawn = on_cpu(draw, root_key, places)

  def read(step):
    indices, labels = drawn(step)
    return images[indices], labels

  return read


def chunks(pool: ImagePool, *, size: int, named: np.ndarray | None = None
           ) -> tuple[Callable[[int], np.ndarray], range]:
  """Makes the reader of the images of a split, in order: what features are computed from once.

  Args:
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    size: images per chunk; the last chunk may have fewer.
    named: int [k], places of those images that are wanted; None for all of them.

  Returns:
    (number of a chunk -> uint8 [size or fewer, H, W, C], the range of the numbers of all chunks).

  Raises:
    ValueError: `size` below 1; the images are no NumPy array, or not as many as the classes have.
  """
  if size < 1:
    raise ValueError(f'expected size of at least 1, got {size}')
  images, _ = _split_pool(pool)

  def read(number):
    part = slice(number * size, (number + 1) * size)
    # The copy makes the reading thread, not the caller, wait for the disk.
    return images[part].copy() if named is None else images[named[part]]

  return read, range(-(-len(images if named is None else named) // size))


def without_images(pool: ImagePool) -> ImagePool:
  """Returns the pool with an empty tree for images, so that it may be an argument of a draw.

  Args:
    pool: of any arrays.
  """
  return pool._replace(images=())


def _split_pool(pool: ImagePool) -> tuple[np.ndarray, ImagePool]:
  """The images on the host, and the pool without them."""
  if not isinstance(pool.images, np.ndarray):
    raise ValueError('expected images as a NumPy array on the host, got '
                     f'{type(pool.images).__name__}')
  total = int(np.sum(pool.class_sizes))
  if len(pool.images) != total:
    raise ValueError(f'expected {total} images, the sum of class_sizes, got {len(pool.images)}')
  # np.asarray makes a plain view of a np.memmap, whose indexing is slower.
  return np.asarray(pool.images), without_images(pool)
