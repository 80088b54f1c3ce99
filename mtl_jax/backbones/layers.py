"""Layers that several backbones share (private to this folder)."""
import contextlib
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.backbones import winograd

_NHWC = ('NHWC', 'HWIO', 'NHWC')
KERNEL_INIT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # He et al., as residual networks start


def conv3x3_layer(width, stride, dtype, name, *, use_bias=False):
  """Makes the 3x3 convolution of a residual network: padded by one pixel on each side, also where it strides.

  Args:
    width: c_out.
    stride: 1 or 2, of both directions; n pixels become ceil(n / stride).
    dtype: of the computation.
    name: of the layer.
    use_bias: whether it has a bias.

  Returns:
    A linen module.
  """
  return nn.Conv(width, (3, 3), stride, padding=1, use_bias=use_bias, dtype=dtype, kernel_init=KERNEL_INIT,
                 conv_general_dilated=conv, name=name)


def conv1x1(x, width, stride, dtype, name):
  """Convolves with a 1x1 kernel without bias: a matrix product over channels, which is faster on CPU so written.

  Args:
    x: [B, H, W, c_in].
    width: c_out.
    stride: 1 or 2, of both directions.
    dtype: of the computation.
    name: of the layer; its kernel is [c_in, c_out].

  Returns:
    [B, ceil(H / stride), ceil(W / stride), c_out].
  """
  dense = nn.Dense(width, use_bias=False, dtype=dtype, kernel_init=KERNEL_INIT, name=name)
  return dense(x[:, ::stride, ::stride])


def dot(x, kernel, dimension_numbers, **options):
  """Multiplies as `lax.dot_general` does, where the last axis of x meets the first of the kernel.

  With the three channels of an image that is a sum of three products, which an accelerator computes as part of what
  comes next, in less time than it takes to write the result of a matrix product and to read it again.

  Args:
    x: [..., c_in].
    kernel: [c_in, c_out].
    dimension_numbers: as `nn.Dense` gives them.
    **options: as `nn.Dense` passes them on; the sum of products, which rounds as float32, does without.

  Returns:
    [..., c_out].
  """
  if kernel.shape[0] > 3 or jax.default_backend() == 'cpu':
    return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
  return sum_of_products(x, kernel)


def sum_of_products(x, kernel):
  """Sums, over the channels of x, each of them times its row of the kernel, in float32 at least.

  Args:
    x: [..., c_in].
    kernel: [c_in, c_out].

  Returns:
    [..., c_out], of the type of x.
  """
  wide, rows = (array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in (x, kernel))
  return sum(wide[..., i:i + 1] * row for i, row in enumerate(rows)).astype(x.dtype)


