"""The rows of one meta-test: the run that is tested, and what it is compared with."""
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from mtl_jax import learnable
from mtl_jax.configs import Learn, MetaTestConfig, MetaTrainConfig
from mtl_jax.runs import base_means, finished, strengths
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.systems import support_classifiers
from mtl_jax.types import Dataset, MetaParams

TESTED, UPDATE_THETA, UNLEARNED = 'tested', 'update_theta', 'without_meta_learning'
NAMES = {UPDATE_THETA: 'update θ', UNLEARNED: 'the same without meta-learning'}


class Row(NamedTuple):
  """One row of a meta-test."""
  key: str                  # TESTED, UPDATE_THETA or UNLEARNED
  run: FinishedRun          # as it is read out
  meta_params: MetaParams   # what has been learned
  config: MetaTestConfig
  tuned: bool               # whether validation tasks choose the setting of its classifier
  centered: bool            # whether the mean of the base classes is taken from its features

  def file(self, name: str) -> str:
    """Returns the name of a file of this row: NAME.npy of the tested run, else NAME_KEY.npy."""
    return f'{name}.npy' if self.key == TESTED else f'{name}_{self.key}.npy'

  @property
  def strength(self) -> dict[str, float]:
    """The setting of its classifier, by its name; {} where it has none, or has learned it."""
    if self.meta_params.inner_lr:
      return {}
    if self.config.classifier == support_classifiers.GRADIENT_DESCENT:
      return {'inner_lr': self.config.inner.lr}
    if not strengths.candidates(self.config):
      return {}
    return {'strength': self.config.strength}


def plan(run: FinishedRun, checkpoint: str | os.PathLike, config: MetaTestConfig, *,
         readout: Mapping[str, Any], tuned: bool, center: bool, baseline: bool) -> list[Row]:
  """Lists the rows of a meta-test, that of the run first.

  Args:
    run: that is tested.
    checkpoint: its work directory.
    config: of its test.
    readout: options that differ from those of `checkpoint`.
    tuned: whether validation tasks choose the setting of the classifier of the run.
    center: whether its features are centred.
    baseline: whether there are other rows: update θ, with gradient descent over features that are
      neither shifted nor centred by this test, at its own validated rate; and, where the test
      changes any of that for a run with meta-learning, the same without meta-learning.
  Returns:
    One row to three.
  """
  rows = [Row(TESTED, run, tested_params(run, checkpoint, config), config, tuned, center)]
  shift = finished.trained_settings(checkpoint).get('readout', {}).get('shift', 0)
  is_shifted = readout.get('shift', shift) != shift
  is_other = is_shifted or center or config.classifier != support_classifiers.GRADIENT_DESCENT
  # Without meta-learning the paper adapts θ alone; a run that adapts the network is compared with
  # that row.
  head = dataclasses.replace(config, inner=dataclasses.replace(config.inner, adapts='head'))
  plain = learnable.nothing_learned(run.backbone, run.backbone_vars, config.way, head.inner)
  if baseline and run.meta_params is not None and is_other:
    rows.append(Row(UNLEARNED, run, plain, head, True, center))
  if baseline and (run.meta_params is not None or is_other):
    settings = run.settings['readout'] | {'shift': shift}
    bare = finished.read_out(run, settings) if is_shifted else run
    head = dataclasses.replace(head, classifier=support_classifiers.GRADIENT_DESCENT)
    rows.append(Row(UPDATE_THETA, bare, plain, head, True, False))
  return rows


def tested_params(run: FinishedRun, checkpoint: str | os.PathLike,
                  config: MetaTestConfig) -> MetaParams:
  """Returns what was learned; a linear θ of another number of classes starts from zero.

  Classes of a task come in random order. So all that a learned θ could hand to a task of another
  way is its mean over the orders, which is the same for every class; softmax takes that for zero.

  Args:
    run: of `finished.load`.
    checkpoint: work directory of the run, for the message.
    config: the tasks, and the inner loop whose θ it is.
  """
  plain = learnable.nothing_learned(run.backbone, run.backbone_vars, config.way, config.inner)
  if run.meta_params is None:
    return plain
  learned, start = (jax.tree.map(np.shape, params.base_learner)
                    for params in (run.meta_params, plain))
  if learned == start:
    return run.meta_params
  trained = run.settings['config']
  other = (f'{trained["way"]}-way: for {config.way} ways' if trained['way'] != config.way else
           f'through inner={trained["inner"]["adapts"]}: for inner={config.inner.adapts}')
  logging.info('%s was meta-trained %s θ starts from zero, all else as learned', checkpoint, other)
  return run.meta_params._replace(base_learner=plain.base_learner)


def prepared(row: Row, dataset: Dataset, begun: Mapping[str, Any], *, seed: int, workdir: str
             ) -> tuple[Row, dict[float, float]]:
  """Centres the features of a row, and chooses the setting of its classifier.

  Args:
    row: of `plan`.
    dataset: its train split gives the mean, its val split the tasks that choose.
    begun: what the settings of the run in `workdir` say under `validated`, if it has begun: a
      setting that was chosen stays.
    seed: fixes the tasks.
    workdir: where a mean that was computed before is looked for.

  Returns:
    (the row with its setting, {setting: accuracy on validation tasks}); {} where none was chosen.
  """
  if row.centered:
    row = row._replace(run=base_means.centred(row.run, row.meta_params, dataset, workdir,
                                              row.file('base_mean')))
  if not row.tuned:
    return row, {}
  found = {float(value): accuracy for value, accuracy in begun.get(row.key, {}).items()}
  found = found or strengths.validated(row.run, dataset, row.config, seed=seed,
                                       meta_params=row.meta_params)
  if not found:
    return row, {}
  return row._replace(config=strengths.with_strength(row.config, strengths.best(found))), found


def method_of(row: Row) -> str:
  """Names a row as the paper's tables do, with the classifier where it is not gradient descent.

  Args:
    row: of `plan`.
  """
  if row.key != TESTED:
    return NAMES[row.key]
  trained, config, adapts = row.run.config, row.config, str(row.config.inner.adapts)
  is_gd = config.classifier == support_classifiers.GRADIENT_DESCENT
  if not isinstance(trained, MetaTrainConfig):
    return learnable.row_name(Learn('none'), adapts, False) if is_gd else config.classifier
  name = learnable.row_name(trained.learn, adapts, bool(trained.num_hard_tasks))
  return name if is_gd else f'{name}, {config.classifier}'
