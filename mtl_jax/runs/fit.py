"""The host's loop around a compiled training call: progress, metrics, validation, checkpoints, resuming.

It serves pre-training and meta-training alike and knows neither: they hand it a state and two functions.
"""
import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mtl_jax import sharding
from mtl_jax.runs import hosts, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.runs.metrics import MetricWriter, Progress
from mtl_jax.runs.profiling import Trace


class Fitted(NamedTuple):
  """How a training run ended."""
  state: Any            # the snapshot of highest validation accuracy
  step: int             # its step
  last_step: int        # steps taken in all; calls of several steps may go past num_steps
  accuracy: float       # its accuracy on the validation tasks, in [0, 1]
  resumed_from: int     # step that this process went on from; 0 if it began the run
  seconds: float        # spent by this process, which may have resumed the run


def fit(state: Any, advance: Callable, validate: Callable, *, phase: str, num_steps: int, validate_every: int,
        workdir: str, profile: str | None = None) -> Fitted:
  """Trains until `num_steps`, from the newest checkpoint in `workdir` if there is one.

  Every validated state is saved, the first one too, so that a run never ends worse than it began. A run killed at any
  moment and started again ends with exactly the arrays and the metrics of the unbroken run.

  Args:
    state: initial state, a tree with a field `step`; donated. Of several processes that work in step (`hosts`), the
      first one reads and writes `workdir`.
    advance: state -> (state, metrics), some steps further on; metrics are device scalars.
    validate: state -> accuracy in [0, 1].
    phase: name of the phase in metrics, progress and messages.
    num_steps: steps at which the run is finished; 0 validates and saves the initial state.
    validate_every: steps between two validations, rounded up to a call of `advance`.
    workdir: holds `checkpoints`, `metrics.jsonl` and TensorBoard events.
    profile: folder for a trace of a few calls of `advance` after the first one, which compiles; None for no trace.

  Returns:
    A Fitted.

  Raises:
    FloatingPointError: a metric, or an array to be saved, is no longer finite.
    OSError: metrics or checkpoints cannot be written.
  """
  began = time.monotonic()
  with (hosts.first_only(workdirs.in_use, workdir),
        hosts.first_only(Checkpoints, os.path.join(workdir, 'checkpoints')) as checkpoints):
    found = _restored(checkpoints.restore_latest, state)
    first_step, state = found if found is not None else (0, state)
    if found is not None and first_step >= num_steps:
      logging.info('%s in %s is finished', phase, workdir)
    elif found is not None:
      logging.info('%s resumes from step %d of %d', phase, first_step, num_steps)
    if found is None or first_step < num_steps:
      with (hosts.first_only(MetricWriter, workdir, first_step, phase) as writer,
            hosts.first_only(Progress, num_steps, phase, first_step) as progress):
        if found is None:
          _validate_and_save(state, 0, validate, writer, progress, checkpoints, phase)
        elif first_step == 0:  # the writer began the file anew, without the line of this checkpoint
          hosts.on_first(lambda: writer.write(0, {'validation_accuracy': checkpoints.accuracies()[0]}))
        with contextlib.closing(Trace(profile if hosts.is_first() else None)) as trace:
          _advance_to_end(state, first_step, num_steps, advance, validate, validate_every, phase, writer, progress,
                          checkpoints, trace)
    hosts.on_first(checkpoints.wait)
    step, best = _restored(checkpoints.restore_best, state)
    last_step, accuracy = hosts.on_first(lambda: (checkpoints.steps()[-1], checkpoints.accuracies()[step]))
    return Fitted(best, step, last_step, accuracy, first_step, time.monotonic() - began)


def _restored(read: Callable, state: Any) -> tuple[int, Any] | None:
  """What `read` of the first process finds, on the devices of `state`, whose values are not looked at."""
  if jax.process_count() == 1:
    return read(state)
  shapes = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)

  def arrays():
    found = read(shapes)
    return found and (found[0], jax.tree.leaves(found[1]))

  found = hosts.on_first(arrays)
  if found is None:
    return None
  leaves = [sharding.put(array, leaf.sharding) for array, leaf in zip(found[1], jax.tree.leaves(state), strict=True)]
  return found[0], jax.tree.unflatten(jax.tree.structure(state), leaves)


def _advance_to_end(state, step, num_steps, advance, validate, validate_every, phase, writer, progress, checkpoints,
                    trace):
  validated = step
  while step < num_steps:
    before, started = step, time.monotonic()
    trace.before_call()
    state, metrics = advance(state)
    step, metrics = jax.device_get((state.step, metrics))  # the only transfer, one for each call
    step, metrics = int(step), {name: float(value) for name, value in metrics.items()}
    due = step // validate_every > validated // validate_every or step >= num_steps
    bad = [f'{name} is {value}' for name, value in metrics.items() if not math.isfinite(value)]
    if due and not bad:  # The last update may have spoilt what the loss before it does not show.
      bad = [f'{name} is not finite' for name in _not_finite(state)]
    if bad:
      raise FloatingPointError(f'{phase} stopped at step {step}: {bad[0]}; the last checkpoint is of step {validated}; '
                               'lower the learning rates')
    rate = (step - before) / (time.monotonic() - started)
    writer.write(step, metrics, {'steps_per_second': rate})
    progress.update(step, **{name: metrics[name] for name in ('loss', 'accuracy')})
    if due:
      _validate_and_save(state, step, validate, writer, progress, checkpoints, phase)
      validated = step


def _not_finite(state: Any) -> list[str]:
  return [jax.tree_util.keystr(path, simple=True, separator='/')
          for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
          if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all()]


def _validate_and_save(state, step, validate, writer, progress, checkpoints, phase):
  # Metrics first: a run resumed from this step keeps the lines up to it.
  accuracy = validate(state)
  writer.write(step, {'validation_accuracy': accuracy})
  progress.say(f'{phase} step {step}: validation accuracy {100 * accuracy:.2f}%')
  checkpoints.save(step, state, accuracy)
