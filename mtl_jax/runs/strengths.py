"""The setting at which a classifier adapts best, found on validation tasks.

Of gradient descent it is the inner rate, which means nothing by itself: it goes with the length of
the features and the number of steps. A comparison of methods is fair if each has been given its own
setting.
"""
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mtl_jax import learnable, stages
from mtl_jax.configs import MetaTestConfig
from mtl_jax.execution import readers
from mtl_jax.phases import encoding, feature_tasks, meta_test
from mtl_jax.runs import hosts, records, validation
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.runs.validation import Validation
from mtl_jax.systems import support_classifiers
from mtl_jax.types import Dataset, Episode, MetaParams

# Inner rates to choose from. The lowest are for features as long as networks make them, which may
# be a hundred times as long as those of unit length times 10.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
NUM_TASKS = 300


class Scores(NamedTuple):
  """How each setting did on the same validation tasks."""
  accuracies: dict[float, float]  # setting -> mean accuracy in [0, 1]
  losses: dict[float, float]      # setting -> mean cross-entropy of the queries, in nats


def candidates(config: MetaTestConfig) -> tuple[float, ...]:
  """Returns the settings that validation tasks choose from; () where there is nothing to choose.

  Args:
    config: of a test; its classifier and its inner loop are read.
  """
  if config.inner.adapts != 'head':
    return ()
  if config.classifier == support_classifiers.GRADIENT_DESCENT:
    return RATES
  return support_classifiers.find(config.classifier).strengths


def search(run: FinishedRun, dataset: Dataset, config: MetaTestConfig, *, seed: int,
           strengths: Sequence[float], meta_params: MetaParams | None = None) -> Scores:
  """Scores settings of a classifier on the same validation tasks.

  Args:
    run: its network is frozen.
    dataset: the tasks come from its val split.
    config: the tasks, with as many queries as their classes have left at most; the inner loop
      adapts θ alone; its rate, or its strength, is not read.
    seed: fixes the tasks.
    strengths: inner rates, or strengths of another classifier, to be compared.
    meta_params: what has been learned; None takes that of the run, or nothing (update θ).

  Returns:
    Scores.

  Raises:
    ValueError: the validation classes cannot give such tasks.
  """
  tasks = _tasks(dataset, config)
  if meta_params is None:
    meta_params = run.meta_params or learnable.nothing_learned(
        run.backbone, run.backbone_vars, config.way, config.inner)
  keys = meta_test.task_keys(records.stream_key(seed, 'validate'), tasks.num_tasks)
  values = jnp.asarray(strengths, jnp.float32)
  score = _encoded if meta_test.each_image_alone(tasks) else _per_task
  found = [np.mean(np.asarray(each, np.float64), axis=0)
           for each in score(run, meta_params, dataset, keys, values, tasks)]
  return Scores(*(dict(zip(strengths, each.tolist(), strict=True)) for each in found))


def _tasks(dataset: Dataset, config: MetaTestConfig) -> MetaTestConfig:
  like = Validation(num_tasks=config.num_tasks, way=config.way, shot=config.shot)
  validation.check_validation(dataset, like)
  return dataclasses.replace(config, query=min(config.query, validation.num_queries(dataset, like)))


def _network(run, meta_params):
  return learnable.network(run.backbone_vars, meta_params)


def _encoded(run, meta_params, dataset, keys, values, config):
  """Scores tasks over features of the images that they name."""
  pool = dataset.val
  named, drawn = feature_tasks.named(keys, pool, config=config)
  total = len(pool.images) if named is None else len(named)
  per_pass = encoding.images_per_pass(*pool.images.shape[1:3])

  def batches() -> Iterator[np.ndarray]:
    for start in range(0, total, per_pass):
      part = slice(start, start + per_pass)
      yield np.asarray(pool.images[part if named is None else named[part]])

  features = encoding.encode_batches(_network(run, meta_params), batches(), run.normalization,
                                     backbone=run.backbone)
  score = jax.jit(functools.partial(feature_tasks.drawn_strength_scores, config=config))
  return score(meta_params, jnp.asarray(features), drawn, values)


def _per_task(run, meta_params, dataset, keys, values, config):
  """Scores tasks one by one from their images, as batch norm or a flipped support needs it."""
  _, drawn = feature_tasks.named(keys, dataset.val._replace(images=()), config=config)
  network, images = _network(run, meta_params), np.asarray(dataset.val.images)

  @jax.jit
  def score(meta_params, network, task: Episode):
    task = meta_test.encoded_task(network, task, run.normalization, backbone=run.backbone,
                                  config=config)
    return feature_tasks.strength_scores(meta_params, task, values, config=config)

  scores = []
  for i in range(config.num_tasks):
    of_task = jax.tree.map(lambda x, i=i: x[i], drawn)
    scores.append(score(meta_params, network,
                        readers.read_episode(images, of_task, shot=config.shot)))
  return (np.stack(each) for each in zip(*scores, strict=True))


def best(found: Mapping[float, float]) -> float:
  """Returns the setting of the highest accuracy, the lowest of equal ones.

  Args:
    found: setting -> accuracy.

  >>> best({0.01: 0.4, 0.1: 0.5, 1.0: 0.5})
  0.1
  """
  return max(sorted(found), key=lambda strength: found[strength])


def validated(run: FinishedRun, dataset: Dataset, config: MetaTestConfig, *, seed: int,
              meta_params: MetaParams | None = None) -> dict[float, float]:
  """Scores the candidates of a test on NUM_TASKS validation tasks, in the first process for all.

  Args:
    run, dataset, config, seed, meta_params: as in `search`.

  Returns:
    Setting -> mean accuracy; {} where there is nothing to choose, or where the validation classes
    cannot give such tasks, which is said.
  """
  strengths = candidates(config)
  if not strengths:
    return {}
  tasks = dataclasses.replace(config, num_tasks=NUM_TASKS)
  try:
    _tasks(dataset, tasks)
  except ValueError as error:
    logging.warning('the setting of the classifier stays as it is, as the validation classes '
                    'cannot choose it: %s', error)
    return {}
  with stages.stage('choosing the setting of the classifier on validation tasks'):
    found = hosts.on_first(lambda: _as_json(search(
        run, dataset, tasks, seed=seed, strengths=strengths, meta_params=meta_params).accuracies))
  return {float(strength): accuracy for strength, accuracy in found.items()}


def _as_json(found):
  return {str(strength): value for strength, value in found.items()}


def with_strength(config: MetaTestConfig, strength: float) -> MetaTestConfig:
  """Returns a config with another inner rate, or another strength of its other classifier.

  Args:
    config: of a test.
    strength: the new value.
  """
  if config.classifier == support_classifiers.GRADIENT_DESCENT:
    return dataclasses.replace(config, inner=dataclasses.replace(config.inner, lr=strength))
  return dataclasses.replace(config, strength=strength)