def batch_norm(batch_stats_mode, affine, epsilon, dtype, name):
  """Makes a batch norm.

  Args:
    batch_stats_mode: 'running' or 'batch'.
    affine: whether it has a scale and an offset (`bias`).
    epsilon: added to the variance.
    dtype: of the computation; statistics stay float32.
    name: of the layer.

  Returns:
    A linen module.
  """
  return nn.BatchNorm(batch_stats_mode == 'running', momentum=0.9, epsilon=epsilon, use_scale=affine, use_bias=affine,
                      dtype=dtype, name=name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def relu(x, slope=0.0):
  """Multiplies what is negative by a slope: a ReLU, or a leaky one.

  Its derivative is read off the output, which is kept for the next convolution in any case; read off the input, XLA
  keeps that for the backward pass too. At 0 it is the slope, as in PyTorch.

  Args:
    x: any shape.
    slope: 0 or more.

  Returns:
    Like x.
  """
  return jnp.where(x > 0, x, slope * x) if slope else jnp.maximum(x, 0)  # 0 * inf would be no number


@relu.defjvp
def _relu_jvp(slope, primals, tangents):
  (x,), (tangent,) = primals, tangents
  y = relu(x, slope)
  return y, jnp.where(y > 0, tangent, slope * tangent if slope else 0)


def global_average(x):
  """Averages over all pixels.

  Args:
    x: [B, H, W, C].

  Returns:
    [B, C], at least float32.
  """
  return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


class Stage(nn.Module):
  """A row of residual blocks, `block1`, `block2` and so on, of which the first may stride."""
  block: type  # of linen module: block(width, stride, norm_affine, norm_epsilon, dtype)
  blocks: int
  width: int
  stride: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    for i in range(self.blocks):
      stride = self.stride if i == 0 else 1
      block = self.block(self.width, stride, self.norm_affine, self.norm_epsilon, self.dtype, name=f'block{i + 1}')
      x = block(x, batch_stats_mode)
    return x


_by_patches = False


@contextlib.contextmanager
def by_patches():
  """While a function is traced within: 3x3 convolutions are products of patches with the kernel, see `conv_patches`."""
  global _by_patches
  before, _by_patches = _by_patches, True
  try:
    yield
  finally:
    _by_patches = before


def conv(x, kernel, strides, padding, **options):
  """Convolves as `lax.conv_general_dilated` does.

  On a CPU, ordinary 3x3 kernels are in the faster of two other forms: `conv3x3`, or Winograd's where channels and tiles
  are many, which rounds five times as coarsely (`winograd`). One that strides is then computed at every pixel and
  thinned out: four times the work of that layer (in the direct form), against gradients that are dozens of times slower
  in a loop.

  Args:
    x: [B, H, W, c_in].
    kernel: [kh, kw, c_in, c_out].
    strides: (rows, columns).
    padding: pairs of pixels, or 'SAME'.
    **options: as `nn.Conv` passes them on.

  Returns:
    [B, H', W', c_out].
  """
  by_one = padding == 'SAME' and tuple(strides) == (1, 1) or tuple(map(tuple, padding)) == ((1, 1), (1, 1))
  plain = kernel.shape[:2] == (3, 3) and by_one
  plain &= options.get('feature_group_count', 1) == 1 and kernel.shape[2] == x.shape[3]
  plain &= all(set(options.get(name) or (1,)) == {1} for name in ('lhs_dilation', 'rhs_dilation'))
  if plain and _by_patches:
    return conv_patches(x, kernel, strides)
  if plain and jax.default_backend() == 'cpu':
    faster = winograd.conv3x3 if _winograd_pays(x, *kernel.shape[2:]) else conv3x3
    return faster(x, kernel)[:, ::strides[0], ::strides[1]]
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


@jax.custom_vjp
def conv3x3(x, kernel):
  """Convolves with a 3x3 kernel, stride 1, zero padding of one pixel, with gradients that stay fast in loops on CPU.

  XLA's CPU compiler puts the convolutions of a gradient into its fast form in straight-line code, yet not in the body
  of a `lax.scan`, where they run some 60 times slower. Here both gradients are written in that form to begin with, or
  that of the kernel in Winograd's. It differentiates in reverse mode, any number of times, and not in forward mode.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].

  Returns:
    [B, H, W, c_out].
  """
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=_NHWC)


def _conv3x3_forward(x, kernel):
  return conv3x3(x, kernel), (x, kernel)


def _conv3x3_backward(residuals, cotangent):
  x, kernel = residuals
  x_bar = conv3x3(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  if _winograd_pays(x, *kernel.shape[2:], gradient=True):
    return x_bar, winograd.kernel_gradient(x, cotangent)
  # The batch is summed over, so it takes the place of the input channels: [c_in,H,W,B] * [H,W,B,c_out].
  kernel_bar = jax.lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), ((1, 1), (1, 1)), dimension_numbers=_NHWC)
  return x_bar, kernel_bar.transpose(1, 2, 0, 3)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _winograd_pays(x, c_in, c_out, *, gradient=False):
  # Measured on two cores. The gradient of a kernel needs no transposed maps in Winograd's form, so it pays sooner. On
  # maps of one pixel it never does; on those of two, XLA's own form is up to thirty times slower.
  least, most = (64, 64) if gradient else (128, 256)
  wide = min(c_in, c_out) >= least and max(c_in, c_out) >= most
  many = winograd.tiles(x) >= 40 and min(x.shape[1:3]) >= 2
  return wide and many and x.dtype in (jnp.float32, jnp.float64)


def conv_patches(x, kernel, strides=(1, 1)):
  """Convolves with a 3x3 kernel and zero padding of one pixel, as one matrix product.

  A `vmap` over kernels makes it one batched product, where a convolution would become a grouped one.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].
    strides: (rows, columns).

  Returns:
    [B, ceil(H / rows), ceil(W / columns), c_out].
  """
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [padded[:, i:i + height:strides[0], j:j + width:strides[1]] for i in range(3) for j in range(3)]
  return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x):
  """Takes the maximum of each 2x2 patch, dropping an odd last row or column.

  Written as maxima of pairs: their gradient is elementwise, where that of a reduce-window is a scatter, which is slow
  on CPU. It only asks which of two is larger. The gradient of a `jnp.max` over the patch asks which element equals the
  maximum, and is wrong where the compiler computes x twice with different rounding.

  Args:
    x: [B, H, W, C].

  Returns:
    [B, H // 2, W // 2, C].
  """
  batch, height, width, channels = x.shape
  x = x[:, :height // 2 * 2, :width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
  rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])
