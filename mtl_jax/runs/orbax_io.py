"""How orbax is used here: imported late, with its chatter muted, by each process on its own.

`checkpoints` and `stored_step` know what a checkpoint is; this file knows how orbax wants to be
asked.
"""
import functools
import logging as python_logging
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

STATE, LEAVES = 'state', 'leaves'  # folders of one step: its arrays, and their list
LEAVES_FILE = 'leaves.json'        # the list, within its folder

_OF_PATTERNS = frozenset('*?[')  # orbax hands unescaped paths to `glob`
_MOST_CHARACTERS = 200  # of an error of tensorstore, which may print its whole specification


def check_path(directory: str | os.PathLike) -> None:
  """Refuses a path that orbax would read as a pattern: it would save, and never find it again.

  Args:
    directory: folder that checkpoints are to be written to.

  Raises:
    ValueError: the absolute path has one of `*?[`.
  """
  path = os.path.abspath(directory)
  if not _OF_PATTERNS.isdisjoint(path):
    raise ValueError(f'expected a path without *, ? and [ for checkpoints, got {path}; choose '
                     'another --workdir')


class KeepBest(NamedTuple):
  """Orbax's preservation policy: the `n` steps of highest accuracy, of equals the newest.

  Orbax's own `BestN` reads accuracies from files of its own, and fails to start where one is
  damaged.
  """
  n: int
  accuracies: Mapping[int, float | None]  # of each step; may grow while the policy is in use

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Whether each checkpoint stays; the name and form are orbax's.

    Args:
      checkpoints: orbax's, each with its step.
      context: not read.
    """
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    measured = [(accuracy, step) for step in steps
                if (accuracy := self.accuracies.get(step)) is not None]
    best = [step for _, step in sorted(measured, reverse=True)[:self.n]]
    return [step in best for step in steps]


def open_manager(directory: str, keep_latest: int, keep_best: KeepBest) -> Any:
  """Returns orbax's CheckpointManager of a directory, which must be there.

  Args:
    directory: folder of the steps.
    keep_latest: how many of the newest steps stay.
    keep_best: which steps stay besides.
  """
  ocp, alone = orbax(), _alone_options()
  policies = [ocp.checkpoint_managers.LatestN(keep_latest), keep_best]
  return ocp.CheckpointManager(
      directory,
      item_handlers={
          STATE: ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
          LEAVES: ocp.JsonCheckpointHandler(filename=LEAVES_FILE, multiprocessing_options=alone)},
      options=ocp.CheckpointManagerOptions(
          create=False, multiprocessing_options=alone,
          preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
          cleanup_tmp_directories=True,  # removes what a killed process was writing
          lightweight_initialize=True,   # does not read orbax's own metadata, which may be damaged
          # Folders made in the background would hang on a full disk.
          async_options=ocp.AsyncOptions(create_directories_asynchronously=False)))


def save_arguments(arrays: Mapping[str, np.ndarray], leaf_list: dict[str, Any]) -> Any:
  """Returns what `CheckpointManager.save` takes for one step.

  Args:
    arrays: path -> array.
    leaf_list: what stands about them in LEAVES_FILE.
  """
  args = orbax().args
  items = {LEAVES: args.JsonSave(leaf_list)}
  stored = {name: array for name, array in arrays.items() if array.size}
  if stored:  # Orbax refuses arrays without elements, and trees without arrays.
    items[STATE] = args.PyTreeSave(stored)
  return args.Composite(**items)


def read_arrays(step_directory: str) -> dict[str, np.ndarray]:
  """Reads the arrays of one step, path -> array.

  Args:
    step_directory: folder of the step.

  Raises:
    Exception: damage surfaces as errors of many kinds, from orbax, JSON and tensorstore.
  """
  ocp, alone = orbax(), _alone_options()
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
    return checkpointer.restore(os.path.join(step_directory, STATE))


def reason(error: BaseException) -> str:
  """Returns an error in one line, in the words of the operating system where it has some.

  Args:
    error: of orbax, or of what it uses.
  """
  cause = error
  while cause is not None:
    if isinstance(cause, OSError) and cause.strerror:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  if 'No space left' in str(error):  # tensorstore hands on the text alone
    return 'No space left on device'
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:_MOST_CHARACTERS]


@functools.cache
def orbax() -> ModuleType:
  """Imports orbax when it is first needed (it takes seconds), and mutes its chatter.

  Of what orbax logs, only warnings and errors pass, and no tracebacks: it raises those errors as
  well. The same goes for what its background tasks report.
  """
  import orbax.checkpoint as ocp
  logging.get_absl_logger().addFilter(_worth_reading)
  _mute_late_tasks()
  return ocp


def _worth_reading(record: python_logging.LogRecord) -> bool:
  of_orbax = f'orbax{os.sep}checkpoint{os.sep}' in record.pathname
  return not of_orbax or (record.levelno >= python_logging.WARNING and not record.exc_info)


def _mute_late_tasks() -> None:
  """Drops what is reported of tasks that end after orbax has closed its event loop.

  Orbax reads and writes all arrays at once, and raises as soon as one of them fails. The others
  then have nobody left to report to, and Python would print a traceback for each.
  """
  shown_before = sys.unraisablehook

  def show(unraisable: 'sys.UnraisableHookArgs') -> None:
    error = unraisable.exc_value
    late = isinstance(error, RuntimeError) and str(error) == 'Event loop is closed'
    # Reports of tensorstore's threads have no object; others may be of the user's own loops.
    if not late or unraisable.object is not None:
      shown_before(unraisable)

  sys.unraisablehook = show
  python_logging.getLogger('asyncio').addFilter(
      lambda record: 'tensorstore_spec' not in record.getMessage())


def _alone_options() -> Any:
  """Returns the options by which orbax does not wait for other processes of the run.

  Only the first process reads and writes; the others would never come to orbax's barriers.
  """
  options = orbax().options.MultiprocessingOptions
  if jax.process_count() == 1:
    return options()
  me = jax.process_index()
  return options(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'process{me}')
