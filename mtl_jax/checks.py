"""Checks of values at public borders: made where values are known, skipped where they are traced.

Under `jax.jit`, `vmap` or `grad` nothing can be raised by a value; the docstrings say what comes
out then.
"""
from typing import Any

import jax
import jax.core
import numpy as np


def known(x: Any) -> np.ndarray | None:
  """Returns the values of an array; None where it is traced, or lies on other hosts too.

  Args:
    x: an array, or what NumPy makes one of.
  """
  if isinstance(x, jax.core.Tracer):
    return None
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return None
  return np.asarray(x)


def labels(name: str, values: Any, way: int) -> None:
  """Refuses labels outside of [0, way), and labels that are no whole numbers.

  Args:
    name: of the argument.
    values: int [n].
    way: N, number of classes.

  Raises:
    ValueError: such a label, of known values; a float dtype, of any.
  """
  if not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f'expected {name} of whole numbers, got {values.dtype}')
  found = known(values)
  if found is not None and found.size and not 0 <= found.min() <= found.max() < way:
    wrong = found[(found < 0) | (found >= way)]
    raise ValueError(f'expected {name} from 0 to {way - 1}, got {wrong.reshape(-1)[0]}')


def at_least(name: str, values: Any, least: float) -> None:
  """Refuses numbers that are below a bound, NaN or infinite.

  Args:
    name: of the argument.
    values: a number, or an array of numbers.
    least: the bound.

  Raises:
    ValueError: such a number, of known values.
  """
  found = known(values)
  if found is None:
    return
  wrong = ~np.isfinite(found) | (found < least)
  if wrong.any():
    raise ValueError(f'expected {name} of at least {least:g}, got '
                     f'{found[wrong].reshape(-1)[0]}')
