"""ResNet-12 of the paper's TensorFlow code: four blocks of three convolutions, 64-128-256-512."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import dot, relu
from mtl_jax.backbones.modules import Conv, batch_norm
from mtl_jax.backbones.pooling import add_and_pool, global_average

_SLOPE = 0.1  # of leaky ReLU


class ResNet12(nn.Module):
  """Maps images to 512 features by global average pooling, so any size from 16 pixels works.

  It has 7.99 M weights; its 12 main convolutions have 0.871 M scales and shifts. Batch norm has no
  affine parameters unless `norm_affine`.
  """
  width: int = 64
  norm_affine: bool = False
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype, self.conv)
    for i in range(4):
      x = _Block(self.width * 2**i, *options, name=f'block{i + 1}')(x, batch_stats_mode)
    return global_average(x)


class _Block(nn.Module):
  """conv -> batch norm -> leaky ReLU, three times; plus a 1x1 shortcut; then max-pool.

  No activation follows the addition.
  """
  width: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    # A 1x1 convolution is a matrix product over channels, and faster when it is written as one.
    shortcut = nn.Dense(self.width, use_bias=False, dtype=self.dtype, dot_general=dot,
                        name='shortcut')(x)
    for i in (1, 2, 3):
      x = nn.Conv(self.width, (3, 3), dtype=self.dtype, conv_general_dilated=self.conv,
                  name=f'conv{i}')(x)
      x = batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, f'bn{i}')(x)
      x = relu(x, _SLOPE) if i < 3 else add_and_pool(x, shortcut, _SLOPE)
    return x
