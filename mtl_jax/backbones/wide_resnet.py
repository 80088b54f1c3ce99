"""WRN-28-10, the pre-activation wide residual network: three stages of four blocks, 160-320-640."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import relu
from mtl_jax.backbones.modules import Conv, Stage, batch_norm, conv1x1, conv3x3_layer
from mtl_jax.backbones.pooling import global_average


class WideResNet28(nn.Module):
  """Maps images to 640 features; 36.5 M weights, without dropout.

  `width` is that of the first stage; the stem has a tenth of it. The last map is a quarter of the
  image.

  References: Zagoruyko and Komodakis, BMVC 2016, arXiv 1605.07146.
  """
  width: int = 160
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    # At the tiny widths of tests, a tenth would be none.
    x = conv3x3_layer(max(1, self.width // 10), 1, self.dtype, self.conv, 'stem')(x)
    for i, stride in enumerate((1, 2, 2)):
      stage = Stage(_Block, 4, self.width * 2**i, stride, *options, self.conv, name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    x = batch_norm(batch_stats_mode, *options, 'last_bn')(x)
    return global_average(relu(x))


class _Block(nn.Module):
  """batch norm -> ReLU -> conv, twice; plus the shortcut.

  The shortcut is the block's input, or, where shapes change, a 1x1 convolution after the first
  ReLU.
  """
  width: int
  stride: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    def norm(x, name):
      return batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, name)(x)

    def conv3x3(x, stride, name):
      return conv3x3_layer(self.width, stride, self.dtype, self.conv, name)(x)

    shortcut = x
    x = relu(norm(x, 'bn1'))
    if self.stride != 1 or shortcut.shape[-1] != self.width:
      shortcut = conv1x1(x, self.width, self.stride, self.dtype, 'shortcut')
    x = relu(norm(conv3x3(x, self.stride, 'conv1'), 'bn2'))
    return shortcut + conv3x3(x, 1, 'conv2')
