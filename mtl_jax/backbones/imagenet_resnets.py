"""ResNet-18, -34 and -50 in the form that ImageNet's weights are shared in (torchvision's)."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.basic_resnets import BasicBlock
from mtl_jax.backbones.layers import relu
from mtl_jax.backbones.modules import Conv, Stage, batch_norm, conv1x1, conv3x3_layer, kernel_init
from mtl_jax.backbones.pooling import global_average, max_pool3x3


class ImageNetResNet(nn.Module):
  """Maps images to 512 features (18, 34 layers) or 2048 (50); the last map is a thirty-second.

  The stem is a 7x7 convolution with stride 2 and a 3x3 max-pool, where `resnet18_small` has a 3x3
  convolution at full resolution. In a bottleneck block it is the 3x3 convolution that strides, as
  in torchvision ("v1.5"), where the paper strides in the 1x1 convolution before it.

  References: He et al., CVPR 2016, arXiv 1512.03385.
  """
  blocks: tuple[int, ...]   # of each stage
  bottleneck: bool = False
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    x = nn.Conv(self.width, (7, 7), 2, padding=3, use_bias=False, dtype=self.dtype,
                kernel_init=kernel_init, conv_general_dilated=self.conv, name='stem')(x)
    x = max_pool3x3(relu(batch_norm(batch_stats_mode, *options, 'stem_bn')(x)))
    block = _Bottleneck if self.bottleneck else BasicBlock
    for i, blocks in enumerate(self.blocks):
      stage = Stage(block, blocks, self.width * 2**i, 1 if i == 0 else 2, *options, self.conv,
                    name=f'stage{i + 1}')
      x = stage(x, batch_stats_mode)
    return global_average(x)


class _Bottleneck(nn.Module):
  """Narrow by a 1x1 convolution, 3x3, widen fourfold by 1x1; plus the shortcut; then ReLU."""
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

    wide, shortcut = 4 * self.width, x
    if self.stride != 1 or x.shape[-1] != wide:
      shortcut = norm(conv1x1(x, wide, self.stride, self.dtype, 'shortcut'), 'shortcut_bn')
    x = relu(norm(conv1x1(x, self.width, 1, self.dtype, 'conv1'), 'bn1'))
    strided = conv3x3_layer(self.width, self.stride, self.dtype, self.conv, 'conv2')
    x = relu(norm(strided(x), 'bn2'))
    x = norm(conv1x1(x, wide, 1, self.dtype, 'conv3'), 'bn3')
    return relu(x + shortcut)
