"""The inner rate at which the base-learner adapts best, found on validation tasks."""
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from mtl_jax import stages
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig
from mtl_jax.runs import hosts, strengths, workdirs
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.runs.strengths import RATES, Scores, best
from mtl_jax.runs.validation import MOST_QUERIES, Validation
from mtl_jax.types import Dataset

__all__ = ['RATES', 'accuracies', 'best', 'chosen', 'scores']


def scores(run: FinishedRun, dataset: Dataset, tasks: Validation, *, seed: int,
           rates: Sequence[float] = RATES) -> Scores:
  """Scores inner rates on the same validation tasks, with every image encoded once.

  Args:
    run: its network is frozen, by running statistics; θ starts as it was meta-learned, else from
      zero (update θ).
    dataset: the tasks come from its val split.
    tasks: how many they are, their ways and shots, and the inner steps; its rate is not read.
    seed: fixes the tasks.
    rates: to be compared.

  Returns:
    Mean accuracy and mean cross-entropy of the queries at each rate.

  Raises:
    ValueError: the validation classes cannot give such tasks.
  """
  config = MetaTestConfig(num_tasks=tasks.num_tasks, way=tasks.way, shot=tasks.shot,
                          query=MOST_QUERIES,
                          inner=dataclasses.replace(tasks.inner, adapts='head',
                                                    batch_stats_mode='running'))
  return strengths.search(run, dataset, config, seed=seed, strengths=rates)


def accuracies(run: FinishedRun, dataset: Dataset, tasks: Validation, *, seed: int,
               rates: Sequence[float] = RATES) -> dict[float, float]:
  """Scores inner rates as `scores` does; returns rate -> mean accuracy in [0, 1].

  Args:
    run, dataset, tasks, seed, rates: as in `scores`.
  """
  return scores(run, dataset, tasks, seed=seed, rates=rates).accuracies


def chosen(workdir: str | os.PathLike, run: FinishedRun, dataset: Dataset, config: MetaTrainConfig,
           *, seed: int) -> dict[str, Any]:
  """Chooses the inner rate of a meta-training: that of the lowest query loss before its first step.

  The loss, not the accuracy, which hardly depends on the rate: the outer loop descends on it, and
  where the base-learner is less confident than it should be, spends Φ_S on making logits larger.

  Args:
    workdir: of the meta-training; a rate that it has begun with stays.
    run: the pre-training.
    dataset: the tasks come from its val split.
    config: of the meta-training; ways, shots and the inner loop in training are those of the tasks.
    seed: fixes the tasks.

  Returns:
    `inner_lr`, and `losses`, rate -> mean cross-entropy of the queries in nats.

  Raises:
    ValueError: the validation classes cannot give such tasks.
  """
  def choose():
    if (begun := workdirs.begun_settings(workdir).get('chosen_rate')) is not None:
      return begun
    tasks = MetaTestConfig(num_tasks=strengths.NUM_TASKS, way=config.way, shot=config.shot,
                           query=MOST_QUERIES, inner=config.inner)
    with stages.stage('choosing the inner rate on validation tasks'):
      found = strengths.search(run, dataset, tasks, seed=seed, strengths=RATES).losses
    losses = {rate: loss for rate, loss in found.items() if math.isfinite(loss)}  # else it diverges
    return {'inner_lr': min(losses, key=lambda rate: losses[rate], default=min(RATES)),
            'losses': {str(rate): loss for rate, loss in losses.items()}}

  return hosts.on_first(choose)
