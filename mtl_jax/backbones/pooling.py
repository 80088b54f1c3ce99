"""Pooling, with gradients that are fast on CPU and keep little for the backward pass elsewhere.

The end of a block of ResNet-12, `add_and_pool`, keeps one byte per pooled value on accelerators in
place of the two maps before it.
"""
import functools

import jax
import jax.numpy as jnp

from mtl_jax.backbones.layers import relu

_NOT_POSITIVE = 4  # added to a place (0-3) where x, before its activation, is not positive there


def global_average(x: jax.Array) -> jax.Array:
  """Averages over all pixels.

  Args:
    x: [B, H, W, C].

  Returns:
    [B, C], at least float32.
  """
  return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def max_pool(x: jax.Array) -> jax.Array:
  """Returns the maximum of each 2x2 patch; an odd last row or column is dropped.

  It is written as maxima of pairs. Their gradient is elementwise, where the gradient of a
  reduce-window is a scatter, which is slow on CPU; and it only asks which of two is larger. The
  gradient of a `jnp.max` over the patch asks which element equals the maximum, and is wrong where
  the compiler computes x twice with different rounding.

  Args:
    x: [B, H, W, C].

  Returns:
    [B, H // 2, W // 2, C].
  """
  batch, height, width, channels = x.shape
  x = x[:, :height // 2 * 2, :width // 2 * 2]
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def max_pool3x3(x: jax.Array) -> jax.Array:
  """Returns the maximum of each 3x3 patch, every second pixel, padded by one: rows, then columns.

  As in `max_pool`, it is written as maxima of pairs; x is not negative, so zeros pad it.

  Args:
    x: [B, H, W, C], of at least 0 everywhere.

  Returns:
    [B, ceil(H / 2), ceil(W / 2), C].
  """
  for axis in (1, 2):
    end = 2 * ((x.shape[axis] + 1) // 2) - 1  # of the last place that a patch begins at, plus one
    x = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
    first, second, third = (jax.lax.slice_in_dim(x, i, i + end, 2, axis) for i in range(3))
    x = jnp.maximum(jnp.maximum(first, second), third)
  return x


def add_and_pool(x: jax.Array, shortcut: jax.Array, slope: float) -> jax.Array:
  """Computes the largest relu(x) + shortcut of each 2x2 patch; drops an odd last row or column.

  On an accelerator its gradient is that of `pool_by_places`. On a CPU the compiler would drop the
  barrier in that function, and look for the places again in maps that it keeps after all. Of
  several equal maxima the first by rows gets the gradient, as in PyTorch; on a CPU they share it.

  Args:
    x: [B, H, W, C], before its activation.
    shortcut: like x.
    slope: of the activation where x is negative, as in `relu`.

  Returns:
    [B, H // 2, W // 2, C].
  """
  if jax.default_backend() == 'cpu':
    return max_pool(relu(x, slope) + shortcut)
  return pool_by_places(x, shortcut, slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pool_by_places(x: jax.Array, shortcut: jax.Array, slope: float) -> jax.Array:
  """Computes what `add_and_pool` does, with a gradient that depends on one byte per patch.

  The gradient of a patch goes to the place of its maximum alone. So the backward pass needs that
  place, and whether x was positive there, and reads neither of the two maps again. It
  differentiates in reverse mode, any number of times, and not in forward mode.

  Args:
    x: [B, H, W, C].
    shortcut: like x.
    slope: of the activation.

  Returns:
    [B, H // 2, W // 2, C].
  """
  return max_pool(relu(x, slope) + shortcut)


def _forward(x, shortcut, slope):
  (pooled, _), residuals = _with_places_forward(x, shortcut, slope)
  return pooled, residuals


def _backward(slope, residuals, cotangent):
  kept, like = residuals
  x_bar = jnp.where(kept < _NOT_POSITIVE, cotangent, slope * cotangent if slope else 0)
  return _to_places(x_bar, kept, like.shape[1:]), _to_places(cotangent, kept, like.shape[1:])


pool_by_places.defvjp(_forward, _backward)


def _pool_with_places(x, shortcut, slope):
  """Maxima, and for each of them a byte: its place in the patch by rows, plus `_NOT_POSITIVE`."""
  corners = _corners(relu(x, slope) + shortcut)
  codes = [jnp.where(corner > 0, jnp.uint8(place), jnp.uint8(place + _NOT_POSITIVE))
           for place, corner in enumerate(_corners(x))]
  rows = [jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:])]
  # A later place is taken only where its value is larger, so of equal values the first one stays.
  row_codes = [jnp.where(corners[1] > corners[0], codes[1], codes[0]),
               jnp.where(corners[3] > corners[2], codes[3], codes[2])]
  kept = jnp.where(rows[1] > rows[0], row_codes[1], row_codes[0])
  # Without the barrier the compiler may find the places anew from the maps, and keep those.
  return jax.lax.optimization_barrier((jnp.maximum(*rows), kept))


# A second derivative differentiates `_forward` too, so that has a rule of its own.
_with_places = jax.custom_vjp(_pool_with_places, nondiff_argnums=(2,))


def _with_places_forward(x, shortcut, slope):
  pooled, kept = _with_places(x, shortcut, slope)
  # The zeros hold no values: they carry height and width to the backward pass.
  return (pooled, kept), (kept, jnp.zeros((0, *x.shape[1:3])))


def _with_places_backward(slope, residuals, cotangents):
  return _backward(slope, residuals, cotangents[0])  # a place has no derivative


_with_places.defvjp(_with_places_forward, _with_places_backward)


def _corners(x):
  """The four values of each 2x2 patch, by rows: four arrays [B, H // 2, W // 2, C]."""
  batch, height, width, channels = x.shape
  x = x[:, :height // 2 * 2, :width // 2 * 2]
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return [x[:, :, row, :, column] for row in range(2) for column in range(2)]


def _to_places(pooled, kept, shape):
  """A map of that height and width with each value at its place, and 0 elsewhere."""
  batch, rows, columns, channels = pooled.shape
  places = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
  here = (kept & (_NOT_POSITIVE - 1))[:, :, None, :, None] == places
  x = jnp.where(here, pooled[:, :, None, :, None], 0)
  x = x.reshape(batch, 2 * rows, 2 * columns, channels)
  return jnp.pad(x, ((0, 0), (0, shape[0] - 2 * rows), (0, shape[1] - 2 * columns), (0, 0)))
