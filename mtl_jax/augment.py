"""Augmentation and normalisation: pure functions of a key, on the device, on uint8 images."""
import jax
import jax.numpy as jnp

from mtl_jax.types import Array, Episode, Normalization, TaskKeys


def random_crop(key: Array, images: Array, padding: int) -> jax.Array:
  """Pads with zeros on every side and crops back at a random place, another for each image.

  Args:
    key: consumed.
    images: [B, H, W, C].
    padding: pixels on each side; 0 returns the images as they are.

  Returns:
    [B, H, W, C], of the same dtype.
  """
  if padding == 0:
    return jnp.asarray(images)
  batch, height, width, _ = images.shape
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

  def crop(image, offset):
    corner = (offset[0], offset[1], 0)
    return jax.lax.dynamic_slice(image, corner, (height, width, image.shape[2]))

  return jax.vmap(crop)(padded, offsets)


def random_flip(key: Array, images: Array) -> jax.Array:
  """Mirrors each image left to right with probability 1/2.

  Args:
    key: consumed.
    images: [B, H, W, C].

  Returns:
    [B, H, W, C], of the same dtype.
  """
  mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def quarter_turns(images: Array) -> tuple[jax.Array, jax.Array]:
  """Turns the first quarter of a batch by 0, the second by 90, then by 180 and 270 degrees.

  A batch comes in random order, so no random number is needed.

  Args:
    images: [B, H, W, C] with H = W.

  Returns:
    (images [B, H, W, C], number of quarter turns int32 [B]).

  Raises:
    ValueError: the images are not square.
  """
  batch, height, width, _ = images.shape
  if height != width:
    raise ValueError(f'expected square images to turn, got {height}x{width}')
  turns = jnp.arange(batch, dtype=jnp.int32) * 4 // batch
  bounds = [-(-k * batch // 4) for k in range(5)]
  parts = [jnp.rot90(images[bounds[k]:bounds[k + 1]], k, (1, 2)) for k in range(4)]
  return jnp.concatenate(parts), turns


def color_jitter(key: Array, images: Array, strength: float) -> jax.Array:
  """Changes brightness, contrast and saturation of each image at random.

  Each changes by a factor uniform in [1 - strength, 1 + strength]. Brightness scales all values;
  contrast scales their distance from the mean of the image; saturation that from the mean of the
  pixel's channels. In this order, then cut off at black and white.

  Args:
    key: consumed.
    images: uint8 [B, H, W, C].
    strength: in [0, 1]; 0 returns the images as they are.

  Returns:
    uint8 [B, H, W, C].
  """
  if strength == 0:
    return jnp.asarray(images)
  shape = (3, images.shape[0], 1, 1, 1)
  factors = jax.random.uniform(key, shape, minval=1 - strength, maxval=1 + strength)
  x = images * factors[0]
  for factor, axes in ((factors[1], (1, 2, 3)), (factors[2], (3,))):
    mean = jnp.mean(x, axis=axes, keepdims=True)
    x = (x - mean) * factor + mean
  return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def crop_and_flip(key: Array, images: Array, *, padding: int, flip: bool) -> jax.Array:
  """Applies the standard augmentation of pre-training: a random crop, then perhaps a random flip.

  Args:
    key: consumed.
    images: [B, H, W, C].
    padding: pixels on each side before the crop.
    flip: whether a mirrored image is still of its class.

  Returns:
    [B, H, W, C], of the same dtype.
  """
  crop_key, flip_key = jax.random.split(key)
  cropped = random_crop(crop_key, images, padding)
  return random_flip(flip_key, cropped) if flip else cropped


def normalize(images: Array, normalization: Normalization | None) -> jax.Array:
  """Maps bytes to zero mean and unit variance per channel: (x / 255 - mean) / std.

  Args:
    images: uint8 [B, H, W, C].
    normalization: mean and deviation of images / 255. None where a network has gone over the images
      already (`execution.frozen_prefix`): they come back as they are.

  Returns:
    float32 [B, H, W, C].

  Raises:
    ValueError: images that are not uint8, such as floats in [0, 1], which would be divided again.
  """
  if normalization is None:
    return jnp.asarray(images)
  if images.dtype != jnp.uint8:
    raise ValueError(f'expected uint8 images to normalise, got {images.dtype}')
  # Pixels x channels against channels: the axes in front are spelt out.
  mean, std = (jnp.asarray(moment, jnp.float32)[None, None, None] for moment in normalization)
  scale = 1 / (255 * std)
  return jnp.asarray(images).astype(jnp.float32) * scale - mean / std


def augment_tasks(keys: TaskKeys, tasks: Episode, normalization: Normalization | None, *,
                  padding: int, flip: bool) -> Episode:
  """Crops, flips and normalises the images of tasks, support and query apart.

  Args:
    keys: of the same tasks [tasks]; `augment_support` and `augment_query` are consumed.
    tasks: Episodes stacked along axis 0, with uint8 images.
    normalization: as in `normalize`.
    padding: pixels on each side before the crop.
    flip: whether a mirrored image is still of its class.

  Returns:
    The same Episodes with float32 images.
  """
  def augmented(key, images):
    return normalize(crop_and_flip(key, images, padding=padding, flip=flip), normalization)

  return tasks._replace(support=jax.vmap(augmented)(keys.augment_support, tasks.support),
                        query=jax.vmap(augmented)(keys.augment_query, tasks.query))
