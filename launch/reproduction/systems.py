"""The table of systems: other few-shot learners on the same tasks, beside what was published.

Under the work directory: `pretrained` and `random`, the two starts; `SYSTEM_Kshot_seedS`, a
meta-training with its `meta_test`. All rows are scored on the same tasks, inductively save for
batch norm where a row starts from random weights, and compared with update θ task by task. The
inner rate of meta-transfer learning in training is the one at which update θ is best on validation
tasks; rows that adapt θ alone are tested at a rate of their own.
"""
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from mtl_jax import runs
from mtl_jax.configs import TEST_LOOP, MetaTestConfig
from mtl_jax.runs import array_files, finished, inner_rates, records
from mtl_jax.runs.validation import Validation
from mtl_jax.types import Dataset

from .. import meta_train
from ..flags import declared, method, task
from . import systems_table, table_runs
from .budgets import Budget
from .system_rows import ADAPTS_NETWORK, STEPS_FROM_RANDOM, SYSTEMS

WAY, QUERY = 5, 15
_VALIDATION_TASKS = 300  # that choose the inner rate


class Request(NamedTuple):
  """What shall be run; decides every figure, together with the images."""
  budget_name: str
  budget: Budget
  rows: tuple[str, ...]   # of SYSTEMS
  shots: tuple[int, ...]
  seeds: tuple[int, ...]  # of meta-training and test tasks; the first is that of the two starts


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
    return {'command': 'reproduce', 'table': 'systems', 'command_line': command,
            'dataset': dataset.name, 'data': records.describe_data(dataset),
            'seeds': list(request.seeds), 'shots': list(request.shots),
            'cells': systems_table.summarize(done)}

  return table_runs.run(workdir, _settings(request, dataset), compute, systems_table.write)


def _settings(request: Request, dataset: Dataset) -> dict[str, Any]:
  budget = {name: ' '.join(value) if isinstance(value, tuple) else value
            for name, value in request.budget._asdict().items()
            if name not in ('dataset', 'ablation_shots', 'curves')}
  return {'command': 'reproduce', 'table': 'systems', 'budget': request.budget_name,
          'dataset': dataset.name, 'image_shape': list(dataset.train.images.shape[1:]),
          'shots': list(request.shots), 'seeds': list(request.seeds), **budget,
          'steps_from_random': STEPS_FROM_RANDOM.get(request.budget_name),
          'table_rows': {name: ' '.join(SYSTEMS[name].flags) for name in request.rows}}


def _run_all(request: Request, dataset: Dataset, workdir: str, machine: runs.Machine
             ) -> Iterator[tuple[str, int, int, np.ndarray, dict[str, Any]]]:
  """Yields (system, shots, seed, accuracies per task, facts) of every cell."""
  starts = {SYSTEMS[name].start for name in request.rows} | {'pretrained'}
  folders = {start: _start(start, request, dataset, os.path.join(workdir, start), machine)
             for start in sorted(starts)}
  for shot in request.shots:
    for seed in request.seeds:
      rate = _best_rate(folders['pretrained'], dataset, shot, seed)
      for name in request.rows:
        logging.info('%s, %d-shot, seed %d', name, shot, seed)
        folder = os.path.join(workdir, f'{name}_{shot}shot_seed{seed}')
        facts = _cell(name, shot, seed, request, dataset, folders[SYSTEMS[name].start], rate,
                      folder, machine)
        accuracies = array_files.read(os.path.join(folder, 'meta_test', 'accuracies.npy'))
        yield name, shot, seed, accuracies, facts


def _start(start: str, request: Request, dataset: Dataset, folder: str,
           machine: runs.Machine) -> str:
  """Makes the network that rows start from; returns its folder."""
  flags = (*request.budget.pretrain, *(['--steps=0'] if start == 'random' else []))
  table_runs.pretrain(flags, dataset, seed=request.seeds[0], workdir=folder, machine=machine)
  return folder


def _best_rate(pretrained: str, dataset: Dataset, shot: int, seed: int) -> float:
  """The inner rate at which update θ is best on validation tasks."""
  run = finished.load(pretrained, dataset.val.image_shape)
  tasks = Validation(num_tasks=_VALIDATION_TASKS, way=WAY, shot=shot, inner=TEST_LOOP)
  return inner_rates.best(inner_rates.accuracies(run, dataset, tasks, seed=seed))


def _flags(name: str, shot: int, request: Request, rate: float) -> tuple[str, ...]:
  """The flags of `launch.meta_train` of one row; of a flag given twice the last counts."""
  budget, system, adapts_network = request.budget, SYSTEMS[name], name in ADAPTS_NETWORK
  flags = [*(budget.one_shot if shot == 1 else budget.more_shots), f'--way={WAY}',
           f'--shot={shot}', f'--inner_lr={rate}', '--nohard_tasks']
  flags += budget.network_loop if adapts_network else ()
  if system.start == 'random' and request.budget_name in STEPS_FROM_RANDOM:
    steps = STEPS_FROM_RANDOM[request.budget_name][adapts_network]
    flags += [f'--steps={steps}', f'--validate_every={steps // 3}', '--outer_lr=1e-3']
  return (*flags, *system.flags)


def _cell(name: str, shot: int, seed: int, request: Request, dataset: Dataset, pretrained: str,
          rate: float, folder: str, machine: runs.Machine) -> dict[str, Any]:
  """Meta-trains and tests one system; returns what the table says of it."""
  system, budget = SYSTEMS[name], request.budget
  values = _parse(meta_train.FLAGS, _flags(name, shot, request, rate))
  config = method.meta_train_config(values, dataset)
  validation = task.validation(values, config.inner)
  facts: dict[str, Any] = {'seconds': 0.0, 'inner_lr': config.inner.lr, 'start': system.start}
  checkpoint = pretrained
  if config.learn.learn != 'none':
    trained = runs.meta_train_run(dataset, pretrained=pretrained, config=config,
                                  validation=validation, seed=seed, workdir=folder, machine=machine)
    checkpoint = folder
    facts |= {name: trained[name] for name in ('seconds', 'best_step', 'validation_accuracy')}
  tasks = budget.network_loop_tasks if name in ADAPTS_NETWORK else budget.num_tasks
  test = MetaTestConfig(num_tasks=tasks, way=WAY, shot=shot, query=QUERY, inner=validation.inner)
  results = runs.meta_test_run(
      dataset, checkpoint=checkpoint, config=test, split='test', protocol='inductive', seed=seed,
      workdir=os.path.join(folder, 'meta_test'), baseline=False, machine=machine,
      tuned=config.inner.adapts == 'head' and config.learn.inner_lr == 'fixed')
  facts |= {'inner_lr': results['inner_lr']} if 'inner_lr' in results else {}
  return facts | {'test_seconds': results['seconds'], 'num_tasks': tasks}


def _parse(groups: declared.Groups, arguments: tuple[str, ...]):
  return declared.parse(groups, arguments, require=False)
