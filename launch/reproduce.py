"""Reproduces a published table, or the plot of hard tasks: ours beside the published figures.

Pre-trains once, then runs the rows, each in a work directory of its own under --workdir: given
again, the same command goes on where it was stopped. Writes `table.md`, `results.json` and, for
--table=curves, `curves_1shot.png` and `.svg`.
"""
import os
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import data as data_sets
from mtl_jax.runs import finished

from . import command
from .flags import data, machine, network, task
from .flags.declared import Flag, Groups
from .reproduction import (
    budgets,
    paper,
    presentation,
    rows,
    setting,
    setting_table,
    system_rows,
    systems,
    systems_table,
    transfer,
    transfer_rows,
    transfer_table,
)

EXAMPLES = (
    ('All rows of the ablation on glyphs, half an hour on two cores:',
     '--table=ablation --budget=smoke --workdir=runs/ablation'),
    ("ImageNet's EfficientNet-Lite0 on Omniglot, with scale and shift and without:",
     '--table=transfer --budget=smoke --targets=omniglot --data_dir=DIR --workdir=runs/transfer'),
)
FLAGS: Groups = {
    'task': (Flag('table', 'The rows MTL and HT of a main table; the ablation, 7 rows with and '
                  'without hard tasks; accuracy against meta-iterations; networks '
                  'of other domains, with what can be meta-learned over them; other few-shot '
                  "learners on the same tasks; or the paper's setting taken apart into three "
                  'factors.', (*rows.TABLES, 'transfer', 'systems', 'setting'), required=True),
             Flag('targets', 'Of --table=transfer: data sets to transfer to; by default as the '
                  'budget has it.', list),
             Flag('sources', 'Of --table=transfer: networks: imagenet, scratch (4CONV pre-trained '
                  'on the target), or work directories; by default as the budget has it.', list),
             Flag('rows', f'Of --table=transfer: some of {", ".join(transfer_rows.ROWS)}, each '
                  'also with _ht at its end, or _ht4x12 (4 ordinary tasks, then 12 hard ones), or '
                  '_ht_equal (all classes that failed weigh alike); by default as the budget has '
                  f'it. Of --table=systems: some of {", ".join(system_rows.SYSTEMS)}; by default '
                  'all.', list),
             Flag('base_parts', 'Of --table=transfer: parts of the base classes, such as '
                  'fold:1/16,fold:1/4,all, for the figure.', list),
             Flag('shots', 'Support images per class (K), one table for each; by default as '
                  'published, but 1 for the curves and small ablations.', list),
             Flag('num_seeds', 'Seeds of each row, from --seed on, over one pre-training; by '
                  'default 1, or as the budget of transfer has it.', int, least=1, most=1000),
             task.SEED,
             task.NUM_TASKS._replace(default=None, help='Tasks of each meta-test; by default as '
                                     'the budget has it.')),
    'data': (data.WORKDIR,
             Flag('pretrained', 'Work directory of a finished pre-training to take instead.', Path,
                  shown='DIR'),
             data.DATASET._replace(default=None,
                                   help=f'Data set: one of {", ".join(data_sets.FORMS)}; by '
                                   'default that of --table (of several fc100), and glyphs for '
                                   '--budget=smoke.'),
             *data.SOURCE[1:]),
    'method': (Flag('budget', 'smoke: minutes on glyphs; cpu: two hours on two cores with FC100 '
                    'and 4CONV; full: ResNet-12, for an accelerator.',
                    tuple(budgets.BUDGETS), required=True),
               network.WIDTH,
               Flag('pretrain_steps', 'Optimizer steps of pre-training; by default as the budget '
                    'has it.', int, least=1, most=1_000_000_000),
               Flag('meta_steps', 'Outer steps of each meta-training; by default as the budget has '
                    'it.', int, least=1, most=1_000_000_000)),
    'machine': (machine.IMAGES, *machine.COMPILE_CACHE),
}
# Flags of the transfer table -> the fields of its budget.
_TRANSFER = {'sources': 'sources', 'targets': 'targets', 'rows': 'rows', 'shots': 'shots',
             'base_parts': 'parts'}
# Flags that only some tables read -> these.
_READ_BY = {'targets': ('transfer',), 'sources': ('transfer',), 'rows': ('transfer', 'systems'),
            'base_parts': ('transfer',)}
