"""A trace of a few steady calls of a run, for XProf (TensorBoard's profile plugin) or Perfetto."""
import contextlib

import jax
from absl import logging

CALLS = 3  # that are traced


class Trace:
  """Traces the second to the fourth call of a loop, as the first one compiles.

  Writes `plugins/profile/TIME/*.xplane.pb`, which XProf opens, and `perfetto_trace.json.gz` beside it.

  Args:
    folder: where to write; None for no trace.
  """

  def __init__(self, folder: str | None):
    self._folder, self._calls = folder, 0
    self._open = contextlib.ExitStack()

  def before_call(self) -> None:
    """To be called before each call of the loop; the loop waits for each call to end."""
    if self._folder is None:
      return
    self._calls += 1
    if self._calls == 2:
      self._open.enter_context(jax.profiler.trace(self._folder, create_perfetto_trace=True))
    elif self._calls == 2 + CALLS:
      self.close()

  def close(self) -> None:
    """Ends and writes the trace, with as many calls as there were."""
    if self._folder is None:
      return
    if self._calls < 2:
      logging.warning('no trace in %s: expected at least 2 calls of the loop, got %d; give more --steps', self._folder,
                      self._calls)
    else:
      self._open.close()
      logging.info('trace of %d calls in %s: open it with XProf, or its perfetto_trace.json.gz in ui.perfetto.dev',
                   min(self._calls - 1, CALLS), self._folder)
    self._folder = None
