"""The end of a block of ResNet-12, whose backward pass keeps one byte per pooled value, and not the maps before it."""
import functools

import jax
import jax.numpy as jnp

from mtl_jax.backbones.layers import max_pool, relu


def add_and_pool(x, shortcut, slope):
  """Takes the largest of relu(x) + shortcut in each 2x2 patch, dropping an odd last row or column.

  On an accelerator its gradient is that of `pool_by_places`. On a CPU the compiler drops the barrier in that, and looks
  for the places again in maps that it keeps after all. Of several equal maxima the first by rows gets the gradient, as
  in PyTorch; on a CPU they share it.

  Args:
    x: [B, H, W, C], before its activation.
    shortcut: like x.
    slope: of the activation where x is negative, as `relu` has it.

  Returns:
    [B, H // 2, W // 2, C].
  """
  if jax.default_backend() == 'cpu':
    return max_pool(relu(x, slope) + shortcut)
  return pool_by_places(x, shortcut, slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pool_by_places(x, shortcut, slope):
  """Does what `add_and_pool` does, with a gradient that depends on one byte per patch.

  The gradient of a patch goes to the place of its maximum alone, so the backward pass needs to know that place and
  whether x was positive there, and reads neither of the two maps again. It differentiates in reverse mode, any number
  of times, and not in forward mode.

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
  x_bar = jnp.where(kept < 4, cotangent, slope * cotangent if slope else 0)
  return _to_places(x_bar, kept, like.shape[1:]), _to_places(cotangent, kept, like.shape[1:])


pool_by_places.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_places(x, shortcut, slope):
  """The values of `_pool`; with a rule of its own, since whoever differentiates twice differentiates `_forward` too."""
  return _pool(x, shortcut, slope)


def _with_places_forward(x, shortcut, slope):
  pooled, kept = _with_places(x, shortcut, slope)
  return (pooled, kept), (kept, jnp.zeros((0, *x.shape[1:3])))  # of the latter, the shape matters


def _with_places_backward(slope, residuals, cotangents):
  return _backward(slope, residuals, cotangents[0])  # a place has no derivative


_with_places.defvjp(_with_places_forward, _with_places_backward)


def _pool(x, shortcut, slope):
  """Maxima, and for each of them a byte: its place 0-3 in the patch, by rows, plus 4 where x is not positive there."""
  corners = _corners(relu(x, slope) + shortcut)
  codes = [jnp.where(corner > 0, jnp.uint8(place), jnp.uint8(place + 4)) for place, corner in enumerate(_corners(x))]
  rows = [jnp.maximum(*corners[:2]), jnp.maximum(*corners[2:])]
  row_codes = [jnp.where(corners[1] > corners[0], codes[1], codes[0]),
               jnp.where(corners[3] > corners[2], codes[3], codes[2])]
  kept = jnp.where(rows[1] > rows[0], row_codes[1], row_codes[0])
  return jax.lax.optimization_barrier((jnp.maximum(*rows), kept))  # else the compiler may find the places anew


def _corners(x):
  batch, height, width, channels = x.shape
  x = x[:, :height // 2 * 2, :width // 2 * 2].reshape(batch, height // 2, 2, width // 2, 2, channels)
  return [x[:, :, row, :, column] for row in range(2) for column in range(2)]


def _to_places(pooled, kept, shape):
  """A map of that height and width which has each value at its place, and else 0."""
  batch, rows, columns, channels = pooled.shape
  places = jnp.arange(4, dtype=jnp.uint8).reshape(2, 1, 2, 1)
  here = (kept & 3)[:, :, None, :, None] == places
  x = jnp.where(here, pooled[:, :, None, :, None], 0).reshape(batch, 2 * rows, 2 * columns, channels)
  return jnp.pad(x, ((0, 0), (0, shape[0] - 2 * rows), (0, shape[1] - 2 * columns), (0, 0)))
