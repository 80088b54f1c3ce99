"""Θ, the deep feature extractors: `create(name, image_shape)` gives a `Backbone` of pure functions.

Networks are linen modules, one file each, and stay private to this folder; everything outside sees trees and functions.
"""
import jax
import jax.numpy as jnp

from mtl_jax import scale_shift
from mtl_jax.backbones.conv4 import Conv4
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.types import Backbone, BackboneVars

_MODULES = {'conv4': Conv4, 'resnet12': ResNet12}
NAMES = tuple(sorted(_MODULES))


def create(name: str, image_shape: tuple[int, int, int], *, width: int | None = None,
           compute_dtype: str = 'float32') -> Backbone:
  """Makes one of the built-in backbones.

  Args:
    name: one of `NAMES`.
    image_shape: (H, W, C) of its images, in pixels; H and W from 16 up.
    width: channels of the first block, for small tests; None for the published width.
    compute_dtype: 'float32' or 'bfloat16', of convolutions; parameters, batch norm and features stay float32.

  Returns:
    A Backbone.

  Raises:
    ValueError: an unknown name or dtype, or an image too small for four halvings.
  """
  if name not in _MODULES:
    raise ValueError(f'expected backbone to be one of {", ".join(NAMES)}, got {name!r}')
  if compute_dtype not in ('float32', 'bfloat16'):
    raise ValueError(f"expected compute_dtype 'float32' or 'bfloat16', got {compute_dtype!r}")
  if min(image_shape[:2]) < 16:
    raise ValueError(f'expected images of at least 16 pixels for {name}, got {image_shape[0]}x{image_shape[1]}')
  options = {'dtype': jnp.dtype(compute_dtype)}
  if width is not None:
    options |= {'width': width} if name == 'conv4' else {'widths': tuple(width * 2**i for i in range(4))}
  return from_linen(_MODULES[name](**options), image_shape, last_block='block4', unscaled=('shortcut',))


def from_linen(module, image_shape: tuple[int, int, int], *, last_block: str,
               unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps a linen module as a Backbone.

  Args:
    module: called as `module(images, batch_stats_mode)` with `batch_stats_mode` 'running' or 'batch'; its output is
      [B, d] and its batch norms, if any, keep their statistics in the collection `batch_stats`.
    image_shape: (H, W, C).
    last_block: name of the submodule that counts as the last block.
    unscaled: names of layers that scale and shift leave alone.

  Returns:
    A Backbone.

  Raises:
    ValueError: the module's output is not [B, d].
  """
  def init(key):
    variables = module.init(key, jnp.zeros((1, *image_shape)), 'running')
    return BackboneVars(variables['params'], variables.get('batch_stats', {}))

  def features(backbone_vars, images, *, batch_stats_mode):
    if batch_stats_mode == 'batch':
      return train_features(backbone_vars, images)[0]
    if batch_stats_mode != 'running':
      raise ValueError(f"expected batch_stats_mode 'running' or 'batch', got {batch_stats_mode!r}")
    return module.apply(backbone_vars._asdict(), images, 'running')

  def train_features(backbone_vars, images):
    output, changed = module.apply(backbone_vars._asdict(), images, 'batch', mutable=['batch_stats'])
    return output, changed.get('batch_stats', {})

  shapes = jax.eval_shape(init, jax.random.key(0))
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  output = jax.eval_shape(lambda v, x: features(v, x, batch_stats_mode='running'), shapes, images)
  if output.ndim != 2:
    raise ValueError(f'expected features of shape [B, d], got {output.shape} for a batch of 2')
  layers = tuple(path for path in scale_shift.layer_paths(shapes.params) if path[-1] not in unscaled)
  return Backbone(init, features, train_features, output.shape[1], tuple(image_shape), layers,
                  tuple(path for path in layers if path[0] == last_block))
