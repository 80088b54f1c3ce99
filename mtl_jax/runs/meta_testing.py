"""Phase 3 as one call on disk."""
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from mtl_jax import configs, episodes, execution, learnable, stages
from mtl_jax.configs import Learn, MetaTestConfig, MetaTrainConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import decisions, finished, hosts, records, trackers, workdirs
from mtl_jax.runs.decisions import ONE_DEVICE, Machine
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.runs.metrics import MetricWriter
from mtl_jax.types import Dataset, MetaParams


def meta_test_run(dataset: Dataset, *, checkpoint: str | os.PathLike, config: MetaTestConfig,
                  split: str, protocol: str, seed: int, workdir: str | os.PathLike,
                  baseline: bool = True, readout: Mapping[str, Any] | None = None,
                  compute_dtype: str | None = None,
                  machine: Machine = ONE_DEVICE) -> dict[str, Any]:
  """Scores a finished run on fixed, seeded tasks of unseen classes (phase 3).

  Args:
    dataset: the tasks come from its split `split`.
    checkpoint: work directory of a finished meta-training, or of a pre-training (then θ starts from
      zero: update θ). After a meta-training of another way θ starts from zero too; the rest stays.
    config: settings of the tasks and the inner loop.
    split: 'train', 'val' or 'test'.
    protocol: name to report; its settings are in `config`.
    seed: fixes the tasks.
    workdir: claimed for this run.
    baseline: also score, on the same tasks, the pre-trained backbone without meta-learning
      (update θ).
    readout: options of `backbones.read_out` that differ from those of `checkpoint`.
    compute_dtype: of convolutions, if not that of `checkpoint`.
    machine: where images stay and which devices share the tasks; the same tasks either way.

  Returns:
    The content of `results.json`; accuracies per task are saved beside it as `accuracies.npy`.

  Raises:
    ValueError: settings that make no sense, or a checkpoint or work directory of another kind.
    FileNotFoundError: `checkpoint` is not there.
    OSError: something could not be written.
  """
  hosts.on_first(lambda: trackers.check(machine.trackers))
  workdir, pool = os.fspath(workdir), getattr(dataset, split)
  run = finished.load(checkpoint, pool.image_shape, readout=readout,
                      compute_dtype=compute_dtype)
  episodes.check_episode(pool, way=config.way, shot=config.shot, query=config.query, split=split)
  finished.check_statistics(os.fspath(checkpoint), run.settings, config.inner.batch_stats_mode)
  meta_params = tested_params(run, checkpoint, config)
  data = records.describe_data(dataset)
  settings = {'command': 'meta_test', 'dataset': dataset.name, 'data': data, 'split': split,
              'protocol': protocol, 'seed': seed, 'config': configs.to_json(config),
              'baseline': baseline, 'images': records.digest(pool), 'checkpoint': run.settings}
  if (results := records.claim(workdir, settings)) is not None:
    return results

  began = time.monotonic()
  pool = pool._replace(normalization=run.normalization)
  decided = decisions.for_meta_test(machine, pool)
  phases = execution.make(decided.images_on_host, machine.layout)
  pool = phases.place(pool)
  keys = meta_test.task_keys(records.stream_key(seed, 'test'), config.num_tasks)
  score = phases.scorer(pool, keys, backbone=run.backbone, config=config)
  with stages.stage(f'compiling and scoring {config.num_tasks} tasks'):
    per_task = np.asarray(score(meta_params, run.backbone_vars))
  hosts.on_first(lambda: workdirs.write_array(workdir, 'accuracies.npy', per_task))
  accuracy, ci95 = meta_test.summarize(per_task)
  results = {'command': 'meta_test', 'accuracy': accuracy, 'ci95': ci95,
             'num_tasks': config.num_tasks, 'way': config.way, 'shot': config.shot,
             'query': config.query, 'protocol': protocol, 'split': split,
             'dataset': dataset.name, 'data': data, 'method': _row_name(run, config),
             'classes': list(dataset.class_names.get(split, ()))}
  if baseline and run.meta_params is not None:
    # Without meta-learning the paper adapts θ alone; a run that adapts the network is compared with
    # that row.
    head = dataclasses.replace(config, inner=dataclasses.replace(config.inner, adapts='head'))
    score = phases.scorer(pool, keys, backbone=run.backbone, config=head)
    with stages.stage(f'scoring {config.num_tasks} tasks without meta-learning'):
      plain = learnable.nothing_learned(run.backbone, run.backbone_vars, config.way, head.inner)
      value, interval = meta_test.summarize(score(plain, run.backbone_vars))
    results['baselines'] = {'update_theta': {'accuracy': value, 'ci95': interval}}
  results |= {'seed': seed, 'seconds': time.monotonic() - began,
              **records.machine_results(machine.layout)}
  hosts.on_first(_writing(workdir, results, machine.trackers))
  return results


def _writing(workdir: str, results: dict[str, Any], tracked_by: Sequence[str]
             ) -> Callable[[], None]:
  def write():
    with MetricWriter(workdir, phase='meta_test', tracked_by=tracked_by) as writer:
      values = {name: results[name] for name in ('accuracy', 'ci95')}
      writer.write(results['num_tasks'], values)
    workdirs.write_results(workdir, results)

  return write


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


def _row_name(run: FinishedRun, config: MetaTestConfig) -> str:
  """The row of the paper's tables that a run stands for."""
  trained = run.config
  adapts = str(config.inner.adapts)
  if not isinstance(trained, MetaTrainConfig):
    return learnable.row_name(Learn('none'), adapts, False)
  return learnable.row_name(trained.learn, adapts, bool(trained.num_hard_tasks))
