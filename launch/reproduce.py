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
from .reproduction import budgets, paper, presentation, rows

EXAMPLES = (
    ('All rows of the ablation on glyphs, half an hour on two cores:',
     '--table=ablation --budget=smoke --workdir=runs/ablation'),
    ('FC100 with 4CONV, an hour and a half on two cores:',
     '--table=fc100 --budget=cpu --data_dir=DIR --workdir=runs/fc100_table'),
)
FLAGS: Groups = {
    'task': (Flag('table', 'The rows MTL and HT of a main table; the ablation, 7 rows with and '
                  'without hard tasks; or accuracy against meta-iterations.',
                  rows.TABLES, required=True),
             Flag('shots', 'Support images per class (K), one table for each; by default as '
                  'published, but 1 for the curves and small ablations.', list),
             Flag('num_seeds', 'Seeds of each row, from --seed on, over one pre-training.', int, 1,
                  least=1),
             task.SEED,
             task.NUM_TASKS._replace(default=None, help='Tasks of each meta-test; by default as '
                                     'the budget has it.')),
    'data': (data.WORKDIR,
             Flag('pretrained', 'Work directory of a finished pre-training to take instead.', Path,
                  shown='DIR'),
             data.DATASET._replace(default=None,
                                   help=f'Data set: one of {", ".join(data_sets.NAMES)}; by '
                                   'default that of --table (of several fc100), and glyphs for '
                                   '--budget=smoke.'),
             *data.SOURCE[1:]),
    'method': (Flag('budget', 'smoke: minutes on glyphs; cpu: two hours on two cores with FC100 '
                    'and 4CONV; full: ResNet-12, for an accelerator.',
                    tuple(budgets.BUDGETS), required=True),
               network.WIDTH,
               Flag('pretrain_steps', 'Optimizer steps of pre-training; by default as the budget '
                    'has it.', int, least=1),
               Flag('meta_steps', 'Outer steps of each meta-training; by default as the budget has '
                    'it.', int, least=1)),
    'machine': (machine.IMAGES, *machine.COMPILE_CACHE),
}
# Those that a command line has to say for the figures to be found again.
_SAID = ('width', 'pretrain_steps', 'meta_steps', 'num_tasks', 'image_size', 'center_crop')


def run(values: FlagValues) -> None:
  """Reproduces what the flags name and prints the table."""
  request = request_of(values)
  results = rows.reproduce(
      request, data.load_dataset(values, request.dataset), workdir=values.workdir,
      command=_command_line(values, request), machine=machine.machine(values))
  presentation.show(results)
  print(f'written to {os.path.join(values.workdir, "table.md")}')


def request_of(values: FlagValues) -> rows.Request:
  """Returns what the flags name.

  Args:
    values: parsed flags.

  Raises:
    ValueError: flags that do not go together; before data is read.
    FileNotFoundError: --pretrained is no finished run.
  """
  table, budget = values.table, _budget(values)
  published = table if table in paper.SHOTS else 'fc100'
  dataset = values.dataset or budget.dataset or published
  if dataset not in data_sets.NAMES:
    raise ValueError(f'unknown data set {dataset!r}; expected one of '
                     f'{", ".join(data_sets.NAMES)}')
  if values.pretrained is not None:
    if values.pretrain_steps or values.width:
      raise ValueError('--pretrain_steps and --width do not go with --pretrained, which is trained '
                       'already')
    finished.trained_settings(values.pretrained)
  seeds = tuple(range(values.seed, values.seed + values.num_seeds))
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