# Those that a command line has to say for the figures to be found again.
_SAID = ('width', 'pretrain_steps', 'meta_steps', 'num_tasks', 'image_size', 'center_crop', 'split',
         'split_seed', 'name', 'image_column', 'label_column')


def run(values: FlagValues) -> None:
  """Reproduces what the flags name and prints the tables.

  Args:
    values: parsed flags.
  """
  others = {'transfer': _transfer, 'systems': _systems, 'setting': _setting}
  if values.table in others:
    others[values.table](values)
    return
  request = request_of(values)
  results = rows.reproduce(
      request, data.load_dataset(values, request.dataset), workdir=values.workdir,
      command=_command_line(values, request), machine=machine.machine(values))
  presentation.show(results)
  print(f'written to {os.path.join(values.workdir, "table.md")}')


def _systems(values: FlagValues) -> None:
  """Runs and prints the table of systems."""
  names = tuple(values.rows or system_rows.SYSTEMS)
  for name in names:
    if name not in system_rows.SYSTEMS:
      raise ValueError(f'expected --rows among {", ".join(system_rows.SYSTEMS)}, got {name!r}')
  _refuse_pretrained(values, 'start from a pre-training and from random weights of its network')
  request = request_of(values)
  shots = request.shots if values.shots is not None else (1,)
  results = systems.reproduce(
      systems.Request(request.budget_name, request.budget, names, shots, request.seeds),
      data.load_dataset(values, request.dataset), workdir=values.workdir,
      command=' '.join([_command_line(values, request), f'--rows={",".join(names)}']),
      machine=machine.machine(values))
  systems_table.show(results)
  print(f'written to {os.path.join(values.workdir, "table.md")}')


def _setting(values: FlagValues) -> None:
  """Runs and prints the table of the paper's setting."""
  _refuse_pretrained(values, 'start from two pre-trainings, a short one and that of the budget')
  request = request_of(values)
  shots = request.shots if values.shots is not None else (1, 5)
  results = setting.reproduce(
      setting.Request(request.budget_name, request.budget, shots, request.seeds),
      data.load_dataset(values, request.dataset), workdir=values.workdir,
      command=_command_line(values, request), machine=machine.machine(values))
  setting_table.show(results)
  print(f'written to {os.path.join(values.workdir, "table.md")}')


def _refuse_pretrained(values: FlagValues, why: str) -> None:
  if values.pretrained is not None:
    raise ValueError(f'--pretrained does not go with --table={values.table}, whose rows {why}')


def _transfer(values: FlagValues) -> None:
  """Runs and prints the transfer table."""
  budget = transfer_budget(values)
  given = [f'--{name}={",".join(map(str, getattr(budget, field)))}'
           for name, field in _TRANSFER.items()]
  given += [f'--{name}={values[name].value}' for name in ('meta_steps', 'num_tasks', 'image_size')
            if values[name].value is not None]
  said = ' '.join(['python -m launch.reproduce --table=transfer', f'--budget={values.budget}',
                   *given, f'--num_seeds={budget.seeds}', f'--seed={values.seed}', '--workdir=DIR'])
  results = transfer.reproduce(
      budget, lambda target, size, channels: data.load_target(values, target, size, channels),
      workdir=values.workdir, command=said, first_seed=values.seed,
      machine=machine.machine(values))
  transfer_table.show(results)
  print(f'written to {os.path.join(values.workdir, "table.md")}')


