"""Phase 3: scores a meta-trained (or merely pre-trained) network on tasks of unseen classes.

  python -m launch.meta_test --dataset=fc100 --data_dir=DIR --checkpoint=runs/mtl --num_tasks=600 --protocol=inductive
"""
import os

from absl import flags

from launch import options, session, tables
from mtl_jax import learned, runs
from mtl_jax.phases import meta_test

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Work directory of a finished meta-training, or of a pre-training '
                                 '(update θ).')
NUM_TASKS = flags.DEFINE_integer('num_tasks', 600, 'Number of tasks.', lower_bound=2)
PROTOCOL = flags.DEFINE_string('protocol', 'inductive', 'inductive: 15 queries per class, running statistics; paper: '
                               'as many queries as shots, batch statistics, support doubled by flips.')
QUERY = flags.DEFINE_integer('query', None, 'Query images per class; by default as the protocol says.', lower_bound=1)
SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Classes that the tasks come from.')
INNER_LR = flags.DEFINE_float('inner_lr', None, 'Inner learning rate; by default that of the run in --checkpoint.',
                              lower_bound=0.0)
BASELINE = flags.DEFINE_bool('baseline', True, 'Also score the pre-trained features without meta-learning (update θ).')
flags.adopt_module_key_flags(options)  # --help shows them too
flags.adopt_module_key_flags(session)
flags.mark_flag_as_required('checkpoint')


def run():
  """Runs the phase that the flags describe."""
  settings = learned.trained_settings(CHECKPOINT.value)
  way, shot = (_flag_or_trained(name, settings) for name in ('way', 'shot'))
  fields = meta_test.protocol_settings(PROTOCOL.value, shot)
  if QUERY.value is not None:
    fields['query'] = QUERY.value
  inner_lr = INNER_LR.value
  if inner_lr is None:
    inner_lr = settings['config'].get('inner_lr', settings.get('validation', {}).get('inner_lr', 0.01))
  config = meta_test.MetaTestConfig(num_tasks=NUM_TASKS.value, way=way, shot=shot, inner_lr=inner_lr,
                                    inner_steps=options.TEST_INNER_STEPS.value, **fields)
  name = f'{options.DATASET.value}_{SPLIT.value}_{way}way_{shot}shot_{PROTOCOL.value}_{NUM_TASKS.value}tasks'
  # What is not at its default goes into the name, so that every setting has a directory of its own.
  given = [f'{flag}{flags.FLAGS[flag].value:g}' for flag in ('seed', 'query', 'inner_lr', 'test_inner_steps')
           if flags.FLAGS[flag].present]
  name = '_'.join([name, *given])
  workdir = options.WORKDIR.value or os.path.join(CHECKPOINT.value, 'meta_test', name)
  results = runs.meta_test_run(options.load_dataset(), checkpoint=CHECKPOINT.value, config=config, split=SPLIT.value,
                               protocol=PROTOCOL.value, seed=options.SEED.value, workdir=workdir,
                               baseline=BASELINE.value)
  rows = [(results['method'], results['accuracy'], results['ci95'])]
  if 'baselines' in results:
    rows.append(('update θ', *results['baselines']['update_theta'].values()))
  title = (f'{results["dataset"]} {SPLIT.value}, {way}-way {shot}-shot, {config.query} queries, {PROTOCOL.value}, '
           f'{NUM_TASKS.value} tasks')
  tables.show(title, rows)
  print(f'{results["seconds"]:.1f} s; written to {os.path.join(workdir, "results.json")}')


def _flag_or_trained(name, settings):
  """The flag if it was given, else what the run was meta-trained for."""
  flag = flags.FLAGS[name]
  return flag.value if flag.present else settings['config'].get(name, flag.value)


if __name__ == '__main__':
  session.start(run)
