"""Images larger than the device's memory: they stay on the host, and threads read ahead what the next steps need.

The draws of `episodes` run here on the CPU, from the keys that an in-memory run uses, so the same steps see the same
images, bit for bit. Each `..._reader` makes a pure function number -> arrays; `stream` calls it ahead of time. A stream
that starts at step t therefore gives what the unbroken stream gives from t on: resuming needs no stored state.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from mtl_jax import episodes
from mtl_jax.types import Episode, EpisodeIndices, ImagePool, Tree

T = TypeVar('T')


def stream(read: Callable[[int], T], numbers: Sequence[int], *, num_threads: int = 4, prefetch: int = 4,
           device: Any = None) -> Iterator[T]:
  """Reads ahead by threads: read(number) for each of `numbers`, in their order.

  Reading starts at once. At most prefetch + 2 values exist at a time: those read ahead, the one being handed over,
  and the one handed over last. A value of 2 tasks of 80 images of 84x84 pixels in colour has 3.4 MB.

  Args:
    read: called from several threads, which run side by side where it releases Python's lock, as NumPy does.
    numbers: of steps, tasks or chunks; a `range`, or those of its numbers that are wanted.
    num_threads: how many.
    prefetch: values read ahead; 0 reads each one when it is asked for, in the caller's thread.
    device: device or sharding that the threads put the values on, so that the transfer overlaps computing, too; None
      leaves them on the host.

  Returns:
    A generator; `close` ends it early, without waiting for what is being read.

  Raises:
    ValueError: `num_threads` or `prefetch` out of range.
    OSError: raised by the generator where `read` raised one, with the number; other errors come as they are.
  """
  for name, value, least in (('num_threads', num_threads, 1), ('prefetch', prefetch, 0)):
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
  import grain  # Here, since it defines flags of its own and a run in memory does without it.

  def one(number):
    try:
      value = read(int(number))
      return (value if device is None else jax.device_put(value, device)), None
    except Exception as error:  # Raised by the caller's thread: grain would add to its message and cut its traceback.
      return None, error

  options = grain.ReadOptions(num_threads=min(num_threads, prefetch), prefetch_buffer_size=prefetch)
  results = iter(grain.MapDataset.source(numbers).map(one).to_iter_dataset(options))
  results.start_prefetch()
  return _values(results, numbers)


def _values(results, numbers):
  try:
    for number, (value, error) in zip(numbers, results, strict=True):
      if isinstance(error, (OSError, StopIteration)):
        raise OSError(f'item {number} of the stream could not be read: {error}') from error
      if error is not None:
        raise error
      yield value
  finally:
    results.close()


def on_cpu(function: Callable[..., Tree], *arguments: Tree) -> Callable[[int], Tree]:
  """Compiles function(number, *arguments) for the CPU, so that a draw never waits for the accelerator.

  It is compiled here and now: threads that call it compile nothing, and an error in it shows at once.

  Args:
    function: pure, of arrays.
    *arguments: trees of arrays, fixed from now on.

  Returns:
    number -> tree of NumPy arrays; callable from any thread.
  """
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # JAX was told to leave the CPU alone.
    device = jax.local_devices()[0]
  arguments = jax.device_put(arguments, device)
  compiled = jax.jit(function).lower(np.int32(0), *arguments).compile()
  return lambda number: jax.tree.map(np.asarray, compiled(np.int32(number), *arguments))


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
    return images[indices.reshape(*indices.shape[:-2], -1)]  # np.take would copy a cropped pool first, all of it

  def labels(indices):
    of_class = np.arange(indices.shape[-2], dtype=np.int32)[:, None]
    return np.broadcast_to(of_class, indices.shape).reshape(*indices.shape[:-2], -1)

  support, query = drawn.indices[..., :shot], drawn.indices[..., shot:]
  return Episode(take(support), labels(support), take(query), labels(query), drawn.class_ids)


def ordinary_reader(root_key: jax.Array, pool: ImagePool, *, tasks: int, way: int, shot: int,
                    query: int) -> Callable[[int], Episode]:
  """Makes the reader of ordinary tasks of meta-training.

  Args:
    root_key: of the run; outer step t uses `fold_in(root_key, t)`.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    tasks: meta-batch size.
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.

  Returns:
    outer step -> Episodes stacked along axis 0 [tasks, ...], NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _on_host(pool)

  def draw(step, root_key, places):
    failures = np.zeros(places.class_sizes.shape, np.int32)
    return episodes.draw_meta_batch(jax.random.fold_in(root_key, step), places, failures, False, tasks=tasks, way=way,
                                    shot=shot, query=query)

  drawn = on_cpu(draw, root_key, places)
  return lambda step: read_episode(images, drawn(step), shot=shot)


