"""The metrics of a run while it goes: as JSON lines, and to the trackers that are asked for.

`metrics.jsonl` holds nothing that depends on the clock, and a resumed run first removes what it
will write again, so that the file of a run killed and resumed is byte for byte that of an unbroken
run. Each line carries a checksum of what it says (`checked_json`).
"""
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat, SupportsInt

from absl import logging

from mtl_jax.runs import trackers, workdirs
from mtl_jax.untrusted import checked_json

_FILE = 'metrics.jsonl'
_CHECKSUM = f'"{checked_json.CHECKSUM}": '.encode()


class MetricWriter:
  """Appends the metrics of a run to `<workdir>/metrics.jsonl` and to trackers; a context.

  Write the line of a step before its checkpoint: a run resumed from step s keeps the lines up to s.

  Args:
    workdir: directory of the run; made where it is missing.
    resume_step: step that the run goes on from; later lines are removed, and a last line cut short.
      0: the run starts, all its lines are removed.
    phase: name that goes into every line; lines of other phases stay as they are.
    tracked_by: names of trackers, as `trackers.check` takes them.
  """

  def __init__(self, workdir: str | os.PathLike, resume_step: int = 0, phase: str | None = None,
               tracked_by: Sequence[str] = trackers.DEFAULT):
    os.makedirs(workdir, exist_ok=True)
    self._path = os.path.join(workdir, _FILE)
    self._phase = phase
    _remove_later_lines(workdir, resume_step, phase)
    self._file = open(self._path, 'a', encoding='utf-8', newline='\n', opener=_no_link)
    self._trackers = trackers.start(tracked_by, workdir, phase, resume_step)

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    try:
      self.close(finished=error_type is None)
    except OSError:
      if error_type is None:  # Else it would hide the error that ended the block.
        raise

  def write(self, step: SupportsInt, values: Mapping[str, SupportsFloat],
            timings: Mapping[str, SupportsFloat] | None = None) -> None:
    """Writes one line, and hands the same numbers to the trackers.

    Args:
      step: steps taken so far.
      values: name -> number; float32 comes back exactly. Where not finite, NaN or Infinity is
        written.
      timings: rates and durations, which differ from run to run: they go to the trackers only.

    Raises:
      OSError: the line or TensorBoard's events cannot be written.
    """
    numbers = {name: float(value) for name, value in values.items()}
    head = {'step': int(step)} | ({'phase': self._phase} if self._phase else {})
    try:
      self._file.write(checked_json.dump(head | numbers, indent=None).decode())
      self._file.flush()  # else a killed run would lose lines whose checkpoint is there
    except OSError as error:
      raise OSError(f'could not write {self._path}: {error.strerror}') from error
    numbers |= {name: float(value) for name, value in (timings or {}).items()}
    for tracker in self._trackers:
      tracker.write(int(step), numbers)

  def close(self, finished: bool = True) -> None:
    """Closes the file and the trackers.

    Args:
      finished: whether the run was not stopped and has not failed.

    Raises:
      OSError: what was held back cannot be written.
    """
    with contextlib.ExitStack() as stack:
      stack.callback(self._file.close)
      for tracker in self._trackers:
        stack.callback(tracker.close, finished)


def _remove_later_lines(workdir: str | os.PathLike, resume_step: int, phase: str | None) -> None:
  """Rewrites the file without what this run will write again; the rest stays byte for byte."""
  try:
    with open(os.path.join(workdir, _FILE), 'rb') as file:
      lines = file.read().splitlines(keepends=True)
  except FileNotFoundError:
    return
  contents = _contents(lines)
  for number, (line, content) in enumerate(zip(lines, contents, strict=True), 1):
    if line.endswith(b'\n') and content is None:
      logging.warning('%s: line %d is damaged, and left out', os.path.join(workdir, _FILE), number)
  kept = [line for line, content in zip(lines, contents, strict=True)
          if _stays(content, resume_step, phase)]
  if len(kept) < len(lines):
    workdirs.write_file(workdir, _FILE, b''.join(kept))


def _stays(content: dict[str, Any] | None, resume_step: int, phase: str | None) -> bool:
  """Whether a resumed run keeps a line; one that was cut short or damaged goes."""
  return content is not None and (content.get('phase') != phase
                                  or 0 < resume_step >= content['step'])


def read(workdir: str | os.PathLike, phase: str, *, running: bool = False
         ) -> list[dict[str, Any]]:
  """Returns the metrics of a phase, in the order of its steps.

  Args:
    workdir: directory of the run.
    phase: whose lines.
    running: whether the run may go on, or was killed: a last line that is cut short is passed over.

  Raises:
    ValueError: a line is damaged.
    OSError: there is no such file.
  """
  path = os.path.join(workdir, _FILE)
  with open(path, 'rb') as file:
    lines = file.read().splitlines(keepends=True)
  if running and lines and not lines[-1].endswith(b'\n'):
    lines.pop()
  found = _contents(lines)
  if None in found:
    raise ValueError(f'{path} is damaged: line {found.index(None) + 1} is not what was written; '
                     'restore it')
  return [content for content in found if content is not None and content.get('phase') == phase]


def _contents(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
  """What each line says; None where it is cut short or damaged.

  Earlier versions wrote no checksums. Where one line has one, a line without is damaged.
  """
  sealed = any(_CHECKSUM in line for line in lines)
  return [None if sealed and _CHECKSUM not in line else _content(line) for line in lines]


def _content(line: bytes) -> dict[str, Any] | None:
  try:
    content = checked_json.load(line, _FILE)
  except ValueError:
    return None
  return content if line.endswith(b'\n') and isinstance(content.get('step'), int) else None


def _no_link(path: str, flags: int) -> int:
  """Opens a file, but not through a link that somebody may have put in its place."""
  return os.open(path, flags | getattr(os, 'O_NOFOLLOW', 0), 0o666)
