"""ResNet-12 as the paper's TensorFlow code has it: four blocks of three convolutions, 64-128-256-512 channels."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones.layers import batch_norm, conv, dot, global_average, relu
from mtl_jax.backbones.pooling import add_and_pool

_SLOPE = 0.1  # of leaky ReLU


class ResNet12(nn.Module):
  """Maps images to 512 features by global average pooling, so any size from 16 pixels works.

  7.99 M weights; the 12 main convolutions have 0.871 M scales and shifts. Batch norm has no affine parameters
  unless `norm_affine`.
  """
  width: int = 64
  norm_affine: bool = False
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    for i in range(4):
      x = _Block(self.width * 2**i, *options, name=f'block{i + 1}')(x, batch_stats_mode)
    return global_average(x)


class _Block(nn.Module):
  """conv -> batch norm -> leaky ReLU, three times; plus a 1x1 shortcut; then max-pool, without a last activation."""
  width: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    # A 1x1 convolution is a matrix product over channels, and written so it is faster.
    shortcut = nn.Dense(self.width, use_bias=False, dtype=self.dtype, dot_general=dot, name='shortcut')(x)
    for i in (1, 2, 3):
      x = nn.Conv(self.width, (3, 3), dtype=self.dtype, conv_general_dilated=conv, name=f'conv{i}')(x)
      x = batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, f'bn{i}')(x)
      x = relu(x, _SLOPE) if i < 3 else add_and_pool(x, shortcut, _SLOPE)
    return x
