"""The frozen lower part of a network, computed once: meta-training of the last block or of the classifier alone.

What the outer loop does not change, and no augmentation disturbs, gives the same maps for an image in every step. They
are computed once for all images of a split, and meta-training begins from them.
"""
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, sharding
from mtl_jax.execution import memory
from mtl_jax.phases import meta_test
from mtl_jax.types import Backbone, BackboneVars, Dataset, ImagePool


def cut(backbone: Backbone, config: Any) -> Backbone | None:
  """Gives the network as it is cut for a meta-training: `below` is computed once, `last` in every step.

  Args:
    backbone: the network.
    config: a MetaTrainConfig.

  Returns:
    The backbone, cut before its last block, or behind all of it where the classifier alone is learned and adapted;
    None where every image must pass the whole network in every step: it is learned or adapted below the last block,
    images are augmented, batch norm looks at the tasks at hand, or the network cannot be cut.
  """
  if config.crop_padding or config.flip or config.batch_stats_mode != 'running':
    return None
  if config.learn in ('none', 'head') and config.adapts == 'head' and not config.learn_temperature:
    return backbone._replace(below=functools.partial(backbone.features, batch_stats_mode='running'),
                             last=lambda backbone_vars, features: features)
  learned_at = {config.adapts} | ({config.scope} if config.learn in ('ss', 'ft') else set())
  return backbone if backbone.below is not None and learned_at <= {'head', 'last_block'} else None


def upper(backbone: Backbone, backbone_vars: BackboneVars) -> Backbone:
  """Gives what is left of the network above the cut.

  Args:
    backbone: as `cut` gives it.
    backbone_vars: Θ.

  Returns:
    A backbone that takes maps in place of images.
  """
  def features(backbone_vars, maps, *, batch_stats_mode):
    return backbone.last(backbone_vars, maps)

  shape = _maps(backbone, backbone_vars).shape[1:]
  return backbone._replace(features=features, image_shape=shape, below=None, last=None)


def fits(backbone: Backbone, backbone_vars: BackboneVars, *pools: ImagePool,
         layout: sharding.Layout | None = None) -> bool:
  """Tells whether the maps of all images take at most half of the memory of the device (of a CPU: of what is free).

  Args:
    backbone: as `cut` gives it.
    backbone_vars: Θ.
    *pools: uint8 images.
    layout: of the devices; simulated ones share one memory, with a copy in each.

  Returns:
    False too where the device does not tell its memory.
  """
  device = jax.local_devices()[0]
  limit = memory.free_host_bytes() if device.platform == 'cpu' else memory.device_bytes(device)
  maps = _maps(backbone, backbone_vars)
  per_pass = meta_test.images_per_pass(*pools[0].images.shape[1:3])
  # A rest is joined to whole passes, and for that moment the maps of that pool are there twice.
  sizes = [len(pool.images) for pool in pools]
  images = sum(sizes) + max((size for size in sizes if size > per_pass and size % per_pass), default=0)
  copies = jax.local_device_count() + 1 if layout is not None and device.platform == 'cpu' else 1
  return limit is not None and copies * images * maps.size * maps.dtype.itemsize <= limit / 2


def is_exact(backbone: Backbone, backbone_vars: BackboneVars) -> bool:
  """Tells whether the two parts are the network; they are not where a path leads around the last block.

  Args:
    backbone: as `cut` gives it.
    backbone_vars: Θ.

  Returns:
    Whether both give the same features of random images, to rounding.
  """
  images = jax.random.normal(jax.random.key(0), (2, *backbone.image_shape))
  whole = jax.jit(lambda v, x: backbone.features(v, x, batch_stats_mode='running'))(backbone_vars, images)
  parts = jax.jit(lambda v, x: backbone.last(v, backbone.below(v, x)))(backbone_vars, images)
  return bool(np.allclose(whole, parts, rtol=1e-4, atol=1e-5 * np.abs(whole).max()))


def compute(backbone: Backbone, backbone_vars: BackboneVars, dataset: Dataset, *,
            layout: sharding.Layout | None = None) -> Dataset:
  """Computes the maps of all training and validation images; of several devices one does it, in each process.

  Args:
    backbone: as `cut` gives it.
    backbone_vars: Θ, on the host or on one device.
    dataset: uint8 images.
    layout: of the devices that are to use them.

  Returns:
    The data set with maps in place of images, and with nothing left to normalise: for `upper`. They are on the
    device, or on the host where several devices are to have them.
  """
  @jax.jit
  def encode(backbone_vars, pool):
    return meta_test.map_images(
        lambda images: backbone.below(backbone_vars, augment.normalize(images, dataset.mean, dataset.std)), pool)

  train, val = (encode(backbone_vars, jax.tree.map(jnp.asarray, pool)) for pool in (dataset.train, dataset.val))
  if layout is not None:
    train, val = jax.device_get((train, val))
  return dataset._replace(train=train, val=val, mean=None, std=None)


def _maps(backbone, backbone_vars):
  """Shape and type of the maps of one image."""
  one = jax.ShapeDtypeStruct((1, *backbone.image_shape), jnp.float32)
  return jax.eval_shape(backbone.below, backbone_vars, one)
