"""A product of two square matrices, for the peak that a step is held against."""
import time

import torch
from device import synchronize
from modes import set_precision


class Peak:
  """A product of two square matrices."""

  def __init__(self, arrays, mode, device, *, size, dtype):
    """Draws the matrices.

    Args:
      arrays: not read.
      mode: not read.
      device: of the matrices.
      size: side of the matrices.
      dtype: name of their type, or 'tf32' for float32 with rounded factors.
    """
    del arrays, mode
    set_precision(dtype)
    dtype = getattr(torch, 'float32' if dtype == 'tf32' else dtype)
    self.left, self.right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    self.out, self.device = torch.empty_like(self.left), device

  def run(self):
    """Multiplies.

    Returns:
      Floating-point operations per second.
    """
    synchronize(self.device)
    start = time.perf_counter()
    torch.mm(self.left, self.right, out=self.out)
    synchronize(self.device)
    return 2 * len(self.left) ** 3 / (time.perf_counter() - start)