def transfer_budget(values: FlagValues) -> transfer_rows.Budget:
  """Returns the budget of the transfer table with what the flags put in its place.

  Args:
    values: parsed flags.

  Raises:
    ValueError: an unknown target or row, or a flag that this table does not read.
  """
  unread = [name for name in ('pretrained', 'dataset', 'pretrain_steps', 'width')
            if values[name].value is not None]
  if unread:
    raise ValueError(f'--{unread[0]} does not go with --table=transfer; see --sources and '
                     '--targets')
  budget = transfer_rows.BUDGETS[values.budget]
  given = {field: tuple(found) for name, field in _TRANSFER.items()
           if name != 'shots' and (found := values[name].value) is not None}
  budget = budget._replace(**given)
  budget = budget._replace(shots=_shots(values, budgets.BUDGETS['cpu'], budget.shots))
  for target in budget.targets:
    if target not in data_sets.NAMES:
      raise ValueError(f'expected --targets among {", ".join(data_sets.NAMES)}, got {target!r}')
  if values.data_dir is not None and set(budget.targets) <= {data_sets.DRAWN}:
    raise ValueError(f'--data_dir={values.data_dir} does not go with --targets={data_sets.DRAWN}, '
                     'which is drawn and reads no folder')
  for row in budget.rows:
    if transfer_rows.without_hard_tasks(row) not in transfer_rows.ROWS:
      raise ValueError(f'expected --rows among {", ".join(transfer_rows.ROWS)}, got {row!r}')
  if values.num_seeds is not None:
    budget = budget._replace(seeds=values.num_seeds)
  if values.meta_steps:
    budget = budget._replace(meta_train=(*budget.meta_train, f'--steps={values.meta_steps}'))
  return budget._replace(image_size=values.image_size or budget.image_size,
                         num_tasks=values.num_tasks or budget.num_tasks)


def request_of(values: FlagValues) -> rows.Request:
  """Returns the reproduction that the flags name.

  Args:
    values: parsed flags.

  Raises:
    ValueError: flags that do not go together; before data is read.
    FileNotFoundError: --pretrained is no finished run.
  """
  for name, read_by in _READ_BY.items():
    if values[name].value is not None and values.table not in read_by:
      raise ValueError(f'--{name} goes with --table={" or ".join(read_by)}, not with '
                       f'{values.table}')
  table, budget = values.table, _budget(values)
  published = table if table in paper.SHOTS else 'fc100'
  dataset = values.dataset or budget.dataset or published
  data_sets.check_name(dataset)
  if values.pretrained is not None:
    if values.pretrain_steps or values.width:
      raise ValueError('--pretrain_steps and --width do not go with --pretrained, which is trained '
                       'already')
    finished.trained_settings(values.pretrained)
  seeds = tuple(range(values.seed, values.seed + (values.num_seeds or 1)))
  shots = _shots(values, budget, paper.SHOTS.get(dataset, paper.SHOTS[published]))
  return rows.Request(table, values.budget, budget, dataset, shots, seeds, values.pretrained)


def _budget(values: FlagValues) -> budgets.Budget:
  """The budget with what the flags put in its place."""
  budget = budgets.BUDGETS[values.budget]
  if values.pretrain_steps:
    budget = budget._replace(pretrain=(*budget.pretrain, f'--steps={values.pretrain_steps}'))
  if values.width:
    budget = budget._replace(pretrain=(*budget.pretrain, f'--width={values.width}'))
  if values.meta_steps:
    steps = f'--steps={values.meta_steps}'
    budget = budget._replace(one_shot=(*budget.one_shot, steps),
                             more_shots=(*budget.more_shots, steps),
                             network_loop=(*budget.network_loop, steps))
  if values.num_tasks:
    budget = budget._replace(num_tasks=values.num_tasks, network_loop_tasks=values.num_tasks)
  return budget


def _shots(values: FlagValues, budget: budgets.Budget, published: tuple[int, ...]
           ) -> tuple[int, ...]:
  if values.shots is None:
    if values.table == 'curves':
      return (1,)
    return (budget.ablation_shots or published) if values.table == 'ablation' else published
  shots = tuple(int(text) if text.isdecimal() else 0 for text in values.shots)
  if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
    raise ValueError('expected --shots to be different numbers of at least 1, such as 1,5, got '
                     f'{",".join(values.shots)!r}')
  return shots


def _command_line(values: FlagValues, request: rows.Request) -> str:
  """The command line, without where things lie on this machine."""
  given = [f'--table={request.table}', f'--budget={request.budget_name}',
           f'--dataset={request.dataset}', f'--shots={",".join(map(str, request.shots))}',
           f'--seed={request.seeds[0]}', f'--num_seeds={len(request.seeds)}']
  given += [f'--{name}={values[name].value}' for name in _SAID if values[name].value is not None]
  given += ['--pretrained=PRE'] if request.pretrained else []
  return ' '.join(['python -m launch.reproduce', *given, '--workdir=DIR'])


COMMAND = command.Command(
    'reproduce', __doc__, EXAMPLES, FLAGS, run,
    otherwise='the budget decides; or use the commands of the single phases')

if __name__ == '__main__':
  command.start(COMMAND)