def drawn_reader(pool: ImagePool, drawn: EpisodeIndices, *, shot: int) -> Callable[[int], Episode]:
  """Makes the reader of episodes that were drawn before: the hard tasks of a cycle.

  Args:
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    drawn: what `episodes.draw_hard` returned, stacked along axis 0; fetched from its device here, which waits for it.
    shot: K, support images per class.

  Returns:
    place along axis 0 of `drawn` -> Episodes, NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, _ = _on_host(pool)
  drawn = jax.tree.map(np.asarray, drawn)
  return lambda place: read_episode(images, jax.tree.map(lambda x: x[place], drawn), shot=shot)


def task_reader(keys: jax.Array, pool: ImagePool, *, way: int, shot: int, query: int) -> Callable[[int], Episode]:
  """Makes the reader of tasks of meta-test, one by one: `episodes.sample` of each key.

  Args:
    keys: [num_tasks], one per task.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.

  Returns:
    number of a task -> Episode of NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _on_host(pool)
  drawn = on_cpu(lambda i, keys, places: episodes.draw(keys[i], places, way=way, shot=shot, query=query), keys, places)
  return lambda i: read_episode(images, drawn(i), shot=shot)


def batch_reader(root_key: jax.Array, pool: ImagePool, *, batch_size: int) -> Callable[[int], tuple]:
  """Makes the reader of batches of pre-training.

  Args:
    root_key: of the run; step t uses `fold_in(root_key, t)`, of whose three keys the first draws, the others augment.
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    batch_size: B.

  Returns:
    step -> (images uint8 [B, H, W, C], labels int [B]), NumPy arrays.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
  """
  images, places = _on_host(pool)

  def draw(step, root_key, places):
    index_key, _, _ = jax.random.split(jax.random.fold_in(root_key, step), 3)
    return episodes.draw_batch(index_key, places, batch_size)

  drawn = on_cpu(draw, root_key, places)

  def read(step):
    indices, labels = drawn(step)
    return images[indices], labels

  return read


def chunk_reader(pool: ImagePool, *, size: int) -> tuple[Callable[[int], np.ndarray], range]:
  """Makes the reader of all images of a split, in order: what features are computed from once.

  Args:
    pool: uint8 images on the host (NumPy), in memory or mapped from a file.
    size: images per chunk; the last chunk may have fewer.

  Returns:
    (number of a chunk -> uint8 [size or fewer, H, W, C], the range of the numbers of all chunks).

  Raises:
    ValueError: `size` below 1; the images are no NumPy array, or not as many as the classes have.
  """
  if size < 1:
    raise ValueError(f'expected size of at least 1, got {size}')
  images, _ = _on_host(pool)
  # The copy makes the reading thread, not the caller, wait for the disk.
  return (lambda i: images[i * size:(i + 1) * size].copy()), range(-(-len(images) // size))


def without_images(pool: ImagePool) -> ImagePool:
  """Keeps the offsets and sizes, so that a pool can be an argument of compiled draws without its images.

  Args:
    pool: any.

  Returns:
    The pool with an empty tree in place of its images.
  """
  return pool._replace(images=())


def _on_host(pool: ImagePool) -> tuple[np.ndarray, ImagePool]:
  if not isinstance(pool.images, np.ndarray):
    raise ValueError(f'expected images as a NumPy array on the host, got {type(pool.images).__name__}')
  total = int(np.sum(pool.class_sizes))
  if len(pool.images) != total:
    raise ValueError(f'expected {total} images, the sum of class_sizes, got {len(pool.images)}')
  return np.asarray(pool.images), without_images(pool)  # a plain view of a np.memmap
