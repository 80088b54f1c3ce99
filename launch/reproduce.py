"""Reproduces a published table, or the plot of hard tasks: ours under both protocols beside the published figures.

  python -m launch.reproduce --table=ablation --budget=smoke --workdir=runs/ablation
  python -m launch.reproduce --table=fc100 --budget=cpu --data_dir=DIR --workdir=runs/fc100_table

Pre-trains once, then runs the rows. Each row is a work directory of its own under --workdir: given again, the same
command goes on where it was stopped. Writes `table.md`, `results.json` and, for --table=curves, `curves_1shot.png` and
`.svg`.
"""
import os

from absl import flags

from launch.flags import options, session
from launch.reproduction import budgets, published, report, rows
from mtl_jax import data
from mtl_jax.runs import finished

TABLE = flags.DEFINE_enum('table', None, list(rows.TABLES), 'What to reproduce: the rows MTL and HT of a main '
                          'table, the ablation (7 rows with and without hard tasks), or accuracy against '
                          'meta-iterations with and without hard tasks. It decides --dataset unless that is given '
                          '(fc100 where the paper has several), save for --budget=smoke, which has glyphs.')
BUDGET = flags.DEFINE_enum('budget', None, list(budgets.BUDGETS), 'How much work: smoke, minutes on glyphs; cpu, about '
                           'two hours on two cores with FC100 and 4CONV; full, ResNet-12, for an accelerator.')
SHOTS = flags.DEFINE_list('shots', None, 'Support images per class (K), one table for each; by default as published, '
                          'but 1 for the curves and for the smaller budgets of the ablation.')
NUM_SEEDS = flags.DEFINE_integer('num_seeds', 1, 'Seeds of each row, from --seed on: of meta-training and test tasks. '
                                 'All of them go on from one pre-training.', lower_bound=1)
PRETRAINED = flags.DEFINE_string('pretrained', None, 'Work directory of a finished pre-training to take instead of '
                                 'that of the budget.')
WIDTH = flags.DEFINE_integer('width', None, 'Channels of the first block of the network; by default as published.',
                             lower_bound=1)
PRETRAIN_STEPS = flags.DEFINE_integer('pretrain_steps', None, 'Optimizer steps of pre-training; by default as the '
                                      'budget has it.', lower_bound=1)
META_STEPS = flags.DEFINE_integer('meta_steps', None, 'Outer steps of each meta-training; by default as the budget has '
                                  'it.', lower_bound=1)
NUM_TASKS = flags.DEFINE_integer('num_tasks', None, 'Tasks of each meta-test; by default as the budget has it.',
                                 lower_bound=2)
_SHARED = ('dataset', 'data_dir', 'cache_dir', 'image_size', 'center_crop', 'split_file', 'skip_broken_images',
           'images', 'seed', 'workdir')


def run():
  """Reproduces what the flags name and prints the table."""
  request = _request()
  flags.FLAGS.set_default('dataset', request.dataset)
  results = rows.reproduce(request, options.load_dataset(), workdir=options.WORKDIR.value,
                                   command=_command(request), images=options.IMAGES.value)
  report.show(results)
  print(f'written to {os.path.join(options.WORKDIR.value, "table.md")}')


def _request():
  """What the flags name; whatever is wrong with them is found here, before data is read."""
  foreign = sorted(flag.name for flag in flags.FLAGS.get_key_flags_for_module(options)
                   if flag.present and flag.name not in _SHARED)
  if foreign:
    raise ValueError(f'reproduce has no --{foreign[0]}: the budget decides; or use the launchers of the single phases')
  table, budget = TABLE.value, _budget()
  own = table if table in published.SHOTS else 'fc100'
  dataset = options.DATASET.value if flags.FLAGS['dataset'].present else budget.dataset or own
  if dataset not in data.NAMES:
    raise ValueError(f'unknown data set {dataset!r}; expected one of {", ".join(data.NAMES)}')
  if PRETRAINED.value is not None:
    if PRETRAIN_STEPS.value or WIDTH.value:
      raise ValueError('--pretrain_steps and --width do not go with --pretrained, which is trained already')
    finished.trained_settings(PRETRAINED.value)
  seeds = tuple(range(options.SEED.value, options.SEED.value + NUM_SEEDS.value))
  return rows.Request(table, BUDGET.value, budget, dataset, _shots(table, dataset, own, budget), seeds,
                              PRETRAINED.value)


def _budget():
  """The budget with what the flags put in its place."""
  budget = budgets.BUDGETS[BUDGET.value]
  if PRETRAIN_STEPS.value:
    budget = budget._replace(pretrain=(*budget.pretrain, f'--steps={PRETRAIN_STEPS.value}'))
  if WIDTH.value:
    budget = budget._replace(pretrain=(*budget.pretrain, f'--width={WIDTH.value}'))
  if META_STEPS.value:
    parts = ('one_shot', 'more_shots', 'network_loop')
    budget = budget._replace(**{name: (*getattr(budget, name), f'--steps={META_STEPS.value}') for name in parts})
  if NUM_TASKS.value:
    budget = budget._replace(num_tasks=NUM_TASKS.value, network_loop_tasks=NUM_TASKS.value)
  return budget


def _shots(table, dataset, own, budget):
  if SHOTS.value is None:
    if table == 'curves':
      return (1,)
    all_of_them = published.SHOTS.get(dataset, published.SHOTS[own])
    return budget.ablation_shots or all_of_them if table == 'ablation' else all_of_them
  shots = tuple(int(text) if text.isdecimal() else 0 for text in SHOTS.value)
  if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
    raise ValueError('expected --shots to be different numbers of at least 1, such as 1,5, got '
                     f'{",".join(SHOTS.value)!r}')
  return shots


def _command(request):
  """The command line, without where things lie on this machine."""
  given = [f'--table={request.table}', f'--budget={request.budget_name}', f'--dataset={request.dataset}',
           f'--shots={",".join(str(shot) for shot in request.shots)}', f'--seed={request.seeds[0]}',
           f'--num_seeds={len(request.seeds)}']
  others = ('width', 'pretrain_steps', 'meta_steps', 'num_tasks', 'image_size', 'center_crop')
  given += [f'--{name}={flags.FLAGS[name].value}' for name in others if flags.FLAGS[name].value is not None]
  given += ['--pretrained=PRE'] if request.pretrained else []
  return ' '.join(['python -m launch.reproduce', *given, '--workdir=DIR'])


for _name in _SHARED:
  flags.declare_key_flag(_name)
flags.adopt_module_key_flags(session)
flags.mark_flags_as_required(['table', 'budget', 'workdir'])

if __name__ == '__main__':
  session.start(run)
