"""Checkpoints on disk: asynchronous, atomic, every leaf checked when it is read.

A checkpoint directory holds one folder per step, written by orbax; `stored_step` says what is in
it. Orbax moves a finished step into place with one rename, so a killed process leaves only whole
steps. Against what happens to files later (a flipped bit, a cut file) each leaf is compared with
its checksum on reading, and a damaged step gives way, with a warning, to the next in line.
"""
import contextlib
import glob
import math
import os
import shutil
from collections.abc import Iterator
from typing import Any

from absl import logging

from mtl_jax.runs import leaves, orbax_io, stored_step
from mtl_jax.types import Score


class Checkpoints:
  """The checkpoints of one run: the newest ones, to resume from, and the best ones, to evaluate.

  A context: `with Checkpoints('runs/mtl/checkpoints') as checkpoints:`.

  Args:
    directory: folder of the checkpoints; made by the first save, and only read until then.
    keep_latest: how many of the newest steps stay; two, so that a damaged newest can be done
      without.
    keep_best: how many of the steps with the highest accuracy stay, besides.
  """

  def __init__(self, directory: str | os.PathLike, *, keep_latest: int = 2, keep_best: int = 2):
    self.directory = os.path.abspath(directory)
    self._keep_latest, self._keep_best = keep_latest, keep_best
    self._manager: Any = None               # orbax's, opened by the first save
    self._accuracies: dict[int, float | None] = {}  # of the steps that `_manager` knows
    self._pending: int | None = None        # the step being written
    self._damaged: set[int] = set()         # steps that could not be read

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, error_type, error, traceback) -> None:
    try:
      self.close()
    except OSError as close_error:
      if error_type is None:
        raise
      logging.warning('%s', close_error)  # Raised, it would hide the error that ended the block.

  def save(self, step: int, state: Any, accuracy: float | None = None,
           ci95: float | None = None, *, awaits_validation: bool = False) -> None:
    """Starts writing one step; returns as soon as the arrays are copied on the host.

    Args:
      step: steps taken so far; each can be saved once, and again if it has awaited validation.
      state: tree of arrays, which the caller may change or donate afterwards.
      accuracy: in [0, 1]; decides which steps are kept as the best. None where it was not measured.
      ci95: half-width of its 95% interval, to be kept with it.
      awaits_validation: whether the accuracy is still to be measured.

    Raises:
      ValueError: a leaf is not an array of numbers, the step is there already, or the path has one
        of `*?[`, which orbax does not take literally.
      OSError: this save, or the one before it, could not be written. What was saved earlier stays.
    """
    orbax_io.check_path(self.directory)
    step, accuracy = int(step), _finite_or_none(accuracy)
    arrays = leaves.to_host(state)
    self.wait()
    if step in self._whole_steps() and self.awaits_validation(step):
      self._remove(step)
    if step in self._whole_steps():
      raise ValueError(f'step {step} is in {self.directory} already: expected a new step; '
                       'choose another directory, or remove that step first')
    self._pending = step
    with self._clear_errors():
      self._move_damaged_aside()
      self._open_manager()
      self._accuracies[step] = accuracy  # before orbax asks which steps are the best
      listed = stored_step.leaf_list(step, arrays, accuracy, _finite_or_none(ci95),
                                     awaits_validation)
      self._manager.save(step, args=orbax_io.save_arguments(arrays, listed), force=True)

  def wait(self) -> None:
    """Returns when everything is on disk; raises OSError where it could not be written."""
    if self._pending is not None:
      with self._clear_errors():
        self._manager.wait_until_finished()
      self._pending = None

  def close(self) -> None:
    """Waits, then ends the threads that write; raises OSError as `wait` does."""
    try:
      self.wait()
    finally:
      self._close_manager()

  def steps(self) -> list[int]:
    """Returns the finished steps on disk, ascending; whether they are whole is seen on reading."""
    if not os.path.isdir(self.directory):
      return []
    return sorted(int(name) for name in os.listdir(self.directory) if name.isdecimal())

  def accuracies(self) -> dict[int, float | None]:
    """Returns the accuracy of each step whose list of leaves can be read."""
    accuracies = {}
    for step in self.steps():
      with contextlib.suppress(stored_step.Damaged):
        accuracies[step] = stored_step.read_leaf_list(self.directory, step)['accuracy']
    return accuracies

  def score(self, step: int) -> Score:
    """Returns the accuracy that a step was saved with, NaN where that was none, and its interval.

    Args:
      step: one that was just restored.
    """
    content = stored_step.read_leaf_list(self.directory, step)
    accuracy = content['accuracy']
    # Steps of an earlier version have no interval.
    return Score(math.nan if accuracy is None else accuracy, content.get('ci95'))

  def awaits_validation(self, step: int) -> bool:
    """Whether a step was saved before its validation, which was due.

    Args:
      step: one of `steps`.
    """
    with contextlib.suppress(stored_step.Damaged):
      return stored_step.read_leaf_list(self.directory, step).get('awaits_validation', False)
    return False

  def restore_latest(self, like: Any) -> tuple[int, Any] | None:
    """Reads the newest whole step.

    Args:
      like: tree of arrays (or of `jax.ShapeDtypeStruct`) with the structure, shapes and dtypes
        expected. A leaf comes back as a NumPy array where `like` has one, else as a JAX array,
        placed as in `like`.

    Returns:
      (step, state), the state bitwise as it was saved; None where nothing was saved.

    Raises:
      ValueError: no step is whole, or leaves, shapes or dtypes are not those of `like`.
    """
    self.wait()
    return self._restore_first(self.steps()[::-1], like)

  def restore_best(self, like: Any) -> tuple[int, Any] | None:
    """Reads the whole step of highest accuracy, of equals the newest; else as `restore_latest`.

    Args:
      like: as in `restore_latest`.

    Returns:
      (step, state), or None where no step was saved with an accuracy.
    """
    self.wait()
    accuracies = self.accuracies()
    ranked = sorted((accuracy, step) for step, accuracy in accuracies.items()
                    if accuracy is not None)
    if accuracies and not ranked:
      return None
    # Steps of unknown accuracy are damaged. They are tried first, so that a warning names them.
    unreadable = [step for step in self.steps() if step not in accuracies]
    return self._restore_first(unreadable + [step for _, step in ranked[::-1]], like)

  def _restore_first(self, steps: list[int], like: Any) -> tuple[int, Any] | None:
    """Reads the first whole one of `steps`."""
    reason = ''
    for step in steps:
      try:
        return step, stored_step.read(self.directory, step, like)
      except stored_step.Damaged as damage:
        reason = f'step {step} in {self.directory} is damaged: {damage}'
        self._damaged.add(step)
        logging.warning('checkpoint of %s; trying the next in line', reason)
    if steps:
      raise ValueError(f'expected a whole checkpoint, but all are damaged; {reason}; '
                       'remove the directory to start anew')
    return None

  def _whole_steps(self) -> list[int]:
    return [step for step in self.steps() if step not in self._damaged]

  def _move_damaged_aside(self) -> None:
    """Renames what could not be read; it is not removed, as the fault may be the disk's."""
    if self._damaged:
      self._close_manager()  # It counts the damaged steps among its own; the next one will not.
    for step in self._damaged.intersection(self.steps()):
      aside = os.path.join(self.directory, f'damaged-{step}')
      shutil.rmtree(aside, ignore_errors=True)
      os.rename(os.path.join(self.directory, str(step)), aside)
    self._damaged.clear()

  def _remove(self, step: int) -> None:
    """Removes a step, by one rename first, so that no half of it is left under its number."""
    self._close_manager()
    aside = os.path.join(self.directory, f'damaged-{step}')
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(os.path.join(self.directory, str(step)), aside)
    shutil.rmtree(aside, ignore_errors=True)

  def _open_manager(self) -> None:
    if self._manager is not None:
      return
    os.makedirs(self.directory, exist_ok=True)
    self._accuracies = self.accuracies()
    # The policy reads the very dict that later saves add to.
    best = orbax_io.KeepBest(self._keep_best, self._accuracies)
    self._manager = orbax_io.open_manager(self.directory, self._keep_latest, best)

  def _close_manager(self) -> None:
    if self._manager is not None:
      with contextlib.suppress(Exception):  # Errors of a save were reported by `wait`.
        self._manager.close()
      self._manager = None

  @contextlib.contextmanager
  def _clear_errors(self) -> Iterator[None]:
    """Turns what orbax raises while it saves into one line, and removes the half-written step."""
    try:
      yield
    except Exception as error:
      step, self._pending = self._pending, None
      self._close_manager()
      unfinished = os.path.join(glob.escape(self.directory), '*.orbax-checkpoint-tmp*')
      for folder in glob.glob(unfinished):
        shutil.rmtree(folder, ignore_errors=True)
      whole = self._whole_steps()
      kept = (f'the last good checkpoint, step {whole[-1]}, stays' if whole
              else 'no earlier checkpoint exists')
      raise OSError(f'could not write the checkpoint of step {step} to {self.directory}: '
                    f'{orbax_io.reason(error)}{_free_space(self.directory)}; {kept}') from error


def _finite_or_none(number: Any) -> float | None:
  """Returns None for a NaN too: it cannot be ranked, so it counts as not measured."""
  return float(number) if number is not None and math.isfinite(number) else None


def _free_space(directory: str) -> str:
  try:
    return f' ({shutil.disk_usage(directory).free / 1e6:.1f} MB free there)'
  except OSError:
    return ''
