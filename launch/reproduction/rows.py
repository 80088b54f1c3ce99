"""A published table, row by row: each row has a work directory, so a stopped reproduction resumes.

Under the work directory: `pretrain`; `ROW_Kshot_seedS`, a meta-training, for each row that has one;
in it, or alone where nothing is meta-learned, `meta_test/inductive` and `meta_test/paper`.
"""
import os
from typing import Any, NamedTuple

from absl import logging
from absl.flags import FlagValues

from mtl_jax import episodes, runs
from mtl_jax.configs import MetaTestConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import records, workdirs
from mtl_jax.types import Dataset

from .. import meta_train
from ..flags import declared, method, presets, task
from . import curves, paper, presentation, summary, table_runs
from .budgets import Budget

WAY = 5
TABLES = ('fc100', 'mini_imagenet', 'ablation', 'curves')

# Images per class that each split must have beside the shots: the queries of the tests.
_QUERY = {'train': 15, 'val': 1, 'test': 15}
_OF_PRETRAINING = ('steps', 'best_step', 'validation_accuracy', 'seed', 'seconds')


class Request(NamedTuple):
  """What shall be reproduced; decides every figure, together with the images."""
  table: str                # one of TABLES
  budget_name: str
  budget: Budget
  dataset: str
  shots: tuple[int, ...]
  seeds: tuple[int, ...]    # of meta-training and test tasks; the first is that of pre-training
  pretrained: str | None = None  # work directory of a finished pre-training to take instead


class Job(NamedTuple):
  """A row of a table, with one number of shots and one seed."""
  preset: str               # in launch/presets/ablation
  shot: int
  seed: int

  @property
  def folder(self) -> str:
    """Name of its work directory."""
    return f'{self.preset}_{self.shot}shot_seed{self.seed}'


def row_presets(table: str) -> tuple[str, ...]:
  """Lists the rows that a table needs, in the paper's order.

  Args:
    table: one of TABLES.

  Returns:
    Presets of launch/presets/ablation. Without an outer loop there is nothing for hard tasks to do,
    so such a row is run once.
  """
  if table != 'ablation':
    return ('update_theta', 'ss_all', 'ss_all_ht')
  return tuple(name for row in paper.ABLATION for name in (f'{row.preset}', f'{row.preset}_ht')
               if not (name.startswith('update') and name.endswith('_ht')))


def jobs(request: Request) -> list[Job]:
  """Lists the runs of a table, those of one number of shots together.

  Args:
    request: what shall be reproduced.
  """
  return [Job(preset, shot, seed) for shot in request.shots
          for preset in row_presets(request.table) for seed in request.seeds]


def flags_of(job: Job, request: Request) -> FlagValues:
  """Returns the flags of `launch.meta_train` that a run stands for.

  Args:
    job: the run.
    request: what it is part of.
  """
  budget, preset = request.budget, presets.read(f'ablation/{job.preset}')
  hard_tasks = paper.HARD_TASKS.get(request.dataset, {}).get(job.shot)
  adapts_network = _parse(meta_train.FLAGS, preset).inner != 'head'
  # The preset comes last: it says which row of the table this is, whatever the budget has.
  return _parse(meta_train.FLAGS, (
      *(budget.one_shot if job.shot == 1 else budget.more_shots), f'--way={WAY}',
      f'--shot={job.shot}', *([f'--num_hard_tasks={hard_tasks}'] if hard_tasks else []),
      *(budget.curves if request.table == 'curves' else []),
      *(budget.network_loop if adapts_network else []), *preset))


