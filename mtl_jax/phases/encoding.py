"""Every image of a split encoded once, by running statistics: its features need no other image."""
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, learnable, sharding
from mtl_jax.types import Array, Backbone, BackboneVars, ImagePool, MetaParams, Normalization

# Encoding batch size at 84x84; scaled down for larger images to keep the pixel count.
IMAGES_PER_PASS = 200
_PIXELS_PER_PASS = IMAGES_PER_PASS * 84**2


def images_per_pass(height: int, width: int) -> int:
  """Returns how many images of that size are encoded at a time, so that their maps fit in memory.

  Args:
    height: pixels.
    width: pixels.

  Returns:
    IMAGES_PER_PASS up to 84x84 pixels; above, as many as have that many pixels, at least 1.

  >>> images_per_pass(32, 32), images_per_pass(84, 84), images_per_pass(224, 224)
  (200, 200, 28)
  """
  return max(1, min(IMAGES_PER_PASS, _PIXELS_PER_PASS // (height * width)))


def map_images(function: Callable[[Any], jax.Array], pool: ImagePool,
               batch_size: int | None = None, layout: sharding.Layout | None = None) -> ImagePool:
  """Applies a function to all images of a split, batch by batch.

  Args:
    function: uint8 images [B, H, W, C] -> what a network makes of them [B, ...].
    pool: uint8 images [n, H, W, C].
    batch_size: images per call; None for `images_per_pass`.
    layout: devices, each of which takes its part of the images; None for one device.

  Returns:
    A pool of what the function returned [n, ...], on each device, with nothing left to normalise.
  """
  images, total = sharding.local_images(pool.images, layout)
  batch_size = batch_size or images_per_pass(*images.shape[1:3])
  whole = len(images) // batch_size * batch_size
  parts = []
  if whole:
    batches = images[:whole].reshape(-1, batch_size, *images.shape[1:])
    mapped = jax.lax.map(function, batches)
    parts.append(mapped.reshape(whole, *mapped.shape[2:]))
  if whole < len(images):
    parts.append(function(images[whole:]))
  rows = sharding.all_gather_rows(jnp.concatenate(parts), total, layout)
  return pool._replace(images=rows, normalization=None)


def encode_images(network: BackboneVars, images: Array, normalization: Normalization | None, *,
                  backbone: Backbone) -> jax.Array:
  """Computes the features of images by running statistics.

  Args:
    network: as `learnable.network` returns it.
    images: uint8 [n, H, W, C].
    normalization: mean and deviation of images / 255.
    backbone: maps images to features [B, d].

  Returns:
    float32 [n, d].
  """
  normalized = augment.normalize(images, normalization)
  return backbone.features(network, normalized, batch_stats_mode='running')


def encode_batches(network: BackboneVars, batches: Iterable[np.ndarray],
                   normalization: Normalization | None, *, backbone: Backbone) -> np.ndarray:
  """Computes the features of images that come batch by batch, by running statistics.

  Args:
    network: as `learnable.network` returns it.
    batches: uint8 [B, H, W, C]; the last one may be shorter, and is padded, so that it compiles
      nothing anew.
    normalization: mean and deviation of images / 255.
    backbone: maps images to features [B, d].

  Returns:
    float32 [n, d], on the host.
  """
  encode = jax.jit(functools.partial(encode_images, normalization=normalization,
                                     backbone=backbone))
  parts, most = [], 0
  for batch in batches:
    most = max(most, len(batch))
    padded = np.pad(batch, ((0, most - len(batch)), (0, 0), (0, 0), (0, 0)))
    parts.append(np.asarray(encode(network, padded))[:len(batch)])
  return np.concatenate(parts)


def encode_pool(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, *,
                backbone: Backbone, batch_size: int | None = None,
                layout: sharding.Layout | None = None) -> ImagePool:
  """Computes the features of every image of a split once, by running statistics.

  Args:
    meta_params: what the outer loop has made of the network is read.
    backbone_vars: Θ.
    pool: uint8 images [n, H, W, C].
    backbone: maps images to features [B, d].
    batch_size: images per forward pass; None for `images_per_pass`.
    layout: devices, each of which encodes its part of the images (`sharding.per_device`); None for
      one device.

  Returns:
    The same pool with features float32 [n, d] in place of images, all of them on each device.
  """
  network = learnable.network(backbone_vars, meta_params)
  encode = functools.partial(encode_images, network, normalization=pool.normalization,
                             backbone=backbone)
  return map_images(encode, pool, batch_size, layout)
