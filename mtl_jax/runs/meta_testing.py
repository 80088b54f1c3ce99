"""Phase 3 as one call on disk."""
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax import configs, episodes, execution, stages
from mtl_jax.configs import MetaTestConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import (
  array_files,
  base_means,
  decisions,
  finished,
  hosts,
  paired,
  records,
  tested_rows,
  trackers,
  workdirs,
)
from mtl_jax.runs.decisions import ONE_DEVICE, Machine
from mtl_jax.runs.metrics import MetricWriter
from mtl_jax.runs.tested_rows import TESTED, Row, tested_params
from mtl_jax.systems import support_classifiers
from mtl_jax.types import Dataset

__all__ = ['meta_test_run', 'tested_params']


def meta_test_run(dataset: Dataset, *, checkpoint: str | os.PathLike, config: MetaTestConfig,
                  split: str, protocol: str, seed: int, workdir: str | os.PathLike,
                  baseline: bool = True, readout: Mapping[str, Any] | None = None,
                  compute_dtype: str | None = None, tuned: bool = False, center: bool = False,
                  machine: Machine = ONE_DEVICE) -> dict[str, Any]:
  """Scores a finished run on fixed, seeded tasks of unseen classes (phase 3).

  Args:
    dataset: the tasks come from its split `split`; its val split chooses inner rates.
    checkpoint: work directory of a finished meta-training, or of a pre-training (then θ starts from
      zero: update θ). After a meta-training of another way θ starts from zero too; the rest stays.
    config: settings of the tasks, the inner loop and the classifier.
    split: 'train', 'val' or 'test'.
    protocol: name to report; its settings are in `config`.
    seed: fixes the tasks.
    workdir: claimed for this run.
    baseline: also score, on the same tasks, the pre-trained backbone without meta-learning
      (update θ), at the inner rate that is best for it on validation tasks.
    readout: options of `backbones.read_out` that differ from those of `checkpoint`.
    compute_dtype: of convolutions, if not that of `checkpoint`.
    tuned: whether validation tasks choose the inner rate of the run too, or the strength of another
      classifier, in place of the one in `config`.
    center: whether the mean of the base classes is taken from the features (`base_means`).
    machine: where images stay and which devices share the tasks; the same tasks either way.

  Returns:
    The content of `results.json`, with what each row gains over the others (`paired`); accuracies
    per task are saved beside it as `accuracies.npy` and, of other rows, `accuracies_ROW.npy`.

  Raises:
    ValueError: settings that make no sense, or a checkpoint or work directory of another kind.
    FileNotFoundError: `checkpoint` is not there.
    OSError: something could not be written.
  """
  began = time.monotonic()
  hosts.on_first(lambda: trackers.check(machine.trackers))
  workdir, pool, readout = os.fspath(workdir), getattr(dataset, split), dict(readout or {})
  run = finished.load(checkpoint, pool.image_shape, readout=readout,
                      compute_dtype=compute_dtype)
  episodes.check_episode(pool, way=config.way, shot=config.shot, query=config.query, split=split)
  finished.check_statistics(os.fspath(checkpoint), run.settings, config.inner.batch_stats_mode)
  _check_classifier(config)
  rows, validated = [], {}
  begun = hosts.on_first(lambda: workdirs.begun_settings(workdir).get('validated', {}))
  for row in tested_rows.plan(run, checkpoint, config, readout=readout, tuned=tuned, center=center,
                              baseline=baseline):
    row, found = tested_rows.prepared(row, dataset, begun, seed=seed, workdir=workdir)
    rows.append(row)
    if found:
      validated[row.key] = {str(value): accuracy for value, accuracy in found.items()}
  data = records.describe_data(dataset)
  settings = {'command': 'meta_test', 'dataset': dataset.name, 'data': data, 'split': split,
              'protocol': protocol, 'seed': seed, 'config': configs.to_json(rows[0].config),
              'baseline': baseline, 'center': center, 'validated': validated,
              'images': records.digest(pool), 'checkpoint': run.settings}
  if (results := records.claim(workdir, settings)) is not None:
    return results

  for row in rows:
    if row.centered:
      base_means.keep(row.run, workdir, row.file('base_mean'))
  accuracies = _score(rows, pool._replace(normalization=run.normalization), seed, workdir, machine)
  accuracy, ci95 = meta_test.summarize(accuracies[TESTED])
  results = {'command': 'meta_test', 'accuracy': accuracy, 'ci95': ci95, **rows[0].strength,
             'num_tasks': config.num_tasks, 'way': config.way, 'shot': config.shot,
             'query': config.query, 'protocol': protocol, 'split': split,
             'dataset': dataset.name, 'data': data, 'method': tested_rows.method_of(rows[0]),
             'classes': list(dataset.class_names.get(split, ())), 'validated': validated,
             **_compared(rows, accuracies), 'seed': seed,
             'seconds': time.monotonic() - began, **records.machine_results(machine.layout)}
  hosts.on_first(_writing(workdir, results, machine.trackers))
  return results


def _check_classifier(config: MetaTestConfig) -> None:
  if config.classifier == support_classifiers.GRADIENT_DESCENT:
    return
  support_classifiers.find(config.classifier)
  if config.inner.adapts != 'head':
    raise ValueError(f'expected classifier={support_classifiers.GRADIENT_DESCENT} where the inner '
                     f'loop adapts {config.inner.adapts}, got {config.classifier}, which is fitted '
                     'to features as they are')


def _score(rows: Sequence[Row], pool, seed: int, workdir: str, machine: Machine
           ) -> dict[str, np.ndarray]:
  """Scores all rows on the same tasks, and writes their accuracies: key of a row -> [tasks]."""
  decided = decisions.for_meta_test(machine, pool)
  phases = execution.make(decided.images_on_host, machine.layout)
  pool = phases.place(pool)
  num_tasks = rows[0].config.num_tasks
  keys = meta_test.task_keys(records.stream_key(seed, 'test'), num_tasks)
  found = {}
  for row in rows:
    of = '' if row.key == TESTED else f' of {tested_rows.method_of(row)}'
    score = phases.scorer(pool, keys, backbone=row.run.backbone, config=row.config)
    with stages.stage(f'compiling and scoring {num_tasks} tasks{of}'):
      found[row.key] = np.asarray(score(row.meta_params, row.run.backbone_vars))
    hosts.on_first(_array_writing(workdir, row.file('accuracies'), found[row.key]))
  return found


def _compared(rows: Sequence[Row], accuracies: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The other rows, and what the run gains over each of them."""
  baselines, gains = {}, {}
  for row in rows[1:]:
    accuracy, ci95 = meta_test.summarize(accuracies[row.key])
    baselines[row.key] = {'accuracy': accuracy, 'ci95': ci95, **row.strength}
    gains[row.key] = paired.compare([accuracies[TESTED]], [accuracies[row.key]])
  return {'baselines': baselines, 'gains': gains} if baselines else {}


def _array_writing(workdir: str, name: str, values: np.ndarray) -> Callable[[], None]:
  return lambda: array_files.write(workdir, name, values)


def _writing(workdir: str, results: dict[str, Any], tracked_by: Sequence[str]
             ) -> Callable[[], None]:
  def write():
    with MetricWriter(workdir, phase='meta_test', tracked_by=tracked_by) as writer:
      values = {name: results[name] for name in ('accuracy', 'ci95')}
      writer.write(results['num_tasks'], values)
    workdirs.write_results(workdir, results)

  return write
