"""Depthwise convolution as a sum of shifted products: fast on a CPU, where XLA's own form is slow.

A depthwise kernel [k, k, 1, C] has one filter per channel. On a CPU, XLA computes it as C groups,
one after the other; here every place of the kernel is one product of the whole map.
"""
from typing import Any

import jax
import jax.numpy as jnp


def is_depthwise(x: jax.Array, kernel: jax.Array, options: dict[str, Any]) -> bool:
  """Whether a convolution has one filter per channel, and is not dilated.

  Args:
    x: [B, H, W, C].
    kernel: [kh, kw, c_in per group, c_out].
    options: other arguments of `lax.conv_general_dilated`.
  """
  dilations = (options.get(name) or (1,) for name in ('lhs_dilation', 'rhs_dilation'))
  plain = all(set(dilation) == {1} for dilation in dilations)
  channels = x.shape[-1]
  return (x.ndim == 4 and channels > 1 and options.get('feature_group_count', 1) == channels
          and kernel.shape[2:] == (1, channels) and plain)


def conv(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> jax.Array:
  """Convolves each channel with a filter of its own.

      y[b, h, w, c] = Σ_ij x[b, h s + i, w s + j, c] · kernel[i, j, 0, c]

  Args:
    x: [B, H, W, C].
    kernel: [kh, kw, 1, C].
    strides: (rows, columns).
    padding: pairs of pixels, or 'SAME'.

  Returns:
    [B, H', W', C], as `lax.conv_general_dilated` to rounding.
  """
  size = kernel.shape[:2]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], size, tuple(strides), padding)
  x = jnp.pad(x, ((0, 0), *map(tuple, padding), (0, 0)))
  rows, columns = ((extent - k) // stride + 1
                   for extent, k, stride in zip(x.shape[1:3], size, strides, strict=True))
  total = None
  for i in range(size[0]):
    for j in range(size[1]):
      shifted = x[:, i:i + (rows - 1) * strides[0] + 1:strides[0],
                  j:j + (columns - 1) * strides[1] + 1:strides[1]]
      product = shifted * kernel[i, j][None, None]
      total = product if total is None else total + product
  assert total is not None
  return total
