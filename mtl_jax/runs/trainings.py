"""A training by a number of steps or by the clock: what pre-training and meta-training share."""
import os
import time
from collections.abc import Sequence
from typing import TypeVar

from mtl_jax.configs import MetaTrainConfig, PretrainConfig
from mtl_jax.runs import fit, hosts, time_budgets, workdirs
from mtl_jax.runs.fit import Fitted
from mtl_jax.runs.time_budgets import Clock, TimeBudget, Training
from mtl_jax.runs.trackers import DEFAULT

C = TypeVar('C', PretrainConfig, MetaTrainConfig)


def run(training: Training[C], config: C, *, phase: str, num_steps: int,
        workdir: str | os.PathLike, budget: TimeBudget | None = None,
        profile: str | None = None, trackers: Sequence[str] = DEFAULT) -> tuple[C, Fitted]:
  """Trains until a number of steps, or until a time is over.

  Args:
    training: the functions of the phase.
    config: settings of the phase.
    phase: name of the phase, as in `fit.fit`.
    num_steps: steps at which the run is finished, where no time decides it; 0 trains nothing.
    workdir: claimed for the run.
    budget: its time; None for `num_steps`.
    profile: as in `fit.fit`.
    trackers: as in `fit.fit`.

  Returns:
    (the settings with the schedule that was trained by, how the training ended).

  Raises:
    FloatingPointError, OSError: as `fit.fit`.
  """
  clock, began = None, time.monotonic()
  if budget is not None and num_steps:
    # Two processes that both measured would each go by their own number of steps.
    with hosts.first_only(workdirs.in_use, workdir):
      clock = Clock(workdir, budget)
      config = training.lay_over(config, time_budgets.decide(clock, budget, training, config))
    num_steps = clock.last_step or num_steps
  with training.advance(config) as advance:
    fitted = fit.fit(training.start(config), advance, training.validate, phase=phase,
                     num_steps=num_steps, validate_every=training.validate_every, workdir=workdir,
                     profile=profile, clock=clock, trackers=trackers)
  return config, fitted._replace(seconds=time.monotonic() - began)
