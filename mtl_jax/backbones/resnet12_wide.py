"""The wide ResNet-12 of MetaOptNet and RFS: four blocks of three convolutions, 64-160-320-640."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import relu
from mtl_jax.backbones.modules import Conv, batch_norm, conv1x1, conv3x3_layer
from mtl_jax.backbones.pooling import global_average, max_pool

_SLOPE = 0.1  # of leaky ReLU


class ResNet12Wide(nn.Module):
  """Maps images to 640 features; 12.42 M weights, without DropBlock.

  Unlike `ResNet12` its convolutions have no bias, its shortcuts have a batch norm, and its blocks
  end in an activation.

  References: Lee et al., CVPR 2019, arXiv 1904.03758; Tian et al., ECCV 2020, arXiv 2003.11539.
  """
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype, self.conv)
    widths = (self.width, self.width * 5 // 2, self.width * 5, self.width * 10)
    for i, width in enumerate(widths, start=1):
      x = _Block(width, *options, name=f'block{i}')(x, batch_stats_mode)
    return global_average(x)


class _Block(nn.Module):
  """conv -> batch norm, three times, with leaky ReLU between, plus the shortcut.

  Then leaky ReLU and max-pool.
  """
  width: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    def norm(x, name):
      return batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, name)(x)

    shortcut = norm(conv1x1(x, self.width, 1, self.dtype, 'shortcut'), 'shortcut_bn')
    for i in (1, 2, 3):
      x = norm(conv3x3_layer(self.width, 1, self.dtype, self.conv, f'conv{i}')(x), f'bn{i}')
      x = relu(x if i < 3 else x + shortcut, slope=_SLOPE)
    return max_pool(x)
