"""Episodes: N-way K-shot tasks drawn from a key, out of an `ImagePool`.

`draw` decides which images, `gather` fetches them, `sample` does both. Drawing needs only the
offsets and sizes of the classes, so the same functions draw from images on the device, from
features that were computed once per image, and from images that stay in host memory
(`execution.read_ahead`).
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import checks, hard_tasks
from mtl_jax.types import Array, Episode, EpisodeIndices, ImagePool, TaskKeys


def check_episode(pool: ImagePool, *, way: int, shot: int, query: int, split: str) -> None:
  """Refuses an episode that a pool cannot give; for use on the host before anything compiles.

  Args:
    pool: the images of one split.
    way: N, classes per episode.
    shot: K, support images per class.
    query: Q, query images per class.
    split: name of the split, for the message.

  Raises:
    ValueError: too few classes, too few images in the smallest class, or a number below its least.
  """
  sizes = np.asarray(pool.class_sizes)
  for name, value, least in (('way', way, 2), ('shot', shot, 1), ('query', query, 1)):
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
  if way > len(sizes):
    raise ValueError(f'expected way of at most {len(sizes)}, the number of classes of the {split} '
                     f'split, got {way}')
  if shot + query > sizes.min():
    raise ValueError(f'expected shot + query of at most {sizes.min()}, the images of the smallest '
                     f'class of the {split} split, got {shot} + {query} = {shot + query}')


def draw_classes(key: Array, num_classes: int, way: int) -> jax.Array:
  """Draws the classes of an ordinary task: `way` of `num_classes`, distinct, in random order.

  Args:
    key: consumed.
    num_classes: number of classes of the pool.
    way: N.

  Returns:
    int32 [N].

  Raises:
    ValueError: there are fewer than `way` classes.
  """
  if way > num_classes:
    raise ValueError(f'expected way of at most {num_classes}, the number of classes, got {way}')
  return jax.random.permutation(key, num_classes)[:way].astype(jnp.int32)


def draw_images(key: Array, class_size: Array, num: int) -> jax.Array:
  """Draws `num` distinct images of a class, uniform over ordered choices.

  The i-th draw takes the r-th of the images still left, r uniform in [0, class_size - i): exact for
  any class size, which may be traced, with no work in proportion to it.

  Args:
    key: consumed.
    class_size: int [], images of the class; at least `num`.
    num: how many to draw.

  Returns:
    int32 [num], each in [0, class_size); beyond it where a traced size is below `num`.

  Raises:
    ValueError: a known size below `num`.
  """
  checks.at_least('class_size', class_size, num)
  ranks = jax.random.randint(key, (num,), 0, class_size - jnp.arange(num))

  def draw_one(i, state):
    # `taken` holds the images drawn so far in rising order, then a filler beyond all of them.
    drawn, taken = state
    chosen = ranks[i] + jnp.sum(taken - jnp.arange(num) <= ranks[i])
    chosen = chosen.astype(jnp.int32)  # as the carry, under 64 bits too
    return drawn.at[i].set(chosen), jnp.sort(taken.at[num - 1].set(chosen))

  empty = jnp.full((num,), 2 * class_size, jnp.int32)
  drawn, _ = jax.lax.fori_loop(0, num, draw_one, (jnp.zeros((num,), jnp.int32), empty))
  return drawn


def draw_indices(key: Array, pool: ImagePool, class_ids: Array, per_class: int) -> jax.Array:
  """Draws distinct images of each given class.

  Args:
    key: consumed.
    pool: only its offsets and sizes are read.
    class_ids: int [N].
    per_class: how many images of each class.

  Returns:
    int32 [N, per_class], indices into the pool's images.
  """
  offsets, sizes = jnp.asarray(pool.class_offsets), jnp.asarray(pool.class_sizes)
  keys = jax.random.split(key, class_ids.shape[0])
  within = jax.vmap(draw_images, (0, 0, None))(keys, sizes[class_ids], per_class)
  return offsets[class_ids][:, None] + within


def draw(key: Array, pool: ImagePool, *, way: int, shot: int, query: int,
         class_ids: Array | None = None) -> EpisodeIndices:
  """Draws which images make one N-way K-shot episode; support and query never share an image.

  Args:
    key: consumed; the same key draws the same images on any device.
    pool: only its offsets and sizes are read; at least shot + query images in each class
      (`check_episode` makes sure of it; sizes may be traced).
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.
    class_ids: int [N], to fix the classes (hard tasks); None draws them uniformly.

  Returns:
    An EpisodeIndices.

  Raises:
    ValueError: `way` exceeds the classes, or `class_ids` is not of shape [way]; of known values,
      `class_ids` that repeat or that no class has, or too few images in a class. Of traced ones
      such an episode would have images of the next class.
  """
  _check_drawn(pool, shot + query, class_ids)
  class_key, image_key = jax.random.split(key)
  if class_ids is None:
    class_ids = draw_classes(class_key, pool.class_sizes.shape[0], way)
  if class_ids.shape != (way,):
    raise ValueError(f'expected class_ids of shape ({way},), got {class_ids.shape}')
  indices = draw_indices(image_key, pool, class_ids, shot + query)
  return EpisodeIndices(indices, jnp.asarray(class_ids, jnp.int32))


def split_task_keys(key: Array, num_tasks: int) -> TaskKeys:
  """Splits the key of one outer step into those of its tasks.

  Args:
    key: consumed.
    num_tasks: meta-batch size.

  Returns:
    TaskKeys stacked along axis 0 [num_tasks].
  """
  return jax.vmap(TaskKeys.split)(jax.random.split(key, num_tasks))


def draw_meta_batch(keys: TaskKeys, pool: ImagePool, failures: Array, hard: Array | bool, *,
                    way: int, shot: int, query: int) -> EpisodeIndices:
  """Draws which images make the ordinary or hard tasks of one outer step.

  Args:
    keys: of the tasks [tasks]; `classes` and `images` are consumed.
    pool: only its offsets and sizes are read.
    failures: int [classes], the multiset of failure classes.
    hard: bool [], draw the classes from `failures`.
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.

  Returns:
    EpisodeIndices stacked along axis 0 [tasks, ...].
  """
  def one_task(class_key, image_key):
    class_ids = jax.lax.cond(
        hard, lambda key: hard_tasks.draw_hard_classes(key, failures, way),
        lambda key: draw_classes(key, failures.shape[0], way), class_key)
    return draw(image_key, pool, way=way, shot=shot, query=query, class_ids=class_ids)

  return jax.vmap(one_task)(keys.classes, keys.images)


def draw_batch(key: Array, pool: ImagePool, batch_size: int) -> tuple[jax.Array, jax.Array]:
  """Draws images of all classes alike, with replacement: one batch of pre-training.

  Args:
    key: consumed.
    pool: only its offsets and sizes are read.
    batch_size: B.

  Returns:
    (int [B], indices into the pool's images; int [B], the class of each).
  """
  offsets, sizes = jnp.asarray(pool.class_offsets), jnp.asarray(pool.class_sizes)
  indices = jax.random.randint(key, (batch_size,), 0, offsets[-1] + sizes[-1])
  return indices, jnp.searchsorted(offsets, indices, side='right') - 1


def gather(fetch: Callable[[jax.Array], jax.Array], drawn: EpisodeIndices, *, shot: int) -> Episode:
  """Fetches the images of one drawn episode.

  Args:
    fetch: indices int [k] into the pool's images -> those images [k, ...].
    drawn: what `draw` returned.
    shot: K, how many of each class are support.

  Returns:
    An Episode of N*K support and N*Q query images, class after class.
  """
  way, per_class = drawn.indices.shape
  labels = jnp.arange(way, dtype=jnp.int32)
  indices = jnp.asarray(drawn.indices)
  return Episode(
      support=fetch(indices[:, :shot].reshape(-1)),
      support_labels=jnp.repeat(labels, shot),
      query=fetch(indices[:, shot:].reshape(-1)),
      query_labels=jnp.repeat(labels, per_class - shot),
      class_ids=drawn.class_ids)


def sample(key: Array, pool: ImagePool, *, way: int, shot: int, query: int,
           class_ids: Array | None = None) -> Episode:
  """Draws one N-way K-shot episode; support and query never share an image.

  Args:
    key: consumed; the same key gives the same episode on any device.
    pool: images uint8 [n, H, W, C] (or features [n, d]), sorted by class, with at least
      shot + query images in each class (`check_episode` makes sure of it; sizes are traced here).
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.
    class_ids: int [N], to fix the classes (hard tasks); None draws them uniformly.

  Returns:
    An Episode of N*K support and N*Q query images, class after class.

  Raises:
    ValueError: as `draw`; of known values, classes beyond the images of the pool.
  """
  _check_drawn(pool, shot + query, class_ids)
  _check_places(pool)
  pool = pool._replace(images=jnp.asarray(pool.images), normalization=None)
  return _sample(key, pool, class_ids, way=way, shot=shot, query=query)


def _check_drawn(pool, per_class, class_ids):
  """Refuses known sizes and classes that an episode cannot be drawn from."""
  if class_ids is not None:
    checks.labels('class_ids', class_ids, pool.class_sizes.shape[0])
    checks.distinct('class_ids', class_ids)
  ids = None if class_ids is None else checks.known(class_ids)
  sizes = checks.known(pool.class_sizes)
  if sizes is None or (class_ids is not None and ids is None):
    return
  smallest = (sizes if ids is None else sizes[ids]).min(initial=np.iinfo(np.int32).max)
  if per_class > smallest:
    raise ValueError(f'expected shot + query of at most {smallest}, the images of the smallest '
                     f'class, got {per_class}')


def _check_places(pool):
  """Refuses known classes that do not lie one after the other among the images."""
  offsets, sizes = checks.known(pool.class_offsets), checks.known(pool.class_sizes)
  if offsets is None or sizes is None:
    return
  ends = np.cumsum(sizes)
  if offsets.shape != sizes.shape or (offsets != ends - sizes).any() or ends[-1] > len(pool.images):
    raise ValueError(f'expected class_offsets and class_sizes that divide {len(pool.images)} '
                     'images one class after the other')


def _sample_one(key, pool, class_ids, *, way, shot, query):
  drawn = draw(key, pool, way=way, shot=shot, query=query, class_ids=class_ids)
  # Drawn indices are in range; saying so to the compiler spares a bounds check per element.
  return gather(lambda indices: pool.images.at[indices].get(mode='promise_in_bounds'), drawn,
                shot=shot)


_sample = checks.jit(_sample_one, static_argnames=('way', 'shot', 'query'))
