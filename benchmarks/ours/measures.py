"""What this library's worker measures: the measures of README.md by their names."""
import jax
import jax.numpy as jnp

from benchmarks.ours import adaptation, scoring, training
from benchmarks.ours.timed_unit import TimedUnit


def prepare(measure: str, mode: str, settings: dict) -> TimedUnit:
  """Prepares a measure.

  Args:
    measure: of README.md.
    mode: of this worker.
    settings: of the measure.

  Returns:
    A TimedUnit; its first run compiles.

  Raises:
    ValueError: an unknown measure or mode.
    KeyError: a setting is missing.
  """
  if measure not in _MEASURES:
    raise ValueError(f'expected measure to be one of {", ".join(_MEASURES)}, got {measure!r}')
  return _MEASURES[measure](mode, settings)


def product(mode: str, settings: dict) -> TimedUnit:
  """Prepares one product of two square matrices.

  Args:
    mode: not read.
    settings: `size` and `dtype`.

  Returns:
    A TimedUnit; its value is FLOP/s.
  """
  del mode
  dtype, size = jnp.dtype(settings['dtype']), settings['size']
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
  multiply = jax.jit(jnp.matmul)
  return TimedUnit(lambda: jax.block_until_ready(multiply(a, b)), amount=2 * size**3)


_MEASURES = {
    'meta_step': training.meta_step,
    'inner_loop': adaptation.inner_loop,
    'meta_test': scoring.task_scores,
    'input': training.meta_batches,
    'batching': adaptation.batching,
    'peak': product,
    'scaling': training.cycles,
}
