"""ResNet-18 for small images, and ResNet-25: stages of blocks of two convolutions."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import relu
from mtl_jax.backbones.modules import Conv, Stage, batch_norm, conv1x1, conv3x3_layer
from mtl_jax.backbones.pooling import global_average


class ResNet18Small(nn.Module):
  """Maps images to 512 features; 11.17 M weights; 64-128-256-512 channels, two blocks each.

  Its stem is made for small images: a 3x3 convolution at full resolution, in place of the 7x7
  convolution with stride 2 and the max-pool that `resnet18`, ImageNet's, begins with. So the last
  map is an eighth of the image and not a thirty-second. (The authors enlarge images to 224 pixels
  for ImageNet's stem.) An image of 224 pixels costs some 15 times as much as with ImageNet's stem.

  References: He et al., CVPR 2016, arXiv 1512.03385.
  """
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    x = conv3x3_layer(self.width, 1, self.dtype, self.conv, 'stem')(x)
    x = relu(batch_norm(batch_stats_mode, *options, 'stem_bn')(x))
    for i, stride in enumerate((1, 2, 2, 2)):
      stage = Stage(BasicBlock, 2, self.width * 2**i, stride, *options, self.conv,
                    name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    return global_average(x)


class ResNet25(nn.Module):
  """Maps images to 640 features; 160-320-640 channels, four blocks each: the authors' in PyTorch.

  `width` is that of the first stage; the stem, the one layer with a bias, has half of it. Every
  stage strides, so the last map is an eighth of the image. Global average pooling takes the place
  of the authors' 10x10 pooling at 80 pixels.
  """
  width: int = 160
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    x = conv3x3_layer(max(1, self.width // 2), 1, self.dtype, self.conv, 'stem', use_bias=True)(x)
    x = relu(batch_norm(batch_stats_mode, *options, 'stem_bn')(x))
    for i in range(3):
      stage = Stage(BasicBlock, 4, self.width * 2**i, 2, *options, self.conv, name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    return global_average(x)


class BasicBlock(nn.Module):
  """conv -> batch norm -> ReLU -> conv -> batch norm; plus the shortcut; then ReLU."""
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

    # A shortcut has weights only where the block changes the size or the channels.
    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.width:
      shortcut = norm(conv1x1(x, self.width, self.stride, self.dtype, 'shortcut'), 'shortcut_bn')
    x = relu(norm(conv3x3(x, self.stride, 'conv1'), 'bn1'))
    x = norm(conv3x3(x, 1, 'conv2'), 'bn2')
    return relu(x + shortcut)
