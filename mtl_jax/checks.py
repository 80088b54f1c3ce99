"""Checks of values at public borders: made where values are known, skipped where they are traced.

Under `jax.jit`, `vmap` or `grad` nothing can be raised by a value; the docstrings say what comes
out then. With MTL_JAX_CHECKS=1 in the environment, what `jit` of this module compiles looks at
traced values too (`checkify`), and raises after the call. All commands compile by it.
"""
import contextvars
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

ON = os.environ.get('MTL_JAX_CHECKS', '') not in ('', '0')

# Whether what is traced now has `checkify` around it: a check without it could not be compiled.
_functionalised = contextvars.ContextVar('functionalised', default=False)


def jit(function: Callable, **options: Any) -> Callable:
  """Returns `jax.jit` of a function; under MTL_JAX_CHECKS=1 traced values in it are checked.

  What is traced before under a plain `jax.jit` stays unchecked where it is called within.

  Args:
    function: pure; its keyword arguments are static.
    **options: as of `jax.jit`.

  Returns:
    The compiled function. Checked, it waits for its results, and raises a ValueError of one line
    where a value is wrong.
  """
  plain = jax.jit(function, **options)

  def marked(*arguments, **settings):
    token = _functionalised.set(True)
    try:
      return function(*arguments, **settings)
    finally:
      _functionalised.reset(token)

  @functools.wraps(function)
  def with_error(*arguments, **settings):  # `checkify` would trace settings that are static
    return checkify.checkify(functools.partial(marked, **settings))(*arguments)

  checked = jax.jit(with_error, **options)

  @functools.wraps(function)
  def call(*arguments, **settings):
    if not ON:
      return plain(*arguments, **settings)
    if _functionalised.get():  # traced within another: a part of it
      return function(*arguments, **settings)
    error, result = checked(*arguments, **settings)
    if (message := error.get()) is not None:
      raise ValueError(message.splitlines()[0].removesuffix(' (`check` failed)'))
    return result

  return call


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


def looked_at(x: Any) -> bool:
  """Whether a traced value is looked at, as MTL_JAX_CHECKS=1 wants.

  Args:
    x: an array.
  """
  return _functionalised.get() and isinstance(x, jax.core.Tracer)


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
  if looked_at(values):
    return _refuse((values < 0) | (values >= way), values, f'expected {name} from 0 to {way - 1}')
  found = known(values)
  if found is not None and found.size and not 0 <= found.min() <= found.max() < way:
    wrong = found[(found < 0) | (found >= way)]
    raise ValueError(f'expected {name} from 0 to {way - 1}, got {wrong.reshape(-1)[0]}')


def distinct(name: str, values: Any) -> None:
  """Refuses numbers of which two are the same.

  Args:
    name: of the argument.
    values: int [n].

  Raises:
    ValueError: two are the same, of known values.
  """
  if looked_at(values):
    in_order = jnp.sort(values)
    again = jnp.concatenate([jnp.zeros(1, bool), in_order[1:] == in_order[:-1]])
    return _refuse(again, in_order, f'expected distinct {name}')
  found = known(values)
  if found is not None and len(np.unique(found)) < found.size:
    raise ValueError(f'expected distinct {name}, got {found.tolist()}')


def at_least(name: str, values: Any, least: float) -> None:
  """Refuses numbers that are below a bound, NaN or infinite.

  Args:
    name: of the argument.
    values: a number, or an array of numbers.
    least: the bound.

  Raises:
    ValueError: such a number, of known values.
  """
  if looked_at(values):
    wrong = ~jnp.isfinite(values) | (values < least)
    return _refuse(wrong, values, f'expected {name} of at least {least:g}')
  found = known(values)
  if found is None:
    return
  wrong = ~np.isfinite(found) | (found < least)
  if wrong.any():
    raise ValueError(f'expected {name} of at least {least:g}, got '
                     f'{found[wrong].reshape(-1)[0]}')


def finite(name: str, values: Any) -> None:
  """Refuses NaN and infinite numbers, of traced values under MTL_JAX_CHECKS=1 alone.

  Args:
    name: of the argument.
    values: floats.
  """
  if looked_at(values):
    _refuse(~jnp.isfinite(values), values, f'expected finite {name}')


def _refuse(wrong: jax.Array, values: jax.Array, expected: str) -> None:
  """Makes the compiled call raise where any value is wrong, by the first of them."""
  first = jnp.ravel(values)[jnp.argmax(jnp.ravel(wrong))]
  checkify.check(~jnp.any(wrong), f'{expected}, got {{found}}', found=first)
