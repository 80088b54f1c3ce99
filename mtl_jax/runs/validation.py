"""Few-shot tasks of the validation classes, which choose the best snapshot of a training run."""
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax import episodes, sharding
from mtl_jax.phases import meta_test, meta_train
from mtl_jax.types import Backbone, Dataset


class Validation(NamedTuple):
  """Few-shot tasks of the validation classes that choose the best snapshot; fixed by the seed."""
  every: int = 250       # steps
  num_tasks: int = 500
  way: int = 5
  shot: int = 1
  inner_lr: float = 0.01
  inner_steps: int = 100
  batch_stats_mode: str = 'running'
  adapts: str = 'head'
  regularization: float = 0.0

  def like(self, config: meta_train.MetaTrainConfig) -> 'Validation':
    """Gives these tasks with the inner loop and the batch norm of a meta-training."""
    return self._replace(batch_stats_mode=config.batch_stats_mode, adapts=config.adapts,
                         regularization=config.regularization)


def check_validation(dataset: Dataset, validation: Validation) -> None:
  """Refuses tasks that the validation classes cannot give.

  Args:
    dataset: its val split is looked at.
    validation: the tasks.

  Raises:
    ValueError: too few classes, or too few images in the smallest class.
  """
  episodes.check(dataset.val, way=validation.way, shot=validation.shot, query=max(1, _query(dataset, validation)),
                 split='val')


def validation_scorer(dataset: Dataset, network: Backbone, validation: Validation, root_key: jax.Array,
                      loops: ModuleType, layout: sharding.Layout | None = None) -> Callable:
  """Prepares the scoring of a snapshot.

  Args:
    dataset: the tasks come from its val split.
    network: the backbone.
    validation: the tasks.
    root_key: fixes them.
    loops: `in_memory` or `streamed`.
    layout: of the devices; None: one.

  Returns:
    (MetaParams, BackboneVars) -> mean accuracy in [0, 1].
  """
  config = meta_test.MetaTestConfig(validation.num_tasks, validation.way, validation.shot, _query(dataset, validation),
                                    validation.inner_lr, validation.inner_steps, validation.batch_stats_mode,
                                    adapts=validation.adapts, regularization=validation.regularization)
  score = loops.scorer(dataset.val, dataset.mean, dataset.std, meta_test.task_keys(root_key, validation.num_tasks),
                        backbone=network, config=config, layout=layout)
  return lambda meta_params, backbone_vars: float(np.mean(score(meta_params, backbone_vars)))


def _query(dataset: Dataset, validation: Validation) -> int:
  """15 queries per class, or as many as the smallest validation class has left."""
  return min(15, int(np.min(dataset.val.class_sizes)) - validation.shot)
