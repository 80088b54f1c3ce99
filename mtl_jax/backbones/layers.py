"""Layers that several backbones share (private to this folder)."""
import jax
import jax.numpy as jnp

_NHWC = ('NHWC', 'HWIO', 'NHWC')


def conv(x, kernel, strides, padding, **options):
  """Convolves as `lax.conv_general_dilated` does, by `conv3x3` where that is the faster form (CPU).

  Args:
    x: [B, H, W, c_in].
    kernel: [kh, kw, c_in, c_out].
    strides: (rows, columns).
    padding: pairs of pixels, or 'SAME'.
    **options: as `nn.Conv` passes them on.

  Returns:
    [B, H', W', c_out].
  """
  plain = kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1) and padding == 'SAME'
  plain &= options.get('feature_group_count', 1) == 1 and kernel.shape[2] == x.shape[3]
  plain &= all(set(options.get(name) or (1,)) == {1} for name in ('lhs_dilation', 'rhs_dilation'))
  if plain and jax.default_backend() == 'cpu':
    return conv3x3(x, kernel)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


@jax.custom_vjp
def conv3x3(x, kernel):
  """Convolves with a 3x3 kernel, stride 1, zero padding of one pixel, with gradients that stay fast in loops on CPU.

  XLA's CPU compiler puts the convolutions of a gradient into its fast form in straight-line code, yet not in the body
  of a `lax.scan`, where they run some 60 times slower. Here both gradients are written in that form to begin with. It
  differentiates in reverse mode, any number of times, and not in forward mode.

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
  # The batch is summed over, so it takes the place of the input channels: [c_in,H,W,B] * [H,W,B,c_out].
  kernel_bar = jax.lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), ((1, 1), (1, 1)), dimension_numbers=_NHWC)
  return x_bar, kernel_bar.transpose(1, 2, 0, 3)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


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
