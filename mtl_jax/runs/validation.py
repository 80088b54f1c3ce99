"""Few-shot tasks of the validation classes, which choose the best snapshot of a training run."""
import dataclasses
from collections.abc import Callable

import numpy as np

from mtl_jax import episodes
from mtl_jax.configs import TEST_LOOP, Config, InnerLoop, MetaTestConfig
from mtl_jax.execution import Execution
from mtl_jax.phases import meta_test
from mtl_jax.types import Array, Backbone, Dataset, Score

MOST_QUERIES = 15  # per class; fewer where the smallest validation class has no more left


@dataclasses.dataclass(frozen=True)
class Validation(Config):
  """Few-shot tasks of the validation classes, fixed by the seed.

  Attributes:
    every: steps between two validations, and so between two checkpoints.
    num_tasks: tasks of each validation.
    way: N, classes of a task.
    shot: K, support images per class.
    inner: the inner loop of each task.
  """
  every: int = 250
  num_tasks: int = 500
  way: int = 5
  shot: int = 1
  inner: InnerLoop = TEST_LOOP


def check_validation(dataset: Dataset, validation: Validation) -> None:
  """Refuses tasks that the validation classes cannot give.

  Args:
    dataset: its val split is looked at.
    validation: the tasks.

  Raises:
    ValueError: too few classes, or too few images in the smallest class.
  """
  query = max(1, num_queries(dataset, validation))
  episodes.check_episode(dataset.val, way=validation.way, shot=validation.shot, query=query,
                         split='val')


def make_scorer(dataset: Dataset, backbone: Backbone, validation: Validation, root_key: Array,
                execution: Execution) -> Callable[..., Score]:
  """Prepares the scoring of a snapshot.

  Args:
    dataset: the tasks come from its val split.
    backbone: maps images to features [B, d].
    validation: the tasks.
    root_key: fixes them.
    execution: computes the accuracies.

  Returns:
    (MetaParams, BackboneVars) -> Score.
  """
  config = MetaTestConfig(
      num_tasks=validation.num_tasks, way=validation.way, shot=validation.shot,
      query=num_queries(dataset, validation), inner=validation.inner)
  keys = meta_test.task_keys(root_key, validation.num_tasks)
  score = execution.scorer(dataset.val, keys, backbone=backbone, config=config)

  def score_snapshot(meta_params, backbone_vars):
    per_task = np.asarray(score(meta_params, backbone_vars))
    return Score(float(np.mean(per_task)), meta_test.summarize(per_task)[1])

  return score_snapshot


def num_queries(dataset: Dataset, validation: Validation) -> int:
  """Counts the queries per class: MOST_QUERIES, or what the smallest validation class has left.

  Args:
    dataset: its val split is looked at.
    validation: its shots are read.
  """
  return min(MOST_QUERIES, int(np.min(dataset.val.class_sizes)) - validation.shot)
