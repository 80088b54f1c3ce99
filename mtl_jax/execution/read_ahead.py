"""Values read ahead by threads: what the next steps need, while the device computes.

A stream calls a pure function of a number (`readers` makes them) ahead of time. One that starts at
step t therefore reads what the unbroken stream reads from t on: resuming needs no stored state.
"""
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np

from mtl_jax import checks
from mtl_jax.types import Tree


def stream(read: Callable[[int], Any], numbers: Sequence[int], *, num_threads: int = 4,
           prefetch: int = 4, device: Any = None) -> Generator[Any, None, None]:
  """Reads ahead by threads: read(number) for each of `numbers`, in their order.

  Reading starts at once. At most prefetch + 2 values exist at a time: those read ahead, the one
  being handed over, and the one handed over last. A value of 2 tasks of 80 images of 84x84 pixels
  in colour has 3.4 MB.

  Args:
    read: called from several threads, which run side by side where it releases Python's lock, as
      NumPy does.
    numbers: of steps, tasks or chunks; a `range`, or those of its numbers that are wanted.
    num_threads: at least 1.
    prefetch: values read ahead; 0 reads each one when it is asked for, in the caller's thread.
    device: device or sharding that the threads copy the values to, so that the transfer overlaps
      computing, too; None leaves them on the host.

  Returns:
    A generator; `close` ends it early, without waiting for what is being read.

  Raises:
    ValueError: `num_threads` or `prefetch` out of range.
    OSError: raised by the generator where `read` raised one, with the number; other errors come as
      they are.
  """
  for name, value, least in (('num_threads', num_threads, 1), ('prefetch', prefetch, 0)):
    if value < least:
      raise ValueError(f'expected {name} of at least {least}, got {value}')
  import grain  # Here: it defines flags of its own, and a run in memory does without it.

  def read_one(number):
    # An error is carried to the caller's thread and raised there: grain would add to its message
    # and cut its traceback.
    try:
      value = read(int(number))
      return (value if device is None else jax.device_put(value, device)), None
    except Exception as error:
      return None, error

  options = grain.ReadOptions(num_threads=min(num_threads, prefetch), prefetch_buffer_size=prefetch)
  source = grain.MapDataset.source(numbers)  # pyright: ignore[reportArgumentType]
  results = iter(source.map(read_one).to_iter_dataset(options))
  results.start_prefetch()
  return _values(results, numbers)


def _values(results, numbers):
  try:
    for number, (value, error) in zip(numbers, results, strict=True):
      if isinstance(error, (OSError, StopIteration)):
        raise OSError(f'item {number} of the stream could not be read: {error}') from error
      if error is not None:
        raise error
      yield value
  finally:
    results.close()


def on_cpu(function: Callable[..., Tree], *arguments: Tree) -> Callable[[int], Tree]:
  """Compiles function(number, *arguments) for the CPU: a draw never waits for the accelerator.

  It is compiled here and now: threads that call it compile nothing, and an error in it shows at
  once.

  Args:
    function: pure, of arrays.
    *arguments: trees of arrays, fixed from now on.

  Returns:
    number -> tree of NumPy arrays; callable from any thread.
  """
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError:  # JAX was told to leave the CPU alone.
    device = jax.local_devices()[0]
  arguments = jax.device_put(arguments, device)
  compiled = checks.jit(function)
  if not checks.ON:
    compiled = jax.jit(function).lower(np.int32(0), *arguments).compile()
  return lambda number: jax.tree.map(np.asarray, compiled(np.int32(number), *arguments))
