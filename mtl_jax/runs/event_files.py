"""TensorBoard's events of a run."""
import contextlib
import os
import time
from collections.abc import Iterator, Mapping


class EventFile:
  """TensorBoard events by tensorboardX's file format, written at once.

  Its own `SummaryWriter` writes from a thread; where the disk is full that thread dies and the run
  would wait for it for ever.

  Args:
    folder: of the events; made where it is missing.
    resume_step: step that the run goes on from; 0: it starts.
  """

  def __init__(self, folder: str, resume_step: int):
    # Slow to import, and not all importers of this module write.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2
    # Generated code, which type checkers cannot see into.
    self._event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
    self._session = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    self._summary = summary.scalar
    os.makedirs(folder, exist_ok=True)
    self._folder = folder
    # The number of the process tells this file from those that earlier processes left.
    self._writer = event_file_writer.EventsWriter(os.path.join(folder, 'events'), f'.{os.getpid()}')
    if resume_step:  # TensorBoard hides what an earlier process wrote from here on.
      self._put(step=resume_step + 1, session_log=self._session(status=self._session.START))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes some scalars of one step.

    Args:
      step: steps taken so far.
      values: name -> number.

    Raises:
      OSError: they cannot be written.
    """
    for name, value in values.items():
      self._put(step=step, summary=self._summary(name, value))
    with self._named_errors():
      self._writer.flush()

  def close(self, finished: bool = True) -> None:
    """Closes the file.

    Args:
      finished: of the run; events do not say.

    Raises:
      OSError: what was held back cannot be written.
    """
    del finished
    with self._named_errors():
      self._writer.close()

  def _put(self, **content) -> None:
    with self._named_errors():
      self._writer.write_event(self._event(wall_time=time.time(), **content))

  @contextlib.contextmanager
  def _named_errors(self) -> Iterator[None]:
    """Adds to an error what could not be written."""
    try:
      yield
    except OSError as error:
      raise OSError(f'could not write TensorBoard events in {self._folder}: '
                    f'{error.strerror}') from error
