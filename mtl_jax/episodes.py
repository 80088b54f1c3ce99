"""Episodes: N-way K-shot tasks drawn on the device, from a key, out of an `ImagePool`.

Drawing needs only the offsets and sizes of the classes, so the same functions draw from images and from features
that were computed once per image.
"""
import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.types import Episode, ImagePool


def check(pool: ImagePool, *, way: int, shot: int, query: int, split: str) -> None:
  """Refuses an episode that a pool cannot give; for use on the host before anything compiles.

  Args:
    pool: the images of one split.
    way: N, classes per episode.
    shot: K, support images per class.
    query: Q, query images per class.
    split: name of the split, for the message.

  Raises:
    ValueError: too few classes, or too few images in the smallest class.
  """
  sizes = np.asarray(pool.class_sizes)
  for name, value, least in (('way', way, 2), ('shot', shot, 1), ('query', query, 1)):
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
  if way > len(sizes):
    raise ValueError(f'expected way of at most {len(sizes)}, the number of classes of the {split} split, got {way}')
  if shot + query > sizes.min():
    raise ValueError(f'expected shot + query of at most {sizes.min()}, the images of the smallest class of the '
                     f'{split} split, got {shot} + {query} = {shot + query}')


def draw_classes(key: jax.Array, num_classes: int, way: int) -> jax.Array:
  """Draws the classes of an ordinary task: `way` of `num_classes`, distinct, uniform, in random order.

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


def draw_images(key: jax.Array, class_size: jax.Array, num: int) -> jax.Array:
  """Draws `num` distinct images of a class, uniform over ordered choices.

  The i-th draw takes the r-th of the images still left, r uniform in [0, class_size - i): exact for any class size,
  which may be traced, with no work in proportion to it.

  Args:
    key: consumed.
    class_size: int [], images of the class; at least `num`.
    num: how many to draw.

  Returns:
    int32 [num], each in [0, class_size).
  """
  ranks = jax.random.randint(key, (num,), 0, class_size - jnp.arange(num))

  def draw(i, state):
    drawn, taken = state  # taken: the images drawn so far in rising order, then a filler beyond all
    chosen = ranks[i] + jnp.sum(taken - jnp.arange(num) <= ranks[i])
    return drawn.at[i].set(chosen), jnp.sort(taken.at[num - 1].set(chosen))

  empty = jnp.full((num,), 2 * class_size, jnp.int32)
  drawn, _ = jax.lax.fori_loop(0, num, draw, (jnp.zeros((num,), jnp.int32), empty))
  return drawn


def draw_indices(key: jax.Array, pool: ImagePool, class_ids: jax.Array, per_class: int) -> jax.Array:
  """Draws distinct images of each given class.

  Args:
    key: consumed.
    pool: only its offsets and sizes are read.
    class_ids: int [N].
    per_class: how many images of each class.

  Returns:
    int32 [N, per_class], indices into the pool's images.
  """
  keys = jax.random.split(key, class_ids.shape[0])
  within = jax.vmap(draw_images, (0, 0, None))(keys, pool.class_sizes[class_ids], per_class)
  return pool.class_offsets[class_ids][:, None] + within


def sample(key: jax.Array, pool: ImagePool, *, way: int, shot: int, query: int,
           class_ids: jax.Array | None = None) -> Episode:
  """Draws one N-way K-shot episode; support and query never share an image.

  Args:
    key: consumed; the same key gives the same episode on any device.
    pool: images uint8 [n, H, W, C] (or [n, d] features), sorted by class, with at least shot + query images in
      each class (`check` makes sure of it; sizes are traced here).
    way: N.
    shot: K, support images per class.
    query: Q, query images per class.
    class_ids: int [N], to fix the classes (hard tasks); None draws them uniformly.

  Returns:
    An Episode of N*K support and N*Q query images, class after class.

  Raises:
    ValueError: `way` exceeds the classes, or `class_ids` is not of shape [way].
  """
  pool = jax.tree.map(jnp.asarray, pool)
  class_key, image_key = jax.random.split(key)
  if class_ids is None:
    class_ids = draw_classes(class_key, pool.class_sizes.shape[0], way)
  if class_ids.shape != (way,):
    raise ValueError(f'expected class_ids of shape ({way},), got {class_ids.shape}')
  indices = draw_indices(image_key, pool, class_ids, shot + query)
  labels = jnp.arange(way, dtype=jnp.int32)
  return Episode(
      support_images=_take(pool.images, indices[:, :shot]),
      support_labels=jnp.repeat(labels, shot),
      query_images=_take(pool.images, indices[:, shot:]),
      query_labels=jnp.repeat(labels, query),
      class_ids=class_ids.astype(jnp.int32))


def _take(images, indices):
  # Indices are in range by construction; saying so spares a bounds check per element.
  return images.at[indices.reshape(-1)].get(mode='promise_in_bounds')
