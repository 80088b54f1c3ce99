"""Training by the clock: how many steps fit into some minutes is measured, decided once, and kept.

The decision stands in `schedule.json`, so that a run that is stopped and resumed takes the steps of
the unbroken one, on whatever machine. What time a run has taken stands there too, of all processes
that have worked on it.
"""
import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, NamedTuple, TypeVar

import jax
from absl import logging

from mtl_jax import stages
from mtl_jax.configs import Config
from mtl_jax.runs import hosts, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.runs.metrics import MetricWriter

C = TypeVar('C', bound=Config)

FILE = 'schedule.json'
_AIM = 0.96           # share of the time that is planned; the rest is for what nobody foresees
_WARM_UP = 0.04       # share of the time that is spent on measuring a step
_MOST_WARM_UP = 30.0  # seconds
_LEAST_CALLS, _MOST_CALLS = 3, 1000  # compiled calls that are measured


@dataclasses.dataclass(frozen=True)
class TimeBudget:
  """How long a training may take.

  Attributes:
    minutes: of wall-clock time, in all processes that work on the run.
    most_steps: steps after which it ends in any case; None for as many as fit.
    began: when this process began to count, in seconds of `time.monotonic`.
  """
  minutes: float
  most_steps: int | None = None
  began: float = dataclasses.field(default_factory=time.monotonic)

  def __post_init__(self):
    if not 0 < self.minutes < math.inf:
      raise ValueError(f'expected max_minutes above 0, got {self.minutes}')

  def settings(self) -> dict[str, Any]:
    """Returns what stands of it among the settings of a run."""
    return {'time_budget': {'max_minutes': self.minutes, 'most_steps': self.most_steps}}


class Measured(NamedTuple):
  """Seconds that the parts of a training take on a machine."""
  compiling: float   # of the training call
  call: float        # one call of some steps, with its metrics
  validation: float  # one validation, with its checkpoint


class Training(NamedTuple, Generic[C]):
  """The functions of a phase, for any settings of it."""
  start: Callable[[C], Any]           # makes the state before the first step
  advance: Callable[[C], AbstractContextManager[Callable]]  # yields state -> (state, metrics)
  validate: Callable[[Any], Any]      # state -> Score
  lay_over: Callable[[C, int], C]     # lays the schedule of the learning rate over some steps
  steps_per_call: int
  validate_every: int


class Clock:
  """The time that a run has taken, and what was decided by it; read and written by process 0.

  Args:
    workdir: directory of the run.
    budget: its time.
  """

  def __init__(self, workdir: str | os.PathLike, budget: TimeBudget):
    self.workdir, self._budget = os.fspath(workdir), budget
    self._kept = hosts.on_first(lambda: workdirs.read_json(workdir, FILE) or {})
    self._before = float(self._kept.get('spent_seconds', 0.0))

  @property
  def steps(self) -> int | None:
    """Steps that the schedule was laid over; None before that is decided."""
    return self._kept.get('steps')

  @property
  def last_step(self) -> int | None:
    """Step at which the run ends: `steps`, or before where the time was over."""
    return self._kept.get('last_step', self.steps)

  def spent(self) -> float:
    """Returns the seconds that all processes have worked on the run."""
    return self._before + time.monotonic() - self._budget.began

  def left(self) -> float:
    """Returns the seconds that are left."""
    return 60 * self._budget.minutes - self.spent()

  def note(self, **decided: Any) -> None:
    """Writes down the time that was spent, and what is decided.

    Args:
      **decided: values that JSON can hold.
    """
    self._kept |= decided
    kept = self._kept | {'spent_seconds': self.spent()}
    hosts.on_first(lambda: workdirs.write_json(self.workdir, FILE, kept))

  def is_over(self) -> bool:
    """Whether there is no time for more than a last validation, by the clock of process 0."""
    validation = self._kept.get('measured', {}).get('validation', 0.0)
    return hosts.on_first(lambda: self.left() <= validation)