def reproduce(request: Request, dataset: Dataset, *, workdir: str, command: str,
              machine: runs.Machine) -> dict[str, Any]:
  """Runs what is not finished yet, and writes `results.json`, `table.md` and, if any, the curves.

  Args:
    request: what shall be reproduced.
    dataset: the images.
    workdir: claimed for this reproduction.
    command: the command line, for the report.
    machine: where and how the runs compute.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  for split, query in _QUERY.items():  # the last row fails at once, not after hours
    for shot in request.shots:
      episodes.check_episode(getattr(dataset, split), way=WAY, shot=shot, query=query, split=split)
  return table_runs.run(
      workdir, _settings(request, dataset),
      lambda: _run_all(request, dataset, workdir, command, machine),
      lambda workdir, results: workdirs.write_file(
          workdir, 'table.md', presentation.markdown(results).encode()))


def _run_all(request: Request, dataset: Dataset, workdir: str, command: str,
             machine: runs.Machine) -> dict[str, Any]:
  """Pre-trains and runs all rows: the figures of the table."""
  pretrained = request.pretrained or os.path.join(workdir, 'pretrain')
  pretraining = _pretrain(request, dataset, pretrained, machine)
  done, planned = [], jobs(request)
  for number, job in enumerate(planned, 1):
    logging.info('%s, run %d of %d', job.folder, number, len(planned))
    folder = os.path.join(workdir, job.folder)
    done.append((job, _run(job, request, dataset, pretrained, folder, machine)))
  results = {'command': 'reproduce', 'command_line': command, 'table': request.table,
             'budget': request.budget_name, 'dataset': dataset.name,
             'data': records.describe_data(dataset), 'seed': request.seeds[0],
             'seeds': list(request.seeds), 'shots': list(request.shots), 'pretrain': pretraining,
             **summary.summarize(done, workdir)}
  if request.table == 'curves':
    results['curves'] = curves.write(workdir, planned)
  return results


def _settings(request: Request, dataset: Dataset) -> dict[str, Any]:
  """All that decides the figures; the images are in the settings of each row."""
  budget = {name: ' '.join(value) if isinstance(value, tuple) else value
            for name, value in request.budget._asdict().items()
            if name not in ('dataset', 'ablation_shots')}
  return {'command': 'reproduce', 'table': request.table, 'budget': request.budget_name,
          'dataset': dataset.name, 'image_shape': list(dataset.train.images.shape[1:]),
          'shots': list(request.shots), 'seeds': list(request.seeds),
          'pretrained': request.pretrained and os.path.abspath(request.pretrained), **budget,
          # What differs is named in order: the table before its rows.
          'table_rows': {name: ' '.join(presets.read(f'ablation/{name}'))
                         for name in row_presets(request.table)}}


def _pretrain(request: Request, dataset: Dataset, workdir: str,
              machine: runs.Machine) -> dict[str, Any]:
  if request.pretrained is not None:
    results = workdirs.read_results(workdir) or {}
  else:
    results = table_runs.pretrain(request.budget.pretrain, dataset, seed=request.seeds[0],
                                  workdir=workdir, machine=machine)
  backbone = workdirs.read_settings(workdir)['backbone']['name']
  return {'backbone': backbone, **{name: results[name] for name in _OF_PRETRAINING}}


def _run(job: Job, request: Request, dataset: Dataset, pretrained: str, workdir: str,
         machine: runs.Machine) -> dict[str, Any]:
  """Meta-trains and meta-tests one row: name of the phase or protocol -> its results."""
  values, budget = flags_of(job, request), request.budget
  config = method.meta_train_config(values, dataset)
  validation = task.validation(values, config.inner)
  results = {}
  if config.learn.learn != 'none':
    results['meta_train'] = runs.meta_train_run(
        dataset, pretrained=pretrained, config=config, validation=validation, seed=job.seed,
        workdir=workdir, machine=machine)
  num_tasks = budget.num_tasks if config.inner.adapts == 'head' else budget.network_loop_tasks
  test = MetaTestConfig(num_tasks=num_tasks, way=WAY, shot=job.shot, inner=validation.inner)
  for protocol in summary.PROTOCOLS:
    results[protocol] = runs.meta_test_run(
        dataset, checkpoint=pretrained if config.learn.learn == 'none' else workdir,
        config=meta_test.apply_protocol(test, protocol), split='test', protocol=protocol,
        seed=job.seed, workdir=os.path.join(workdir, 'meta_test', protocol), baseline=False,
        tuned=config.inner.adapts == 'head', machine=machine)
  return results


def _parse(groups: declared.Groups, arguments: tuple[str, ...]) -> FlagValues:
  return declared.parse(groups, arguments, require=False)
