"""A 3x3 convolution by Winograd's minimal filtering, F(2x2, 3x3): 16 products where there are 36.

      y = Aᵀ [(G k Gᵀ) ⊙ (Bᵀ d B)] A            for each tile d of 4x4 inputs, which gives 2x2 outputs

Tiles overlap by two pixels. Summed over channels, each of the 16 places of a tile is one product of matrices, [tiles,
c_in] with [c_in, c_out]. The transformed maps are four times as large, so it pays where products dwarf maps: many
channels on few pixels, as in the last blocks of a network (`layers.conv` decides). Rounding is that of the direct form.

References: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1.
"""
import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x, kernel, transposed=False):
  """Convolves with a 3x3 kernel, stride 1, zero padding of one pixel.

  It differentiates in reverse mode, any number of times, and not in forward mode.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].
    transposed: whether to convolve with the kernel that the gradient to the inputs has: turned by 180 degrees, c_in and
      c_out exchanged.

  Returns:
    [B, H, W, c_out]; [B, H, W, c_in] of x [B, H, W, c_out] if `transposed`.
  """
  inputs, kernels = _inputs(x), _kernels(kernel)
  if transposed:
    # Turned around, k2 k1 k0 in place of k0 k1 k2, the outer ones of G k change places and the inner ones stay.
    kernels = [kernels[4 * i + j].T for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]
  products = [d @ k for d, k in zip(inputs, kernels, strict=True)]
  return _outputs(products, x.shape[:3])


def _forward(x, kernel, transposed):
  return conv3x3(x, kernel, transposed), (x, kernel)


def _backward(transposed, residuals, cotangent):
  x, kernel = residuals
  x_bar = conv3x3(cotangent, kernel, not transposed)
  # The transposed form has the kernel between the same two maps the other way around.
  image, output = (cotangent, x) if transposed else (x, cotangent)
  products = [d.T @ m for d, m in zip(_inputs(image), _outputs_backward(output), strict=True)]
  return x_bar, _kernels_backward(products)


conv3x3.defvjp(_forward, _backward)


# --- The three transforms, of rows and then of columns, and what their gradients need. Lists are 16 matrices. ---

def _inputs(x):
  """Bᵀ d B of all tiles: 16 of [tiles, c]."""
  height, width, channels = x.shape[1:]
  x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))

  def along(axis, x):
    d = [jax.lax.slice_in_dim(x, i, x.shape[axis] - 3 + i, 2, axis) for i in range(4)]
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]

  return [place.reshape(-1, channels) for row in along(1, x) for place in along(2, row)]


def _kernels(kernel):
  """G k Gᵀ: 16 of [c_in, c_out]."""
  def along(k):
    return k[0], (k[0] + k[1] + k[2]) / 2, (k[0] - k[1] + k[2]) / 2, k[2]

  return [place for row in along(kernel) for place in along(row)]


def _kernels_backward(places):
  """Gᵀ u G: [3, 3, c_in, c_out]."""
  def along(u):
    return u[0] + (u[1] + u[2]) / 2, (u[1] - u[2]) / 2, u[3] + (u[1] + u[2]) / 2

  rows = [along(places[4 * i:4 * i + 4]) for i in range(4)]
  return jnp.stack([jnp.stack(along([row[j] for row in rows])) for j in range(3)], axis=1)


def _outputs(places, shape):
  """Aᵀ m A, put together again: [B, H, W, c]."""
  batch, height, width = shape
  m = [place.reshape(batch, -(-height // 2), -(-width // 2), -1) for place in places]

  def along(m):
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

  rows = [along([m[4 * i + j] for i in range(4)]) for j in range(4)]
  tiles = [along([row[i] for row in rows]) for i in range(2)]
  y = jnp.stack([jnp.stack(row, axis=3) for row in tiles], axis=2)
  return y.reshape(batch, 2 * y.shape[1], 2 * y.shape[3], -1)[:, :height, :width]


def _outputs_backward(y):
  """A y Aᵀ of all tiles: 16 of [tiles, c]."""
  height, width, channels = y.shape[1:]
  y = jnp.pad(y, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))

  def along(axis, y):
    even, odd = (jax.lax.slice_in_dim(y, i, None, 2, axis) for i in range(2))
    return even, even + odd, even - odd, -odd

  return [place.reshape(-1, channels) for row in along(1, y) for place in along(2, row)]
