"""Position embeddings of a vision transformer, resampled for an image of another size."""
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

# 'antialiased': timm and CLIP (PyTorch's bicubic with antialias). 'offset': DINOv2, without
# antialias, whose code adds a tenth of a patch to the size that it asks for.
Interpolation = Literal['antialiased', 'offset']


def resample(positions: jax.Array, old: tuple[int, int], new: tuple[int, int],
             interpolation: Interpolation) -> jax.Array:
  """Resamples the embeddings of a grid of patches; that of the class token stays.

  Args:
    positions: [1 + rows * columns, d], the class token first.
    old: (rows, columns) that they were learned for.
    new: (rows, columns) of the image.
    interpolation: whose form of bicubic interpolation.

  Returns:
    [1 + new rows * new columns, d]; the same array where the grid is the same.
  """
  if old == new:
    return positions
  rows, columns = (_weights(n, m, interpolation) for n, m in zip(old, new, strict=True))
  grid = positions[1:].reshape(*old, -1)
  grid = jnp.einsum('ri,cj,ijd->rcd', jnp.asarray(rows), jnp.asarray(columns), grid,
                    precision='highest')
  return jnp.concatenate([positions[:1], grid.reshape(-1, grid.shape[-1])])


@functools.cache
def _weights(old: int, new: int, interpolation: Interpolation) -> np.ndarray:
  """Matrix [new, old] of bicubic interpolation along one axis, as PyTorch computes it.

  The cubic kernel has a = -0.5 with antialias, as Pillow's, and -0.75 without. With antialias it
  widens where the grid shrinks, and leaves out what lies beyond the edge; without it, the edge
  repeats.
  """
  antialiased = interpolation == 'antialiased'
  step = old / new if antialiased else old / (new + 0.1)
  widening = max(step, 1.0) if antialiased else 1.0
  centers = (np.arange(new) + 0.5) * step - 0.5
  places = np.arange(-4, old + 4) if not antialiased else np.arange(old)
  weights = _cubic((places[None] - centers[:, None]) / widening, -0.5 if antialiased else -0.75)
  if antialiased:
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
  folded = np.zeros((new, old))
  np.add.at(folded.T, np.clip(places, 0, old - 1), weights.T)
  return folded.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution kernel."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
