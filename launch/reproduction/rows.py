"""A published table, row by row: each row has a work directory of its own, so that a stopped reproduction resumes.

Under the work directory: `pretrain`; `ROW_Kshot_seedS`, a meta-training, for each row that has one; in it, or alone
where nothing is meta-learned, `meta_test/inductive` and `meta_test/paper`.
"""
import os
import time
from typing import NamedTuple

from absl import logging

from launch.reproduction import figures, published, recipes, report
from launch.reproduction.budgets import Budget
from mtl_jax import episodes
from mtl_jax.phases import meta_test
from mtl_jax.runs import runs, workdirs
from mtl_jax.types import Dataset

WAY = 5
TABLES = ('fc100', 'mini_imagenet', 'ablation', 'curves')


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
  """One row of a table, with one number of shots and one seed."""
  preset: str               # in launch/presets/ablation
  shot: int
  seed: int

  @property
  def folder(self) -> str:
    return f'{self.preset}_{self.shot}shot_seed{self.seed}'


def presets(table: str) -> tuple[str, ...]:
  """Names the rows that a table needs, in the paper's order.

  Args:
    table: one of TABLES.

  Returns:
    Presets of launch/presets/ablation. Without an outer loop there is nothing for hard tasks to do, so such a row is
    run once.
  """
  if table != 'ablation':
    return ('update_theta', 'ss_all', 'ss_all_ht')
  return tuple(name for row in published.ABLATION for name in (row.preset, f'{row.preset}_ht')
               if not (name.startswith('update') and name.endswith('_ht')))


def jobs(request: Request) -> list[Job]:
  """Lists the runs of a table, those of one number of shots together."""
  return [Job(preset, shot, seed) for shot in request.shots for preset in presets(request.table)
          for seed in request.seeds]


def flags_of(job: Job, request: Request) -> dict[str, str]:
  """Gives the flags of `launch.meta_train` that a run stands for.

  Args:
    job: the run.
    request: what it is part of.

  Returns:
    Name -> value.
  """
  budget, preset = request.budget, recipes.preset(f'ablation/{job.preset}')
  hard_tasks = published.HARD_TASKS.get(request.dataset, {}).get(job.shot)
  return recipes.parse((
      *(budget.one_shot if job.shot == 1 else budget.more_shots), f'--way={WAY}', f'--shot={job.shot}',
      *([f'--num_hard_tasks={hard_tasks}'] if hard_tasks else []),
      *(budget.curves if request.table == 'curves' else []),
      *(budget.network_loop if recipes.parse(preset)['inner'] != 'head' else []), *preset))


def reproduce(request: Request, dataset: Dataset, *, workdir: str, command: str, images: str = 'auto') -> dict:
  """Runs what is not finished yet, and writes `results.json`, `table.md` and, for the curves, the figures.

  Args:
    request: what shall be reproduced.
    dataset: the images.
    workdir: claimed for this reproduction.
    command: the command line, for the report.
    images: where they stay, as `placement.on_host` has it.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  for split in ('train', 'val', 'test'):  # the last row fails at once, not after hours
    for shot in request.shots:
      episodes.check(getattr(dataset, split), way=WAY, shot=shot, query=15 if split != 'val' else 1, split=split)
  workdirs.claim(workdir, _settings(request, dataset))
  if (results := workdirs.read_results(workdir)) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return results
  began, began_cpu = time.monotonic(), time.process_time()
  with workdirs.in_use(workdir):
    pretrained = request.pretrained or os.path.join(workdir, 'pretrain')
    pretraining = _pretrain(request, dataset, pretrained, images)
    done = []
    for number, job in enumerate(jobs(request), 1):
      logging.info('%s, run %d of %d', job.folder, number, len(jobs(request)))
      done.append((job, _run(job, request, dataset, pretrained, os.path.join(workdir, job.folder), images)))
    results = {'command': 'reproduce', 'command_line': command, 'table': request.table, 'budget': request.budget_name,
               'dataset': request.dataset, 'seed': request.seeds[0], 'seeds': list(request.seeds),
               'shots': list(request.shots), 'pretrain': pretraining, **report.summarize(done, workdir)}
    if request.table == 'curves':
      results['curves'] = figures.write(workdir, [job for job, _ in done])
    results |= {'seconds': time.monotonic() - began, 'cpu_seconds': time.process_time() - began_cpu,
                **workdirs.describe_machine()}
    workdirs.write_file(workdir, 'table.md', report.markdown(results).encode())
    workdirs.write_results(workdir, results)
  return results


def _settings(request, dataset):
  """All that decides the figures; the images are in the settings of each row."""
  budget = {name: ' '.join(value) if name not in ('dataset', 'ablation_shots') and isinstance(value, tuple) else value
            for name, value in request.budget._asdict().items() if name not in ('dataset', 'ablation_shots')}
  return {'command': 'reproduce', 'table': request.table, 'budget': request.budget_name, 'dataset': request.dataset,
          'image_shape': list(dataset.train.images.shape[1:]), 'shots': list(request.shots),
          'seeds': list(request.seeds), 'pretrained': request.pretrained and os.path.abspath(request.pretrained),
          **budget, 'rows': {name: ' '.join(recipes.preset(f'ablation/{name}')) for name in presets(request.table)}}


def _pretrain(request, dataset, workdir, images):
  if request.pretrained is not None:
    results = workdirs.read_results(workdir)
  else:
    values = recipes.parse(request.budget.pretrain)
    results = runs.pretrain_run(
        dataset, backbone=recipes.backbone(values), config=recipes.pretrain(values, dataset),
        validation=recipes.validation(values), seed=request.seeds[0], workdir=workdir,
        readout=recipes.readout(values), images=images)
  backbone = workdirs.read_settings(workdir)['backbone']['name']
  return {'backbone': backbone, **{name: results[name] for name in
                                   ('steps', 'best_step', 'validation_accuracy', 'seed', 'seconds')}}


def _run(job, request, dataset, pretrained, workdir, images):
  """Meta-trains and meta-tests one row: name of the phase or protocol -> its results."""
  values = flags_of(job, request)
  config = recipes.meta_train(values, dataset)
  validation = recipes.validation(values).like(config)
  results = {}
  if config.learn != 'none':
    results['meta_train'] = runs.meta_train_run(
        dataset, pretrained=pretrained, config=config, validation=validation, seed=job.seed, workdir=workdir,
        images=images)
  budget = request.budget
  for protocol in report.PROTOCOLS:
    test = meta_test.MetaTestConfig(
        num_tasks=budget.num_tasks if config.adapts == 'head' else budget.network_loop_tasks, way=WAY, shot=job.shot,
        inner_lr=config.inner_lr, inner_steps=validation.inner_steps, adapts=config.adapts,
        regularization=config.regularization, **meta_test.protocol_settings(protocol, job.shot))
    results[protocol] = runs.meta_test_run(
        dataset, checkpoint=pretrained if config.learn == 'none' else workdir, config=test, split='test',
        protocol=protocol, seed=job.seed, workdir=os.path.join(workdir, 'meta_test', protocol), baseline=False,
        images=images)
  return results
