"""The inner rate at which the base-learner adapts best, found on validation tasks.

A rate means nothing by itself: it goes with the length of the features and the number of steps. A
comparison of methods is fair if each has been given its own.
"""
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import learnable
from mtl_jax.configs import MetaTestConfig
from mtl_jax.phases import encoding, meta_test
from mtl_jax.runs import finished, records, validation
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.runs.validation import Validation
from mtl_jax.types import Dataset

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


def accuracies(run: FinishedRun, dataset: Dataset, tasks: Validation, *, seed: int,
               rates: Sequence[float] = RATES) -> dict[float, float]:
  """Scores inner rates on the same validation tasks, with every image encoded once.

  Args:
    run: its network is frozen, by running statistics; θ starts as it was meta-learned, else from
      zero (update θ).
    dataset: the tasks come from its val split.
    tasks: how many they are, their ways and shots, and the inner steps; its rate is not read.
    seed: fixes the tasks.
    rates: to be compared.

  Returns:
    Rate -> mean accuracy in [0, 1].

  Raises:
    ValueError: the validation classes cannot give such tasks.
  """
  validation.check_validation(dataset, tasks)
  pool = dataset.val
  per_pass = encoding.images_per_pass(*pool.images.shape[1:3])
  batches = (np.asarray(pool.images[start:start + per_pass])
             for start in range(0, len(pool.images), per_pass))
  features = encoding.encode_batches(finished.network_of(run), batches, run.normalization,
                                     backbone=run.backbone)
  encoded = pool._replace(images=jnp.asarray(features), normalization=None)
  config = MetaTestConfig(num_tasks=tasks.num_tasks, way=tasks.way, shot=tasks.shot,
                          query=validation.num_queries(dataset, tasks),
                          inner=dataclasses.replace(tasks.inner, adapts='head',
                                                    batch_stats_mode='running'))
  meta_params = run.meta_params or learnable.nothing_learned(
      run.backbone, run.backbone_vars, tasks.way, config.inner)
  keys = meta_test.task_keys(records.stream_key(seed, 'validate'), tasks.num_tasks)

  score_tasks = jax.jit(functools.partial(meta_test.feature_accuracies, config=config))

  def score(rate):
    # As if it had been learned: so it is an argument, and one program serves all rates.
    at_rate = meta_params._replace(inner_lr={'log': jnp.log(jnp.float32(rate))})
    same = jax.random.clone(keys)  # every rate meets the same tasks
    return float(np.mean(score_tasks(at_rate, encoded, same)))

  return {rate: score(rate) for rate in rates}


def best(found: dict[float, float]) -> float:
  """Returns the rate of the highest accuracy, the lowest of equal ones.

  Args:
    found: as `accuracies` returns it.

  >>> best({0.01: 0.4, 0.1: 0.5, 1.0: 0.5})
  0.1
  """
  return max(sorted(found), key=lambda rate: found[rate])