def decide(clock: Clock, budget: TimeBudget, training: Training[C], config: C) -> int:
  """Returns how many steps the schedule is laid over: as decided before, or as measured now.

  Args:
    clock: of the run.
    budget: its time.
    training: the functions that are measured; the steps they take are thrown away.
    config: settings of the phase.
  """
  if clock.steps is None:
    with stages.stage('compiling, and measuring how many steps fit into the time'):
      measured = _measure(clock, budget, training, config)
    steps = hosts.on_first(lambda: steps_that_fit(
        measured, _AIM * 60 * budget.minutes - clock.spent(), training, budget.most_steps))
    clock.note(steps=steps, measured=hosts.on_first(measured._asdict))
    logging.info('%d steps fit into %g minutes: %.3g s each, %.3g s for each validation', steps,
                 budget.minutes, measured.call / training.steps_per_call, measured.validation)
  assert clock.steps is not None
  return clock.steps


def steps_that_fit(measured: Measured, seconds: float, training: Training,
                   most_steps: int | None = None) -> int:
  """Counts the steps of whole calls that fit into some seconds, with their validations.

  The call is compiled once more, as the schedule of its learning rate is new, and the first state
  is validated too.

  Args:
    measured: on this machine.
    seconds: that are left.
    training: its numbers of steps are read.
    most_steps: bound; None for none.

  Returns:
    A number of steps; those of one call where nothing fits.
  """
  per_call, every = training.steps_per_call, training.validate_every
  left = seconds - measured.compiling - measured.validation

  def takes(calls):
    return calls * measured.call + math.ceil(calls * per_call / every) * measured.validation

  if takes(1) > left:
    logging.warning('the time is too short for one call of %d steps, which is taken all the same: '
                    'it needs about %.2g minutes more', per_call, (takes(1) - left) / 60)
  fits, too_many = 1, max(2, int(left / measured.call) + 2)
  while too_many - fits > 1:
    middle = (fits + too_many) // 2
    fits, too_many = (middle, too_many) if takes(middle) <= left else (fits, middle)
  most = fits if most_steps is None else max(1, math.ceil(most_steps / per_call))
  return min(fits, most) * per_call


def decided_steps(workdir: str | os.PathLike) -> int | None:
  """Returns the steps that were decided for a run by its time; None where none were.

  Args:
    workdir: directory of the run.
  """
  return (workdirs.read_json(workdir, FILE) or {}).get('steps')


def _measure(clock: Clock, budget: TimeBudget, training: Training[C], config: C) -> Measured:
  """Takes some steps as the run will, with their metrics and checkpoints, in a folder aside."""
  folder = os.path.join(clock.workdir, '.warm_up')
  shutil.rmtree(folder, ignore_errors=True)
  config = training.lay_over(config, _MOST_CALLS * training.steps_per_call)
  state = training.start(config)
  with (hosts.first_only(Checkpoints, folder) as checkpoints,
        hosts.first_only(MetricWriter, folder) as writer):
    def validate(step):
      checkpoints.save(step, state, *training.validate(state))
      hosts.on_first(checkpoints.wait)

    # What was spent is written between the long parts: a process killed there has spent it.
    validate(0)  # compiles, and imports what writes; the run will not do so again
    clock.note()
    began = time.monotonic()
    validate(1)
    validation = time.monotonic() - began
    with training.advance(config) as advance:
      def take_call(state):
        state, metrics = advance(state)
        step, metrics = jax.device_get((state.step, metrics))
        writer.write(step, metrics)
        return state

      began = time.monotonic()
      state = take_call(state)
      first = time.monotonic() - began
      clock.note()
      call = _seconds_per_call(take_call, state, min(_WARM_UP * 60 * budget.minutes, _MOST_WARM_UP))
  shutil.rmtree(folder, ignore_errors=True)
  return Measured(max(0.0, first - call), call, validation)


def _seconds_per_call(take_call: Callable[[Any], Any], state: Any, enough: float) -> float:
  """The mean over some calls, which take `enough` seconds in all."""
  began, calls = time.monotonic(), 0
  while calls < _LEAST_CALLS or (calls < _MOST_CALLS - 1 and hosts.on_first(
      lambda: time.monotonic() - began < enough)):
    state = take_call(state)
    calls += 1
  return (time.monotonic() - began) / calls
