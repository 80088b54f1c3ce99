"""How far a run is: a bar on a terminal, plain lines elsewhere."""
import collections
import sys
import time
from typing import IO, Any

_SECONDS_BETWEEN_LINES = 5.0
_RATE_OVER_UPDATES = 50  # so that the rate follows what other programs leave of the machine
_BAR_WIDTH = 24          # characters


class Progress:
  """Shows how far a run is, how fast, and how long it still takes; a context.

  On a terminal a bar; elsewhere plain lines: the first, the last, and one in five seconds between
  them.

  Args:
    total_steps: steps of the whole run.
    label: what is running.
    first_step: step that the run goes on from.
    stream: where to write; standard output where None.
  """

  def __init__(self, total_steps: int, label: str, first_step: int = 0,
               stream: IO[str] | None = None):
    self._total, self._label, self._first = total_steps, label, first_step
    self._stream = sys.stdout if stream is None else stream
    self._recent: collections.deque[tuple[float, int]] = collections.deque(
        maxlen=_RATE_OVER_UPDATES)          # (seconds, step), the first after compiling
    self._unprinted: str | None = None      # the newest line, if it was not printed
    self._printed_at = -float('inf')
    self._bar: Any = None                   # rich's, on a terminal

  def __enter__(self) -> 'Progress':
    if self._stream.isatty():
      from rich import console, progress  # slow to import, and logs need no bar
      self._bar = progress.Progress(
          progress.TextColumn('{task.description}'),
          progress.BarColumn(bar_width=_BAR_WIDTH),
          progress.TextColumn('{task.completed}/{task.total} {task.fields[text]}', markup=False),
          console=console.Console(file=self._stream))
      self._task = self._bar.add_task(
          self._label, total=self._total, completed=self._first, text='')
      self._bar.start()
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    if self._bar is not None:
      self._bar.stop()
    elif self._unprinted is not None:
      self._print(self._unprinted)

  def update(self, step: int, **values: float) -> None:
    """Reports one step.

    Args:
      step: steps taken so far, of the whole run.
      **values: name -> number to show, such as loss and accuracy.
    """
    now = time.monotonic()
    self._recent.append((now, step))
    shown = [f'{name} {value:.4g}' for name, value in values.items()]
    text = '  '.join(self._rate_and_time_left() + shown)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, text=text)
      return
    self._unprinted = f'{self._label} {step}/{self._total}  {text}'.rstrip()
    if step >= self._total or now - self._printed_at >= _SECONDS_BETWEEN_LINES:
      self._print(self._unprinted)
      self._printed_at = now

  def say(self, line: str) -> None:
    """Prints a line of its own, above the bar where there is one.

    Args:
      line: without a line break.
    """
    if self._bar is not None:
      self._bar.console.print(line, markup=False, highlight=False)
    else:
      self._print(line)

  def _rate_and_time_left(self) -> list[str]:
    """Returns both as texts, by the recent updates."""
    (start, first), (end, last) = self._recent[0], self._recent[-1]
    # Nothing can be said before the second update, and the first has waited for the compiler.
    if end <= start or last <= first:
      return []
    rate = (last - first) / (end - start)
    minutes, seconds = divmod(round(max(self._total - last, 0) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return [f'{rate:.3g} steps/s', f'{hours}:{minutes:02}:{seconds:02} left']

  def _print(self, line: str) -> None:
    print(line, file=self._stream, flush=True)  # flushed, as whoever follows a log waits for it
    self._unprinted = None
