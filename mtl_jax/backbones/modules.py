"""Linen modules that several backbones share (private to this folder)."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.backbones import layers

Conv = Callable[..., jax.Array]  # with the signature of `layers.conv`

_MOMENTUM = 0.9  # of running statistics: a tenth of them is new in every step


def kernel_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """Draws a kernel as residual networks start (He et al.): normal, of variance 2 / fan-out.

  It is `variance_scaling(2.0, 'fan_out', 'normal')`, with the same bits whether compiled or not.

  Args:
    key: consumed.
    shape: [..., c_in, c_out].
    dtype: of the kernel.
  """
  fan_out = math.prod(shape) / shape[-2]
  # Else the compiler would multiply the two factors of the normal numbers with each other first.
  normal = jax.lax.optimization_barrier(jax.random.normal(key, shape, dtype))
  return normal * jnp.sqrt(jnp.array(2.0 / fan_out, dtype))


def conv3x3_layer(width: int, stride: int, dtype: Any, conv: Conv, name: str, *,
                  use_bias: bool = False) -> nn.Conv:
  """Returns the 3x3 convolution of a residual network, padded by one pixel on each side.

  It is padded so where it strides too, where 'SAME' would pad an even side at its end alone.

  Args:
    width: c_out.
    stride: 1 or 2, of both directions; n pixels become ceil(n / stride).
    dtype: of the computation.
    conv: `layers.conv`, or an equal function.
    name: of the layer.
    use_bias: whether it has a bias.
  """
  return nn.Conv(width, (3, 3), stride, padding=1, use_bias=use_bias, dtype=dtype,
                 kernel_init=kernel_init, conv_general_dilated=conv, name=name)


def conv1x1(x: jax.Array, width: int, stride: int, dtype: Any, name: str) -> jax.Array:
  """Convolves with a 1x1 kernel without bias, as a matrix product over channels.

  The product is faster on CPU than the convolution.

  Args:
    x: [B, H, W, c_in].
    width: c_out.
    stride: 1 or 2, of both directions.
    dtype: of the computation.
    name: of the layer; its kernel is [c_in, c_out].

  Returns:
    [B, ceil(H / stride), ceil(W / stride), c_out].
  """
  dense = nn.Dense(width, use_bias=False, dtype=dtype, kernel_init=kernel_init, name=name)
  return dense(x[:, ::stride, ::stride])


def batch_norm(batch_stats_mode: str, affine: bool, epsilon: float, dtype: Any, name: str
               ) -> nn.BatchNorm:
  """Returns a batch norm.

  Args:
    batch_stats_mode: 'running' or 'batch'.
    affine: whether it has a scale and an offset (`bias`).
    epsilon: added to the variance.
    dtype: of the computation; statistics stay float32.
    name: of the layer.
  """
  return nn.BatchNorm(batch_stats_mode == 'running', momentum=_MOMENTUM, epsilon=epsilon,
                      use_scale=affine, use_bias=affine, dtype=dtype, name=name)


class Stage(nn.Module):
  """A row of residual blocks, `block1`, `block2` and so on, of which the first may stride."""
  block: Callable[..., nn.Module]  # block(width, stride, norm_affine, norm_epsilon, dtype, conv)
  blocks: int
  width: int
  stride: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.norm_affine, self.norm_epsilon, self.dtype, self.conv)
    for i in range(self.blocks):
      stride = self.stride if i == 0 else 1
      x = self.block(self.width, stride, *options, name=f'block{i + 1}')(x, batch_stats_mode)
    return x
