"""Weights from a recipe: the same numbers for a name and a shape, with PyTorch and without.

Kernels keep the size of what they pass on, and normalisations are far from the identity, so that a
tensor in a wrong place shows.
"""
import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Draws a tensor of PyTorch's form, seeded by its name."""
  random = np.random.default_rng(zlib.crc32(name.encode()))
  drawn = random.standard_normal(shape)
  if name.endswith('running_var'):
    found = 0.5 + np.abs(drawn)
  elif name.endswith('gamma') or (name.endswith('weight') and len(shape) == 1):
    found = 1 + 0.2 * drawn
  elif len(shape) < 2 or name in ('pos_embed', 'cls_token', 'positional_embedding'):
    found = 0.2 * drawn
  else:
    fan_in = shape[0] if name == 'proj' else int(np.prod(shape[1:]))
    found = drawn * (1.5 / fan_in) ** 0.5
  return found.astype(np.float32)


def images(size: int, number: int = 2) -> np.ndarray:
  """Draws normalised images [number, size, size, 3]: smooth, and unlike their mirror images."""
  random = np.random.default_rng(size)
  coarse = random.standard_normal((number, 5, 5, 3))
  places = np.linspace(0, 3.999, size)
  low = places.astype(int)
  part = (places - low)[:, None]
  rows = coarse[:, low] * (1 - part[None, ..., None]) + coarse[:, low + 1] * part[None, ..., None]
  both = rows[:, :, low] * (1 - part[None, None]) + rows[:, :, low + 1] * part[None, None]
  return (both + 0.1 * random.standard_normal(both.shape)).astype(np.float32)
