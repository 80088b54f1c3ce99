"""The host's loop around a compiled training call: metrics, validation, checkpoints, resuming.

It serves pre-training and meta-training alike and knows neither: they hand it a state and two
functions.
"""
import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mtl_jax import stages
from mtl_jax.execution import placement
from mtl_jax.runs import hosts, preemption, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.runs.metrics import MetricWriter
from mtl_jax.runs.profiling import Trace
from mtl_jax.runs.progress import Progress
from mtl_jax.runs.time_budgets import Clock
from mtl_jax.runs.trackers import DEFAULT
from mtl_jax.types import Score

Advance = Callable[[Any], tuple[Any, Mapping[str, Any]]]  # state -> (later state, metrics)
Validate = Callable[[Any], Score]                         # state -> how well it does
Found = tuple[int, Any] | None                            # (step, state) of a checkpoint


class Fitted(NamedTuple):
  """How a training run ended."""
  state: Any         # the snapshot of highest validation accuracy
  step: int          # its step
  last_step: int     # steps taken in all; calls of several steps may go past num_steps
  score: Score       # of it, on the validation tasks
  resumed_from: int  # step that this process went on from; 0 if it began the run
  seconds: float     # spent by this process, which may have resumed the run


class _Loop(NamedTuple):
  """What stays the same from turn to turn: the arguments of `fit`, and where it writes."""
  advance: Advance
  validate: Validate
  phase: str
  num_steps: int
  validate_every: int
  writer: MetricWriter
  progress: Progress
  checkpoints: Checkpoints
  trace: Trace
  clock: Clock | None
  held: workdirs.Held


def fit(state: Any, advance: Advance, validate: Validate, *, phase: str, num_steps: int,
        validate_every: int, workdir: str | os.PathLike, profile: str | None = None,
        clock: Clock | None = None, trackers: Sequence[str] = DEFAULT) -> Fitted:
  """Trains until `num_steps`, from the newest checkpoint in `workdir` if there is one.

  Every validated state is saved, the first one too, so that a run never ends worse than it began. A
  run killed at any moment and started again, on the same number of devices and cores, ends with
  exactly the arrays and the metrics of the unbroken run. One that is told to stop (`preemption`)
  saves first.

  Args:
    state: initial state, a tree with a field `step`; donated. Of several processes that work in
      step (`hosts`), the first one reads and writes `workdir`.
    advance: state -> (state, metrics), some steps further on; metrics are device scalars.
    validate: state -> its Score on the validation tasks.
    phase: name of the phase in metrics, progress and messages.
    num_steps: steps at which the run is finished; 0 validates and saves the initial state.
    validate_every: steps between two validations, rounded up to a call of `advance`.
    workdir: holds `checkpoints`, `metrics.jsonl` and what trackers keep on disk.
    profile: folder for a trace of a few calls of `advance` after the first one; None for none.
    clock: of a run by the clock, which may end before `num_steps` at a step that it keeps; or None.
    trackers: which the metrics go to too, as `trackers.check` takes them.

  Returns:
    A Fitted.

  Raises:
    FloatingPointError: a metric, or an array to be saved, is no longer finite.
    OSError: metrics or checkpoints cannot be written, or `workdir` was moved or removed.
    preemption.Stopped: a signal has told the process to stop.
  """
  began = time.monotonic()
  folder = os.path.join(workdir, 'checkpoints')
  with (hosts.first_only(workdirs.in_use, workdir) as held,
        hosts.first_only(Checkpoints, folder) as checkpoints):
    found = _restored(checkpoints.restore_latest, state)
    first_step, state = found or (0, state)
    if found is not None:
      _log_found(phase, workdir, first_step, num_steps)
    awaits = found is not None and hosts.on_first(lambda: checkpoints.awaits_validation(first_step))
    if found is None or awaits or first_step < num_steps:
      with (hosts.first_only(MetricWriter, workdir, first_step, phase, trackers) as writer,
            hosts.first_only(Progress, num_steps, phase, first_step) as progress,
            contextlib.closing(Trace(profile if hosts.is_first() else None)) as trace):
        loop = _Loop(advance, validate, phase, num_steps, validate_every, writer, progress,
                     checkpoints, trace, clock, held)
        _begin(loop, state, found, awaits)
        with preemption.looks():
          _advance_to_end(loop, state, first_step)
    hosts.on_first(checkpoints.wait)
    step, best = _best(checkpoints, state, workdir)
    last_step, score = hosts.on_first(lambda: (checkpoints.steps()[-1], checkpoints.score(step)))
    return Fitted(best, step, last_step, Score(*score), first_step, time.monotonic() - began)


def _log_found(phase: str, workdir: str | os.PathLike, step: int, num_steps: int) -> None:
  if step >= num_steps:
    logging.info('%s in %s is finished', phase, workdir)
  else:
    logging.info('%s resumes from step %d of %d', phase, step, num_steps)


def _restored(read: Callable[[Any], Found], state: Any) -> Found:
  """Returns what `read` finds on process 0, placed as `state`, whose values are not looked at."""
  if jax.process_count() == 1:
    return read(state)
  shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)

  def on_disk() -> Found:
    found = read(shapes)
    return found and (found[0], jax.tree.leaves(found[1]))

  found = hosts.on_first(on_disk)
  if found is None:
    return None
  leaves = [placement.put(array, leaf.sharding)
            for array, leaf in zip(found[1], jax.tree.leaves(state), strict=True)]
  return found[0], jax.tree.unflatten(jax.tree.structure(state), leaves)


