"""Depthwise convolution as a sum of shifted products: fast on a CPU, where XLA's own form is slow.

A depthwise kernel [k, k, 1, C] has one filter per channel. On a CPU, XLA computes it as C groups,
one after the other; here every place of the kernel is one product of the whole map.
"""
import functools
from collections.abc import Iterable
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
  size, strides = kernel.shape[:2], tuple(strides)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  x = jnp.pad(x, ((0, 0), *map(tuple, padding), (0, 0)))
  return _unpadded(strides, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unpadded(strides, x, kernel):
  return _sum_of_products(strides, x, kernel)


def _forward(strides, x, kernel):
  return _sum_of_products(strides, x, kernel), (x, kernel)


def _backward(strides, there, gradient):
  x, kernel = there
  _, of_kernel = jax.vjp(lambda kernel: _sum_of_products(strides, x, kernel), kernel)
  return _transposed(strides, gradient, kernel, x.shape), *of_kernel(gradient)


_unpadded.defvjp(_forward, _backward)


def _sum_of_products(strides, x, kernel):
  rows, columns = ((extent - k) // stride + 1
                   for extent, k, stride in zip(x.shape[1:3], kernel.shape, strides, strict=False))
  return _added(x[:, i:i + (rows - 1) * strides[0] + 1:strides[0],
                  j:j + (columns - 1) * strides[1] + 1:strides[1]] * kernel[i, j][None, None]
                for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))


def _transposed(strides, gradient, kernel, shape):
  """The gradient of x: where JAX would add up a padded map for each place of the kernel.

      dx[m s + r] = Σ_a g[m - a] · kernel[a s + r]     for each remainder r, in rows and columns
  """
  counts = [-(-extent // stride) for extent, stride in zip(shape[1:3], strides, strict=True)]
  taps = [-(-k // stride) for k, stride in zip(kernel.shape, strides, strict=False)]
  padded = jnp.pad(gradient, ((0, 0), *(
      (tap - 1, count - extent) for tap, count, extent in zip(
          taps, counts, gradient.shape[1:3], strict=True)), (0, 0)))

  def phase(r, q):
    products = [padded[:, taps[0] - 1 - a:taps[0] - 1 - a + counts[0],
                       taps[1] - 1 - b:taps[1] - 1 - b + counts[1]]
                * kernel[a * strides[0] + r, b * strides[1] + q][None, None]
                for a in range(taps[0]) if a * strides[0] + r < kernel.shape[0]
                for b in range(taps[1]) if b * strides[1] + q < kernel.shape[1]]
    return _added(products) if products else jnp.zeros_like(padded[:, :counts[0], :counts[1]])

  phases = [jnp.stack([phase(r, q) for q in range(strides[1])], axis=3)
            for r in range(strides[0])]                       # [B, m, m', q, C] each
  whole = jnp.stack(phases, axis=2)                           # [B, m, r, m', q, C]
  whole = whole.reshape(shape[0], counts[0] * strides[0], counts[1] * strides[1], shape[3])
  return whole[:, :shape[1], :shape[2]]


def _added(products: Iterable[jax.Array]) -> jax.Array:
  return functools.reduce(jnp.add, products)
