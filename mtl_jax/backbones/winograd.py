"""A 3x3 convolution by Winograd's minimal filtering, F(2x2, 3x3): 16 products where there are 36.

      y = Aᵀ [(G k Gᵀ) ⊙ (Bᵀ d B)] A            for each tile d of 4x4 inputs, which gives 2x2 outputs

Tiles overlap by two pixels. Summed over channels, each of the 16 places of a tile is one product of matrices, [tiles,
c_in] with [c_in, c_out]. The transformed maps are four times as large, so it pays where products dwarf maps: many
channels on few pixels, as in the last blocks of a network (`layers.conv` decides). Rounding is of the order of that of
the direct form.

References: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.1.
"""
import functools

import jax
import jax.numpy as jnp

_TILES = 512  # of a part; measured, a thousand are as fast and take more memory


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
  # Bound to x, or a loop over tasks would keep the transformed kernels of all layers throughout.
  x, kernel = jax.lax.optimization_barrier((x, kernel))
  kernels = _kernels(kernel)
  if transposed:
    # Turned around, k2 k1 k0 in place of k0 k1 k2, the outer ones of G k change places and the inner ones stay.
    kernels = [kernels[4 * i + j].T for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]

  def part(x):
    products = [d @ k for d, k in zip(_inputs(x), kernels, strict=True)]
    return _outputs(products, x.shape[:3])

  y = jax.lax.map(part, _in_parts(x))
  return y.reshape(-1, *y.shape[2:])[:len(x)]


def _forward(x, kernel, transposed):
  return conv3x3(x, kernel, transposed), (x, kernel)


def _backward(transposed, residuals, cotangent):
  x, kernel = residuals
  x_bar = conv3x3(cotangent, kernel, not transposed)
  # The transposed form has the kernel between the same two maps the other way around.
  image, output = (cotangent, x) if transposed else (x, cotangent)

  def add(total, part):
    products = [d.T @ m for d, m in zip(_inputs(part[0]), _outputs_backward(part[1]), strict=True)]
    return jax.tree.map(jnp.add, total, products), None

  zeros = [jnp.zeros(kernel.shape[2:], kernel.dtype)] * 16
  products, _ = jax.lax.scan(add, zeros, (_in_parts(image), _in_parts(output)))
  return x_bar, _kernels_backward(products)


conv3x3.defvjp(_forward, _backward)


def tiles(x):
  """Counts the tiles of 2x2 outputs of all images [B, H, W, c]."""
  return x.shape[0] * -(-x.shape[1] // 2) * -(-x.shape[2] // 2)


def _in_parts(x):
  """[parts, B / parts, H, W, c]: transformed maps, four times the size, stay few and near the processor."""
  parts = -(-tiles(x) // _TILES)
  each = -(-x.shape[0] // parts)
  x = jnp.pad(x, ((0, parts * each - x.shape[0]), (0, 0), (0, 0), (0, 0)))  # by black images
  return x.reshape(parts, each, *x.shape[1:])


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
