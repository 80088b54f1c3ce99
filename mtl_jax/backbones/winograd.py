"""A 3x3 convolution by Winograd's minimal filtering, F(4x4, 3x3): 36 products in place of 144.

      y = Aᵀ [(G k Gᵀ) ⊙ (Bᵀ d B)] A      for each tile d of 6x6 inputs, which makes 4x4 outputs

Tiles overlap by two pixels. Summed over channels, each of the 36 places of a tile is a product of
matrices, [tiles, c_in] with [c_in, c_out]. Transforming takes time too, so it pays where channels
are many (`layers.conv` decides).

The columns of A and the rows of G and Bᵀ belong to points at which polynomials are evaluated. The
usual points, 0, ±1, ±2 and infinity, round ten times as coarsely as the direct form does in
float32; the points used here, five times: with 256 channels 1.5e-6 of the root mean square of y,
where the direct form has 0.3e-6.

References: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4;
on points: Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for
Deep Neural Networks, 2020.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

_POINTS = np.array([0, 0.75, -0.75, 1.5, -1.5])  # and infinity
# Tiles times channels of one part; larger parts leave the processor's cache, and smaller ones keep
# it waiting.
_PART = 2**16


def _matrices(points):
  """Aᵀ [4, 6], G [6, 3] and Bᵀ [6, 6] of five points and infinity (Toom-Cook construction)."""
  others = [np.delete(points, i) for i in range(5)]
  a = np.append(np.vander(points, 4, increasing=True), [[0, 0, 0, 1]], axis=0)
  divisors = [[np.prod(p - o)] for p, o in zip(points, others, strict=True)]
  g = np.vander(points, 3, increasing=True) / divisors
  polynomials = [np.append(np.poly(o)[::-1], 0) for o in others] + [np.poly(points)[::-1]]
  return a.T, np.append(g, [[0, 0, 1]], axis=0), np.stack(polynomials)


# For rows and columns at once: 16 pixels from 36 places, 36 places from 9 taps and from 36 pixels.
_OUTPUTS, _KERNELS, _INPUTS = (np.kron(m, m) for m in _matrices(_POINTS))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3(x: jax.Array, kernel: jax.Array, transposed: bool = False) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 1, zero padding of one pixel.

  It differentiates in reverse mode, any number of times, and not in forward mode.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].
    transposed: whether to convolve with the kernel of the gradient to the inputs: turned by 180
      degrees, c_in and c_out exchanged.

  Returns:
    [B, H, W, c_out]; [B, H, W, c_in] of x [B, H, W, c_out] if `transposed`.
  """
  taps = kernel.reshape(9, *kernel.shape[2:])
  transform = _KERNELS[:, ::-1] if transposed else _KERNELS
  product = 'ptd,pcd->ptc' if transposed else 'ptc,pcd->ptd'

  def part(x):
    # The barrier binds the transformed kernel to x, so that every part makes it anew. Without it
    # the compiler makes those of all layers at once, and they are four times the kernels.
    x, k = jax.lax.optimization_barrier((x, taps))
    return _outputs(jnp.einsum(product, _inputs(x), _apply(transform, k)), x.shape[:3])

  y = jax.lax.map(part, _in_parts(x, max(kernel.shape[2:])))
  return y.reshape(-1, *y.shape[2:])[:len(x)]


def _conv3x3_forward(x, kernel, transposed):
  return conv3x3(x, kernel, transposed), (x, kernel)


def _conv3x3_backward(transposed, residuals, cotangent):
  x, kernel = residuals
  x_bar = conv3x3(cotangent, kernel, not transposed)
  # The transposed form has the kernel between the same two maps the other way around.
  maps = (cotangent, x) if transposed else (x, cotangent)
  return x_bar, kernel_gradient(*maps)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


@jax.custom_vjp
def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Computes the gradient of `conv3x3` to its kernel.

  Args:
    x: [B, H, W, c_in], what the kernel was convolved with.
    cotangent: [B, H, W, c_out], the gradient to the output.

  Returns:
    [3, 3, c_in, c_out].
  """
  shape = (3, 3, x.shape[3], cotangent.shape[3])

  def add(total, part):
    x, cotangent = part
    places = jnp.einsum('ptc,ptd->pcd', _inputs(x), _outputs_backward(cotangent))
    return total + _apply(_KERNELS.T, places).reshape(shape), None

  parts = tuple(_in_parts(maps, max(shape)) for maps in (x, cotangent))
  return jax.lax.scan(add, jnp.zeros(shape, x.dtype), parts)[0]


def _kernel_gradient_forward(x, cotangent):
  return kernel_gradient(x, cotangent), (x, cotangent)


def _kernel_gradient_backward(residuals, kernel):
  # The gradient is linear in both maps, and its own cotangent is a kernel again.
  x, cotangent = residuals
  return conv3x3(cotangent, kernel, True), conv3x3(x, kernel)


kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def tiles(x: jax.Array | jax.ShapeDtypeStruct) -> int:
  """Counts the tiles of 4x4 outputs of all images.

  Args:
    x: [B, H, W, c], or its shape and dtype.

  Returns:
    B * ceil(H / 4) * ceil(W / 4).
  """
  return x.shape[0] * -(-x.shape[1] // 4) * -(-x.shape[2] // 4)


def _in_parts(x, channels):
  """x as [parts, images, H, W, c]: a part's transformed maps, which are larger, fit the cache."""
  images = len(x)
  most = min(images, max(1, images * _PART // (tiles(x) * channels)))
  # Equal parts need no padding; parts of less than half the size would keep the processor waiting.
  each = next((n for n in range(most, most // 2, -1) if images % n == 0), most)
  parts = -(-images // each)
  x = jnp.pad(x, ((0, parts * each - images), (0, 0), (0, 0), (0, 0)))  # by black images
  return x.reshape(parts, each, *x.shape[1:])


# The transforms are few operations each, since a compiler takes its time over every one of them.

def _apply(matrix, x):
  """The product of a constant [m, n] with x [n, ...]."""
  return (jnp.asarray(matrix, x.dtype) @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])


def _inputs(x):
  """Bᵀ d B of all tiles of x [B, H, W, c]: [36, tiles, c]."""
  rows, columns = -x.shape[1] % 4, -x.shape[2] % 4
  x = jnp.pad(x, ((0, 0), (1, 1 + rows), (1, 1 + columns), (0, 0)))
  # Axis 2 is that of columns, and then, after the new leading axis, that of rows.
  for _ in range(2):
    x = jnp.stack([x[:, :, i:x.shape[2] - 5 + i:4] for i in range(6)])
  return _apply(_INPUTS, x.reshape(36, -1, x.shape[-1]))


def _outputs(places, shape):
  """Aᵀ m A of all places [36, tiles, c], put together again: [B, H, W, c]."""
  batch, height, width = shape
  y = _apply(_OUTPUTS, places).reshape(4, 4, batch, -(-height // 4), -(-width // 4), -1)
  y = y.transpose(2, 3, 0, 4, 1, 5)
  return y.reshape(batch, 4 * y.shape[1], 4 * y.shape[3], -1)[:, :height, :width]


def _outputs_backward(y):
  """A y Aᵀ of all tiles of y [B, H, W, c]: [36, tiles, c]."""
  batch, height, width, channels = y.shape
  y = jnp.pad(y, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
  y = y.reshape(batch, y.shape[1] // 4, 4, y.shape[2] // 4, 4, channels)
  return _apply(_OUTPUTS.T, y.transpose(2, 4, 0, 1, 3, 5).reshape(16, -1, channels))
