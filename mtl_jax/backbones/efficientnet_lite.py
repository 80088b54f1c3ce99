"""EfficientNet-Lite: rows of inverted residual blocks, without squeeze-and-excitation."""
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import relu6
from mtl_jax.backbones.modules import Conv, batch_norm, conv1x1, kernel_init
from mtl_jax.backbones.pooling import global_average


class _Row(NamedTuple):
  """One stage of EfficientNet-B0 (Tan and Le, 2019, table 1)."""
  blocks: int
  kernel: int  # side of the depthwise kernel
  stride: int  # of its first block
  expand: int  # widening of the channels inside of a block
  width: int   # c_out


_ROWS = (_Row(1, 3, 1, 1, 16), _Row(2, 3, 2, 6, 24), _Row(2, 5, 2, 6, 40), _Row(3, 3, 2, 6, 80),
         _Row(3, 5, 1, 6, 112), _Row(4, 5, 2, 6, 192), _Row(1, 3, 1, 6, 320))
_DIVISOR = 8  # channels are multiples of it


class EfficientNetLite(nn.Module):
  """Maps images to 1280 features; Lite0 has 3.4 M weights and strides by 32.

  The stem, the first stage's length and the last one's do not grow with the network. The last
  block, `stage7`, holds the convolution that widens to the features.

  References: Tan and Le, ICML 2019, arXiv 1905.11946; Lite: the TPU models of TensorFlow, 2020.
  """
  width: int = 32              # channels of the stem, from which all others follow
  width_factor: float = 1.0    # 1.1 for Lite2
  depth_factor: float = 1.0    # 1.1 for Lite1, 1.2 for Lite2
  norm_affine: bool = True
  norm_epsilon: float = 1e-3
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype, self.conv)
    x = nn.Conv(self.width, (3, 3), 2, use_bias=False, dtype=self.dtype, kernel_init=kernel_init,
                conv_general_dilated=self.conv, name='stem')(x)
    x = relu6(batch_norm(batch_stats_mode, *options[:3], 'stem_bn')(x))
    for i, row in enumerate(_ROWS):
      fixed = i in (0, len(_ROWS) - 1)
      blocks = row.blocks if fixed else math.ceil(row.blocks * self.depth_factor)
      row = row._replace(blocks=blocks, width=self._channels(row.width))
      head = 40 * self.width if i == len(_ROWS) - 1 else 0
      x = _Stage(row, head, *options, name=f'stage{i + 1}')(x, batch_stats_mode)
    return global_average(x)

  def _channels(self, published: int) -> int:
    wide = published * self.width_factor * self.width / 32
    rounded = max(_DIVISOR, int(wide + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * wide else rounded


class _Stage(nn.Module):
  """Blocks of one width, of which the first may stride; the last stage widens to the features."""
  row: _Row
  head: int  # c_out of the last stage's own convolution; 0 where there is none
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype)
    for i in range(self.row.blocks):
      row = self.row if i == 0 else self.row._replace(stride=1)
      x = _Block(row, *options, self.conv, name=f'block{i + 1}')(x, batch_stats_mode)
    if not self.head:
      return x
    x = conv1x1(x, self.head, 1, self.dtype, 'head')
    return relu6(batch_norm(batch_stats_mode, *options, 'head_bn')(x))


class _Block(nn.Module):
  """Widen, convolve each channel apart, narrow; plus the input where size and channels stay."""
  row: _Row
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    def norm(x, name):
      return batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, name)(x)

    row, shortcut = self.row, x
    wide = x.shape[-1] * row.expand
    if row.expand != 1:
      x = relu6(norm(conv1x1(x, wide, 1, self.dtype, 'expand'), 'expand_bn'))
    x = nn.Conv(wide, (row.kernel, row.kernel), row.stride, feature_group_count=wide,
                use_bias=False, dtype=self.dtype, kernel_init=kernel_init,
                conv_general_dilated=self.conv, name='depthwise')(x)
    x = relu6(norm(x, 'depthwise_bn'))
    x = norm(conv1x1(x, row.width, 1, self.dtype, 'project'), 'project_bn')
    same = row.stride == 1 and shortcut.shape[-1] == row.width
    return x + shortcut if same else x
