"""Augmentation and normalisation: pure functions of a key, on the device, on uint8 images."""
import jax
import jax.numpy as jnp

from mtl_jax import sharding
from mtl_jax.types import Episode


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
  """Pads with zeros on every side and crops back at a random place, another for each image.

  Args:
    key: consumed.
    images: [B, H, W, C].
    padding: pixels on each side; 0 returns the images as they are.

  Returns:
    [B, H, W, C], of the same dtype.
  """
  if padding == 0:
    return images
  batch, height, width, _ = images.shape
  padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  offsets = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

  def crop(image, offset):
    return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, image.shape[2]))

  return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
  """Mirrors each image left to right with probability 1/2.

  Args:
    key: consumed.
    images: [B, H, W, C].

  Returns:
    [B, H, W, C], of the same dtype.
  """
  mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def quarter_turns(images: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Turns the first quarter of a batch by 0, the second by 90, the third by 180 and the last by 270 degrees.

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
  parts = [jnp.rot90(images[-(-k * batch // 4):-(-(k + 1) * batch // 4)], k, (1, 2)) for k in range(4)]
  return jnp.concatenate(parts), turns


def color_jitter(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
  """Changes brightness, contrast and saturation of each image by factors uniform in [1 - strength, 1 + strength].

  Brightness scales all values; contrast scales their distance from the mean of the image; saturation that from the
  mean of the pixel's channels. In this order, then cut off at black and white.

  Args:
    key: consumed.
    images: uint8 [B, H, W, C].
    strength: in [0, 1]; 0 returns the images as they are.

  Returns:
    uint8 [B, H, W, C].
  """
  if strength == 0:
    return images
  factors = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1), minval=1 - strength, maxval=1 + strength)
  x = images * factors[0]
  for factor, axes in ((factors[1], (1, 2, 3)), (factors[2], (3,))):
    mean = jnp.mean(x, axis=axes, keepdims=True)
    x = (x - mean) * factor + mean
  return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def crop_and_flip(key: jax.Array, images: jax.Array, *, padding: int, flip: bool) -> jax.Array:
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
  images = random_crop(crop_key, images, padding)
  return random_flip(flip_key, images) if flip else images


def normalize(images: jax.Array, mean: jax.Array | None, std: jax.Array | None) -> jax.Array:
  """Maps bytes to zero mean and unit variance per channel: (x / 255 - mean) / std.

  Args:
    images: uint8 [B, H, W, C].
    mean: [C], in [0, 1]; None where a network has gone over the images already (`mtl_jax.execution.frozen_prefix`), and nothing is
      left to do.
    std: [C], in [0, 1], or None.

  Returns:
    float32 [B, H, W, C].
  """
  if mean is None:
    return images
  scale = 1 / (255 * jnp.asarray(std, jnp.float32))
  return images.astype(jnp.float32) * scale - jnp.asarray(mean, jnp.float32) / jnp.asarray(std, jnp.float32)


def augment_tasks(key: jax.Array, tasks: Episode, mean: jax.Array, std: jax.Array, *, padding: int,
                  flip: bool, layout: sharding.Layout | None = None) -> Episode:
  """Crops, flips and normalises the images of one meta-batch, support and query apart.

  Args:
    key: of the outer step, as `episodes.draw_meta_batch` takes it: that uses the first two of the four keys of each
      task, this the other two.
    tasks: Episodes stacked along axis 0, with uint8 images.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    padding: pixels on each side before the crop.
    flip: whether a mirrored image is still of its class.
    layout: of the devices, where `tasks` are those of one of several; None: they are all.

  Returns:
    The same Episodes with float32 images.
  """
  def one_task(key, task):
    _, _, support_key, query_key = jax.random.split(key, 4)
    support, query = (normalize(crop_and_flip(k, images, padding=padding, flip=flip), mean, std)
                      for k, images in ((support_key, task.support_images), (query_key, task.query_images)))
    return task._replace(support_images=support, query_images=query)

  num_tasks = tasks.class_ids.shape[0] * (1 if layout is None else layout.size)
  return jax.vmap(one_task)(sharding.own(jax.random.split(key, num_tasks), layout), tasks)
