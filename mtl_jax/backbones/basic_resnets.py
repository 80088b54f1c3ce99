"""ResNet-18 and ResNet-25: stages of basic blocks (two convolutions and an addition); strides halve the image."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones.layers import Stage, batch_norm, conv1x1, conv3x3_layer, global_average, relu


class ResNet18(nn.Module):
  """Maps images to 512 features; 11.17 M weights; 64-128-256-512 channels, two blocks each.

  Made for small images: its stem is a 3x3 convolution at full resolution, in place of the 7x7 convolution with stride 2
  and the max-pool that ImageNet's ResNet-18 begins with, so that the last map is an eighth of the image and not a
  thirty-second. (The authors enlarge images to 224 pixels for the latter.) An image of 224 pixels costs some 15
  times as much as with ImageNet's stem.

  References: He et al., CVPR 2016, arXiv 1512.03385.
  """
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = conv3x3_layer(self.width, 1, self.dtype, 'stem')(x)
    x = relu(batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, 'stem_bn')(x))
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    for i, stride in enumerate((1, 2, 2, 2)):
      stage = Stage(_Block, 2, self.width * 2**i, stride, *options, name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    return global_average(x)


class ResNet25(nn.Module):
  """Maps images to 640 features; the authors' PyTorch network: 160-320-640 channels, four blocks each.

  `width` is that of the first stage; the stem, the one layer with a bias, has half of it. Every stage strides, so
  the last map is an eighth of the image, and global average pooling stands for the authors' 10x10 at 80 pixels.
  """
  width: int = 160
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = conv3x3_layer(max(1, self.width // 2), 1, self.dtype, 'stem', use_bias=True)(x)
    x = relu(batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, 'stem_bn')(x))
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    for i in range(3):
      stage = Stage(_Block, 4, self.width * 2**i, 2, *options, name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    return global_average(x)


class _Block(nn.Module):
  """conv -> batch norm -> ReLU -> conv -> batch norm; plus the shortcut; then ReLU."""
  width: int
  stride: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    def norm(x, name):
      return batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, name)(x)

    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = norm(conv1x1(x, self.width, self.stride, self.dtype, 'shortcut'), 'shortcut_bn')
    x = relu(norm(conv3x3_layer(self.width, self.stride, self.dtype, 'conv1')(x), 'bn1'))
    x = norm(conv3x3_layer(self.width, 1, self.dtype, 'conv2')(x), 'bn2')
    return relu(x + shortcut)
