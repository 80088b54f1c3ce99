"""A trace of a few steady calls of a run, for XProf (TensorBoard's profile plugin) or Perfetto."""
import contextlib

import jax
from absl import logging

TRACED_CALLS = 3
_FIRST_TRACED = 2  # the first call compiles, which would drown the others


class Trace:
  """Traces the second to the fourth call of a loop.

  It writes `plugins/profile/TIME/*.xplane.pb`, which XProf opens, and `perfetto_trace.json.gz`
  beside it.

  Args:
    folder: where to write; None for no trace.
  """

  def __init__(self, folder: str | None):
    self._folder, self._calls = folder, 0
    self._open = contextlib.ExitStack()

  def before_call(self) -> None:
    """Counts a call of the loop that is about to start; the loop must wait for each to end."""
    if self._folder is None:
      return
    self._calls += 1
    if self._calls == _FIRST_TRACED:
      self._open.enter_context(jax.profiler.trace(self._folder, create_perfetto_trace=True))
    elif self._calls == _FIRST_TRACED + TRACED_CALLS:
      self.close()

  def close(self) -> None:
    """Ends and writes the trace, of fewer calls where the loop ended before."""
    if self._folder is None:
      return
    if self._calls < _FIRST_TRACED:
      logging.warning('no trace in %s: expected at least %d calls of the loop, got %d; give more '
                      '--steps', self._folder, _FIRST_TRACED, self._calls)
    else:
      self._open.close()
      traced = min(self._calls - _FIRST_TRACED + 1, TRACED_CALLS)
      logging.info('trace of %d calls in %s: open it with XProf, or its perfetto_trace.json.gz in '
                   'ui.perfetto.dev', traced, self._folder)
    self._folder = None
