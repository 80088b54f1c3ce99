"""What a run reports while it goes: metrics as JSON lines and TensorBoard events, and its progress.

`metrics.jsonl` holds nothing that depends on the clock, and a resumed run first removes what it will write
again, so that the file of a run killed and resumed is byte for byte that of an unbroken run.
"""
import collections
import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import IO

_SECONDS_BETWEEN_LINES = 5.0
_RATE_OVER_UPDATES = 50


class MetricWriter:
  """Appends the metrics of a run to `<workdir>/metrics.jsonl` and to TensorBoard; a context.

  Write the line of a step before its checkpoint: a run resumed from step s keeps the lines up to s.

  Args:
    workdir: directory of the run; made where it is missing.
    resume_step: step that the run goes on from; later lines are removed, and a last line cut short. 0: the
      run starts, all its lines are removed.
    phase: name that goes into every line; lines of other phases stay as they are.
  """

  def __init__(self, workdir: str | os.PathLike, resume_step: int = 0, phase: str | None = None):
    os.makedirs(workdir, exist_ok=True)
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._phase = phase
    _remove_later_lines(self._path, resume_step, phase)
    self._file = open(self._path, 'a', encoding='utf-8', newline='\n')
    # One folder per phase, as TensorBoard purges all curves of a folder together.
    self._events = _EventFile(os.path.join(workdir, 'tensorboard', phase or ''), resume_step)

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    try:
      self.close()
    except OSError:
      if error_type is None:  # It must not hide the error that ended the block.
        raise

  def write(self, step: int, values: Mapping[str, float], timings: Mapping[str, float] | None = None) -> None:
    """Writes one line, and the same scalars to TensorBoard.

    Args:
      step: steps taken so far.
      values: name -> number; float32 comes back exactly. Where not finite, NaN or Infinity is written.
      timings: rates and durations, which differ from run to run: they go to TensorBoard only.

    Raises:
      OSError: the line or the events cannot be written.
    """
    values = {name: float(value) for name, value in values.items()}
    head = {'step': int(step)} | ({'phase': self._phase} if self._phase else {})
    try:
      self._file.write(json.dumps(head | values) + '\n')
      self._file.flush()
    except OSError as error:
      raise OSError(f'could not write {self._path}: {error.strerror}') from error
    self._events.write(int(step), values | dict(timings or {}))

  def close(self) -> None:
    """Closes both files."""
    try:
      self._events.close()
    finally:
      self._file.close()


class _EventFile:
  """TensorBoard events by tensorboardX's file format, written at once.

  Its own `SummaryWriter` writes from a thread; where the disk is full that thread dies and the run would wait for it
  for ever.
  """

  def __init__(self, folder: str, resume_step: int):
    from tensorboardX import event_file_writer, summary  # slow to import, and not all importers of this module write
    from tensorboardX.proto import event_pb2
    self._event, self._session, self._summary = event_pb2.Event, event_pb2.SessionLog, summary.scalar
    os.makedirs(folder, exist_ok=True)
    self._path = folder
    self._writer = event_file_writer.EventsWriter(os.path.join(folder, 'events'), f'.{os.getpid()}')
    if resume_step:  # TensorBoard hides what an earlier process wrote from here on.
      self._put(step=resume_step + 1, session_log=self._session(status=self._session.START))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._put(step=step, summary=self._summary(name, float(value)))
    self._flush()

  def _put(self, **content) -> None:
    with self._named_errors():
      self._writer.write_event(self._event(wall_time=time.time(), **content))

  def _flush(self) -> None:
    with self._named_errors():
      self._writer.flush()

  def close(self) -> None:
    with self._named_errors():
      self._writer.close()

  @contextlib.contextmanager
  def _named_errors(self):
    try:
      yield
    except OSError as error:
      raise OSError(f'could not write TensorBoard events in {self._path}: {error.strerror}') from error


class Progress:
  """Shows how far a run is, how fast, and how long it still takes; a context.

  On a terminal a bar; elsewhere plain lines: the first, the last, and one in five seconds between them.

  Args:
    total_steps: steps of the whole run.
    label: what is running.
    first_step: step that the run goes on from.
    stream: where to write; standard output where None.
  """

  def __init__(self, total_steps: int, label: str, first_step: int = 0, stream: IO[str] | None = None):
    self._total, self._label, self._first = total_steps, label, first_step
    self._stream = sys.stdout if stream is None else stream
    self._recent = collections.deque(maxlen=_RATE_OVER_UPDATES)  # (seconds, step), the first after compiling
    self._unprinted = None  # the newest line, if it was not printed
    self._printed_at = -float('inf')
    self._bar = None

  def __enter__(self) -> 'Progress':
    if self._stream.isatty():
      from rich import console, progress
      self._bar = progress.Progress(
        progress.TextColumn('{task.description}'), progress.BarColumn(bar_width=24),
        progress.TextColumn('{task.completed}/{task.total} {task.fields[text]}', markup=False),
        console=console.Console(file=self._stream))
      self._task = self._bar.add_task(self._label, total=self._total, completed=self._first, text='')
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
    """Over the recent updates; nothing before the second, as the first waits for the compiler."""
    (start, first), (end, last) = self._recent[0], self._recent[-1]
    if end <= start or last <= first:
      return []
    rate = (last - first) / (end - start)
    minutes, seconds = divmod(round(max(self._total - last, 0) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return [f'{rate:.3g} steps/s', f'{hours}:{minutes:02}:{seconds:02} left']

  def _print(self, line: str) -> None:
    print(line, file=self._stream, flush=True)
    self._unprinted = None


def _remove_later_lines(path: str, resume_step: int, phase: str | None) -> None:
  """Rewrites the file without what this run will write again; the rest stays byte for byte."""
  try:
    with open(path, 'rb') as file:
      lines = file.read().splitlines(keepends=True)
  except FileNotFoundError:
    return
  kept = [line for line in lines if _stays(line, resume_step, phase)]
  if len(kept) == len(lines):
    return
  with open(path + '.tmp', 'wb') as file:
    file.writelines(kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(path + '.tmp', path)


def _stays(line: bytes, resume_step: int, phase: str | None) -> bool:
  """False also for a line that was cut short."""
  if not line.endswith(b'\n'):
    return False
  try:
    content = json.loads(line)
    return content.get('phase') != phase or 0 < resume_step >= content['step']
  except (ValueError, KeyError, AttributeError):
    return False
