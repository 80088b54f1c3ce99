"""The frozen lower part of a network, computed once: for meta-training of what lies above it.

What the outer loop does not change, and no augmentation disturbs, gives the same maps for an image
in every step. They are computed once for all images of a split, and meta-training of the last block
or of the classifier alone begins from them.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, sharding
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.execution import memory
from mtl_jax.phases import encoding
from mtl_jax.types import Backbone, BackboneVars, Cut, Dataset, ImagePool


def find_cut(backbone: Backbone, config: MetaTrainConfig) -> Cut | None:
  """Finds where a network can be cut for a meta-training.

  Args:
    backbone: may know a cut before its last block.
    config: what is augmented, learned and adapted.

  Returns:
    The cut before the last block, or behind all of the network where the classifier alone is
    learned and adapted. None where every image must pass the whole network in every step: it is
    learned or adapted below the last block, images are augmented, batch norm looks at the tasks at
    hand, or the network cannot be cut.
  """
  inner, learn = config.inner, config.learn
  if config.crop_padding or config.flip or inner.batch_stats_mode != 'running':
    return None
  head_alone = learn.learn in ('none', 'head') and inner.adapts == 'head'
  if head_alone and not learn.temperature:
    return Cut(functools.partial(backbone.features, batch_stats_mode='running'),
               lambda backbone_vars, features: features)
  learned_at = {inner.adapts} | ({learn.scope} if learn.learn in ('ss', 'ft', 'affine') else set())
  return backbone.cut if learned_at <= {'head', 'last_block'} else None


def upper_part(backbone: Backbone, cut: Cut, backbone_vars: BackboneVars) -> Backbone:
  """Returns what is left of the network above a cut.

  Args:
    backbone: the whole network.
    cut: as `find_cut` returns it.
    backbone_vars: Θ.

  Returns:
    A backbone that takes maps in place of images.
  """
  def features_by(last):
    def features(backbone_vars, maps, *, batch_stats_mode):
      return last(backbone_vars, maps)
    return features

  shape = _maps(cut, backbone, backbone_vars).shape[1:]
  upper = backbone._replace(features=features_by(cut.last), image_shape=shape, cut=None,
                            by_patches=None)
  twin = backbone.by_patches
  if cut is not backbone.cut or twin is None or twin.cut is None:
    return upper
  return upper._replace(by_patches=upper._replace(features=features_by(twin.cut.last)))


def fits(cut: Cut, backbone: Backbone, backbone_vars: BackboneVars, *pools: ImagePool,
         layout: sharding.Layout | None = None) -> bool:
  """Whether the maps of all images take at most half of the memory there is.

  Args:
    cut: as `find_cut` returns it.
    backbone: the whole network.
    backbone_vars: Θ.
    *pools: uint8 images.
    layout: devices of the run; simulated ones share one memory, with a copy in each.

  Returns:
    Whether they fit into the device (a CPU: into what is free); False where that is unknown.
  """
  device = jax.local_devices()[0]
  is_cpu = device.platform == 'cpu'
  limit = memory.free_host_bytes() if is_cpu else memory.device_bytes(device)
  maps = _maps(cut, backbone, backbone_vars)
  per_pass = encoding.images_per_pass(*pools[0].images.shape[1:3])
  sizes = [len(pool.images) for pool in pools]
  # The last, smaller pass is joined to the whole ones; for that moment the maps of its pool are
  # there twice.
  joined = [size for size in sizes if size > per_pass and size % per_pass]
  images = sum(sizes) + max(joined, default=0)
  copies = jax.local_device_count() + 1 if layout is not None and is_cpu else 1
  needed = copies * images * maps.size * maps.dtype.itemsize
  return limit is not None and needed <= limit / 2


def is_exact(cut: Cut, backbone: Backbone, backbone_vars: BackboneVars) -> bool:
  """Whether last(below(x)) equals features(x); False if a skip connection bypasses the last block.

  Args:
    cut: as `find_cut` returns it.
    backbone: the whole network.
    backbone_vars: Θ.

  Returns:
    Whether both have the same features of random images, to rounding.
  """
  images = jax.random.normal(jax.random.key(0), (2, *backbone.image_shape))
  whole = jax.jit(functools.partial(backbone.features, batch_stats_mode='running'))(
      backbone_vars, images)
  parts = jax.jit(lambda v, x: cut.last(v, cut.below(v, x)))(backbone_vars, images)
  return bool(np.allclose(whole, parts, rtol=1e-4, atol=1e-5 * np.abs(whole).max()))


def compute(cut: Cut, backbone_vars: BackboneVars, dataset: Dataset, *,
            layout: sharding.Layout | None = None) -> Dataset:
  """Computes the maps of all training and validation images.

  Of several devices one does it, in each process.

  Args:
    cut: as `find_cut` returns it.
    backbone_vars: Θ, on the host or on one device.
    dataset: uint8 images.
    layout: devices that are to use the maps.

  Returns:
    The data set with maps in place of images, and with nothing left to normalise: for `upper_part`.
    The maps are on the device, or on the host where several devices are to have them.
  """
  @jax.jit
  def encode(backbone_vars, pool):
    def below(images):
      return cut.below(backbone_vars, augment.normalize(images, pool.normalization))
    return encoding.map_images(below, pool)

  pools = (dataset.train, dataset.val)
  train, val = (encode(backbone_vars, jax.tree.map(jnp.asarray, pool)) for pool in pools)
  if layout is not None:
    train, val = jax.device_get((train, val))
  return dataset._replace(train=train, val=val)


def _maps(cut, backbone, backbone_vars):
  """Shape and type of the maps of one image."""
  one = jax.ShapeDtypeStruct((1, *backbone.image_shape), jnp.float32)
  return jax.eval_shape(cut.below, backbone_vars, one)