def _best(checkpoints: Checkpoints, state: Any, workdir: str | os.PathLike) -> tuple[int, Any]:
  """Returns the snapshot of highest accuracy, after its step."""
  found = _restored(checkpoints.restore_best, state)
  if found is None:
    raise FloatingPointError('expected a validation accuracy that is a number, got none in '
                             f'{workdir}')
  return found


def _begin(loop: _Loop, state: Any, found: Found, awaits: bool) -> None:
  """Validates and saves the initial state, or sees to it that its line is there.

  A process that was told to stop may have left a state whose validation was due (`awaits`).
  """
  if found is None or awaits:
    with stages.stage('compiling and scoring the validation tasks'):
      _validate_and_save(loop, state, 0 if found is None else found[0])
  elif found[0] == 0:
    # The writer began the file anew, without the line of this checkpoint.
    hosts.on_first(lambda: loop.writer.write(0, _validated(loop.checkpoints.score(0))))


def _advance_to_end(loop: _Loop, state: Any, step: int) -> None:
  """Calls `advance` until `num_steps`; validates and saves whenever that is due."""
  saved, seconds = step, None
  while step < loop.num_steps:
    before, started = step, time.monotonic()
    loop.trace.before_call()
    with _announced(loop, seconds):
      state, metrics = loop.advance(state)
      step, metrics = jax.device_get((state.step, metrics))  # the only transfer, one for each call
    seconds = time.monotonic() - started
    step, metrics = int(step), {name: float(value) for name, value in metrics.items()}
    is_over = step < loop.num_steps and loop.clock is not None and loop.clock.is_over()
    due = (step // loop.validate_every > saved // loop.validate_every
           or step >= loop.num_steps or is_over)
    stopping = preemption.agreed()
    # The last update may have spoilt what the loss before it does not show.
    bad = _bad_metrics(metrics) or (_bad_arrays(state) if due or stopping else [])
    if bad:
      raise FloatingPointError(f'{loop.phase} stopped at step {step}: {bad[0]}; the last '
                               f'checkpoint is of step {saved}; lower the learning rates')
    loop.writer.write(step, metrics, {'steps_per_second': (step - before) / seconds})
    loop.progress.update(step, loss=metrics['loss'], accuracy=metrics['accuracy'])
    if loop.clock is not None and (due or stopping):
      # Before the checkpoint: killed in between, the run still ends at this step.
      loop.clock.note(**({'last_step': step} if is_over else {}))
    if stopping:
      _save_and_stop(loop, state, step, due, stopping)
    if due:
      with stages.stage('scoring the validation tasks', quiet=True):
        _validate_and_save(loop, state, step)
      saved = step
    if is_over:
      logging.info('%s ends with its time, at step %d of %d', loop.phase, step, loop.num_steps)
      return


def _announced(loop: _Loop, seconds: float | None) -> contextlib.AbstractContextManager:
  """Says that the first call goes on, and that a later one does after one that took `seconds`."""
  if seconds is None:
    return stages.stage(f'compiling the steps of {loop.phase}')
  # Of short calls, which may be a thousand in a second, the progress tells enough.
  return stages.stage(loop.phase, quiet=True) if seconds > 1 else contextlib.nullcontext()


def _bad_metrics(metrics: Mapping[str, float]) -> list[str]:
  return [f'{name} is {value}' for name, value in metrics.items() if not math.isfinite(value)]


def _bad_arrays(state: Any) -> list[str]:
  return [f'{jax.tree_util.keystr(path, simple=True, separator="/")} is not finite'
          for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
          if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all()]


def _validated(score: Score) -> dict[str, float]:
  """The metrics of a validation; the interval where it is known."""
  found = {'validation_accuracy': score.accuracy}
  if score.ci95 is not None and math.isfinite(score.ci95):
    found['validation_ci95'] = score.ci95
  return found


def _validate_and_save(loop: _Loop, state: Any, step: int) -> None:
  hosts.on_first(loop.held.check)
  saved = step in hosts.on_first(loop.checkpoints.steps)  # and awaits this validation

  def save_unvalidated():
    if not saved:
      _save(loop, state, step, awaits_validation=True)

  with preemption.rescued_by(save_unvalidated if hosts.is_first() else lambda: None):
    accuracy, ci95 = loop.validate(state)
  # Metrics go before the checkpoint: a run resumed from this step keeps the lines up to it.
  loop.writer.write(step, _validated(Score(accuracy, ci95)))
  loop.progress.say(f'{loop.phase} step {step}: validation accuracy {100 * accuracy:.2f}%')
  loop.checkpoints.save(step, state, accuracy, ci95)


def _save_and_stop(loop: _Loop, state: Any, step: int, due: bool, number: int) -> None:
  """Saves where the run stands, and raises Stopped; a validation that is due comes on resuming."""
  hosts.on_first(loop.held.check)
  hosts.on_first(lambda: _save(loop, state, step, awaits_validation=due))
  raise preemption.Stopped(number)


def _save(loop: _Loop, state: Any, step: int, *, awaits_validation: bool) -> None:
  """Saves a state that was not validated; returns when it is on disk."""
  loop.checkpoints.save(step, state, awaits_validation=awaits_validation)
  loop.checkpoints.wait()
  logging.info('%s: step %d of %d is saved', loop.phase, step, loop.num_steps)
