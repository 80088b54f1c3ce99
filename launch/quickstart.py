"""Runs all three phases on the built-in data set, and shows what meta-transfer brings there."""
import dataclasses
import os
import time
from typing import Any

from absl import logging
from absl.flags import FlagValues

from mtl_jax import data, runs, stages
from mtl_jax.configs import (
  TEST_LOOP,
  InnerLoop,
  Learn,
  MetaTestConfig,
  MetaTrainConfig,
  PretrainConfig,
)
from mtl_jax.runs import array_files, paired, tables, workdirs
from mtl_jax.types import Dataset

from . import command, page_file
from .flags import data as data_flags
from .flags import machine, task
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('All of it, some five minutes on two cores:', '--workdir=runs/quickstart'),
    ('A smaller network and less of everything, for a first look:',
     '--width=16 --pretrain_steps=200 --meta_steps=60 --num_tasks=500 --workdir=runs/small'),
)
FLAGS: Groups = {
    'task': (task.NUM_TASKS._replace(default=2000, help='Tasks of each meta-test.'), task.SEED),
    'data': (data_flags.WORKDIR, page_file.page('page.html in --workdir')),
    'method': (Flag('pretrain_steps', 'Optimizer steps of pre-training.', int, 600, least=1,
                    most=1_000_000_000),
               Flag('meta_steps', 'Outer steps of each meta-training.', int, 300, least=1,
                    most=1_000_000_000),
               Flag('width', 'Filters of the network (4CONV).', int, 64, least=1, most=2048)),
    'machine': (machine.TRACKER, *machine.COMPILE_CACHE),
}

# Each row: key in results.json, name in the table, what differs from the first row.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('mtl_ht', 'MTL, HT meta-batch: SS[Θ;θ]', {}),
    ('mtl', 'MTL, meta-batch: SS[Θ;θ]', {'num_hard_tasks': 0}),
    ('ft_theta', 'meta-learned head only: FT θ', {'num_hard_tasks': 0, 'learn': Learn('head')}),
)
# Scored as it is, for the row without meta-learning.
_PRETRAIN = 'pretrain'
INNER_LR = 0.05
_TEST_LOOP = dataclasses.replace(TEST_LOOP, lr=INNER_LR)
_VALIDATION = runs.Validation(every=150, num_tasks=500, inner=_TEST_LOOP)


def run(values: FlagValues) -> None:
  """Runs the three phases and prints the table.

  Args:
    values: parsed flags.
  """
  began = time.monotonic()
  root = values.workdir
  machine.check_trackers(values)
  page_file.check(values)
  workdirs.claim(root, {'command': 'quickstart'} | {
      name: values[name].value
      for name in ('seed', 'pretrain_steps', 'meta_steps', 'num_tasks', 'width')})
  if workdirs.read_results(root) is None:
    with stages.stage('drawing the images of glyphs'):
      glyphs = data.load('glyphs')
    phases = _phases(values, glyphs, root)
    _write(root, phases, values.seed, time.monotonic() - began)
  else:
    logging.info('the run in %s is finished: nothing to do', root)
  _show(root)
  page_file.write(values, [root], root)


def _phases(values: FlagValues, glyphs: Dataset, root: str) -> dict[str, Any]:
  """Runs all that is not finished yet: phase -> its results, of the later two for each row."""
  pretrained = os.path.join(root, _PRETRAIN)
  here = runs.Machine(trackers=tuple(values.tracker))
  pretraining = runs.pretrain_run(
      glyphs, backbone={'name': 'conv4', 'width': values.width}, validation=_VALIDATION,
      config=PretrainConfig(steps=values.pretrain_steps, flip=glyphs.flip), seed=values.seed,
      workdir=pretrained, machine=here)
  config = MetaTrainConfig(steps=values.meta_steps, flip=glyphs.flip, inner=InnerLoop(lr=INNER_LR))
  meta_training = {key: runs.meta_train_run(
      glyphs, pretrained=pretrained, config=dataclasses.replace(config, **changes),
      validation=_VALIDATION, seed=values.seed, workdir=os.path.join(root, key), machine=here)
                   for key, _, changes in ROWS}
  test = MetaTestConfig(num_tasks=values.num_tasks, inner=_TEST_LOOP)
  tests = {key: runs.meta_test_run(
      glyphs, checkpoint=os.path.join(root, key), config=test, split='test', protocol='inductive',
      seed=values.seed, workdir=os.path.join(root, f'meta_test_{key}'), baseline=False,
      tuned=True, machine=here)  # each row at an inner rate of its own
           for key in (*meta_training, _PRETRAIN)}
  return {'pretrain': pretraining, 'meta_train': meta_training, 'meta_test': tests}


def _write(root: str, phases: dict[str, Any], seed: int, seconds: float) -> None:
  """Writes results.json; `seconds` is all that this process took."""
  tested = phases['meta_test']
  baselines = {'update_theta' if key == _PRETRAIN else key:
               {name: tested[key][name] for name in ('accuracy', 'ci95', 'inner_lr')}
               for key in ('mtl', 'ft_theta', _PRETRAIN)}
  best = tested['mtl_ht']
  accuracies = {key: array_files.read(os.path.join(root, f'meta_test_{key}', 'accuracies.npy'))
                for key in tested}
  gains = {key: paired.compare([accuracies[key]], [accuracies[_PRETRAIN]])
           for key in tested if key != _PRETRAIN}
  workdirs.write_results(root, {
      'command': 'quickstart', 'accuracy': best['accuracy'], 'ci95': best['ci95'],
      'baselines': baselines, 'gains': gains, **phases, 'seed': seed, 'seconds': seconds,
      **workdirs.describe_machine()})


def _show(root: str) -> None:
  """Prints the table and the seconds of each phase."""
  results = workdirs.read_results(root) or {}
  tested = results['meta_test']
  names = {key: name for key, name, _ in ROWS} | {_PRETRAIN: 'no meta-learning: update θ'}
  num_tasks = tested['mtl_ht']['num_tasks']
  gains = {key: paired.text(gain) for key, gain in results['gains'].items()}
  cells = [[name, f'{100 * tested[key]["accuracy"]:.2f} ± {100 * tested[key]["ci95"]:.2f}',
            f'{tested[key]["inner_lr"]:g}', gains.get(key, '')] for key, name in names.items()]
  tables.show_columns(f'glyphs, 5-way 1-shot, 15 queries, inductive, {num_tasks} test tasks',
                      ['method', 'accuracy, %', 'inner rate', 'gain over update θ'], cells)
  spent = {'pre-training': results['pretrain']['seconds'],
           'meta-training': sum(row['seconds'] for row in results['meta_train'].values()),
           'meta-test': sum(row['seconds'] for row in tested.values())}
  print('  '.join(f'{name} {seconds:.0f} s' for name, seconds in spent.items()) +
        f'  in all {results["seconds"]:.0f} s')
  print(f'written to {os.path.join(root, "results.json")}')


COMMAND = command.Command(
    'quickstart', __doc__, EXAMPLES, FLAGS, run,
    otherwise='it has settings of its own; use the commands of the single phases')

if __name__ == '__main__':
  command.start(COMMAND)
