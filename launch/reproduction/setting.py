"""The paper's setting taken apart: what scale and shift gain in each of eight settings.

Under the work directory: `short` and `preset`, the two pre-trainings; SETTING_Kshot_seedS/, with
`update_theta` (a meta-test), `ss` and `ss_ht` (meta-trainings with their `meta_test`). In each
setting the inner rate in training is the one at which update θ is best on validation tasks there,
and every row is tested at a rate of its own. All rows of a seed are scored on the same tasks.
"""
import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mtl_jax import runs
from mtl_jax.configs import TEST_LOOP, InnerLoop, MetaTestConfig
from mtl_jax.runs import array_files, records
from mtl_jax.types import Dataset

from .. import meta_train
from ..flags import declared, method, task
from . import setting_table, table_runs
from .budgets import Budget
from .setting_rows import RAW, ROWS, SETTINGS, Setting, pretrain_flags

WAY, QUERY = 5, 15


class Request(NamedTuple):
  """What shall be run; decides every figure, together with the images."""
  budget_name: str
  budget: Budget
  shots: tuple[int, ...]
  seeds: tuple[int, ...]  # of meta-training and test tasks; the first is that of pre-training


def reproduce(request: Request, dataset: Dataset, *, workdir: str, command: str,
              machine: runs.Machine) -> dict[str, Any]:
  """Runs what is not finished yet, and writes `results.json` and `table.md`.

  Args:
    request: what shall be run.
    dataset: the images.
    workdir: claimed for this table.
    command: the command line, for the report.
    machine: where and how the runs compute.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  table_runs.check_tasks(dataset, way=WAY, shots=request.shots)

  def compute():
    done = list(_run_all(request, dataset, workdir, machine))
    return {'command': 'reproduce', 'table': 'setting', 'command_line': command,
            'dataset': dataset.name, 'data': records.describe_data(dataset),
            'seeds': list(request.seeds), 'shots': list(request.shots),
            'num_tasks': request.budget.num_tasks, **setting_table.summarize(done)}

  return table_runs.run(workdir, _settings(request, dataset), compute, setting_table.write)


def _settings(request: Request, dataset: Dataset) -> dict[str, Any]:
  pretrainings = {setting.pretraining: ' '.join(
      pretrain_flags(setting, request.budget_name, request.budget)) for setting in SETTINGS}
  return {'command': 'reproduce', 'table': 'setting', 'budget': request.budget_name,
          'dataset': dataset.name, 'image_shape': list(dataset.train.images.shape[1:]),
          'shots': list(request.shots), 'seeds': list(request.seeds), 'pretrain': pretrainings,
          'one_shot': ' '.join(request.budget.one_shot),
          'more_shots': ' '.join(request.budget.more_shots), 'num_tasks': request.budget.num_tasks}


def _run_all(request: Request, dataset: Dataset, workdir: str, machine: runs.Machine
             ) -> Iterator[tuple[Setting, str, int, int, np.ndarray, dict[str, Any]]]:
  """Yields (setting, row, shots, seed, accuracies per task, facts) of every cell."""
  for setting in SETTINGS:
    pretrained = _pretrain(setting, request, dataset, workdir, machine)
    for shot in request.shots:
      for seed in request.seeds:
        folder = os.path.join(workdir, f'{setting.name}_{shot}shot_seed{seed}')
        rate = None
        for row in ROWS:
          logging.info('%s, %s, %d-shot, seed %d', setting.name, row, shot, seed)
          cell = _Cell(setting, row, shot, seed, rate, os.path.join(folder, row))
          accuracies, facts = _run(cell, request, dataset, pretrained, machine)
          rate = facts['inner_lr'] if rate is None else rate  # update θ comes first
          yield setting, row, shot, seed, accuracies, facts


class _Cell(NamedTuple):
  setting: Setting
  row: str
  shot: int
  seed: int
  rate: float | None  # in meta-training; None for update θ
  folder: str


def _pretrain(setting: Setting, request: Request, dataset: Dataset, workdir: str,
              machine: runs.Machine) -> str:
  """Pre-trains the network of a setting, once for all that share it; returns its folder."""
  folder = os.path.join(workdir, setting.pretraining)
  table_runs.pretrain(pretrain_flags(setting, request.budget_name, request.budget), dataset,
                      seed=request.seeds[0], workdir=folder, machine=machine)
  return folder


def _run(cell: _Cell, request: Request, dataset: Dataset, pretrained: str, machine: runs.Machine
         ) -> tuple[np.ndarray, dict[str, Any]]:
  """Meta-trains, unless it is update θ, and tests; returns (accuracies, facts)."""
  readout = RAW if cell.setting.features == 'raw' else {}
  inner = dataclasses.replace(TEST_LOOP, batch_stats_mode=cell.setting.statistics)
  facts: dict[str, Any] = {'seconds': 0.0}
  checkpoint, tested = pretrained, cell.folder
  if cell.rate is not None:
    trained = _meta_train(cell, request, dataset, pretrained, readout, machine)
    facts |= {name: trained[name] for name in ('seconds', 'best_step')} | {'training': cell.rate}
    checkpoint, tested = cell.folder, os.path.join(cell.folder, 'meta_test')
  results = runs.meta_test_run(
      dataset, checkpoint=checkpoint, config=_test(inner, cell.shot, request), split='test',
      protocol='inductive', seed=cell.seed, workdir=tested, baseline=False, tuned=True,
      readout=readout if cell.rate is None else None, machine=machine)
  return (array_files.read(os.path.join(tested, 'accuracies.npy')),
          facts | {'inner_lr': results['inner_lr']})


def _test(inner: InnerLoop, shot: int, request: Request) -> MetaTestConfig:
  return MetaTestConfig(num_tasks=request.budget.num_tasks, way=WAY, shot=shot, query=QUERY,
                        inner=inner)


def _meta_train(cell: _Cell, request: Request, dataset: Dataset, pretrained: str,
                readout: dict[str, Any], machine: runs.Machine) -> dict[str, Any]:
  budget = request.budget
  flags = (*(budget.one_shot if cell.shot == 1 else budget.more_shots), f'--way={WAY}',
           f'--shot={cell.shot}', f'--inner_lr={cell.rate}', '--outer=ss',
           f'--batch_stats={cell.setting.statistics}',
           '--hard_tasks' if cell.row == 'ss_ht' else '--nohard_tasks')
  values = declared.parse(meta_train.FLAGS, flags, require=False)
  config = method.meta_train_config(values, dataset)
  return runs.meta_train_run(dataset, pretrained=pretrained, config=config,
                             validation=task.validation(values, config.inner), seed=cell.seed,
                             workdir=cell.folder, readout=readout, machine=machine)
