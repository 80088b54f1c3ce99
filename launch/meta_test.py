"""Phase 3: scores a meta-trained (or merely pre-trained) network on tasks of unseen classes.

  python -m launch.meta_test --dataset=fc100 --data_dir=DIR --checkpoint=runs/mtl --num_tasks=600 --protocol=inductive
"""
import os

from absl import flags

from launch.flags import machines, options, session
from mtl_jax import inner_loop
from mtl_jax.phases import meta_test
from mtl_jax.runs import finished, runs, tables

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Work directory of a finished meta-training, or of a pre-training '
                                 '(update θ).')
NUM_TASKS = flags.DEFINE_integer('num_tasks', 600, 'Number of tasks.', lower_bound=2)
PROTOCOL = flags.DEFINE_string('protocol', 'inductive', 'inductive: 15 queries per class, running statistics; paper: '
                               'as many queries as shots, batch statistics, support doubled by flips.')
QUERY = flags.DEFINE_integer('query', None, 'Query images per class; by default as the protocol says.', lower_bound=1)
BATCH_STATS = flags.DEFINE_enum('batch_stats', None, ['running', 'batch'], 'Batch norm by running statistics, or by '
                                'those of support and query apart; by default as the protocol says.')
FLIP_SUPPORT = flags.DEFINE_bool('flip_support', None, 'Double the support by mirrored images; by default as the '
                                 'protocol says.')
ADAPTS = flags.DEFINE_enum('inner', None, list(inner_loop.LOOPS), 'What the inner loop adapts; by default as in '
                           '--checkpoint.')
SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'val', 'test'], 'Classes that the tasks come from.')
INNER_LR = flags.DEFINE_float('inner_lr', None, 'Inner learning rate; by default that of the run in --checkpoint.',
                              lower_bound=0.0)
BASELINE = flags.DEFINE_bool('baseline', True, 'Also score the pre-trained features without meta-learning (update θ).')
flags.adopt_module_key_flags(options)  # --help shows them too
flags.adopt_module_key_flags(session)
flags.adopt_module_key_flags(machines)
flags.mark_flag_as_required('checkpoint')


def run():
  """Runs the phase that the flags describe."""
  if machines.PROFILE.value is not None:
    raise ValueError('--profile goes with pretrain and meta_train, whose steps it traces')
  settings = finished.trained_settings(CHECKPOINT.value)
  way, shot = (_flag_or_trained(name, settings) for name in ('way', 'shot'))
  fields = meta_test.protocol_settings(PROTOCOL.value, shot)
  for field, flag in (('query', QUERY), ('batch_stats_mode', BATCH_STATS), ('flip_support', FLIP_SUPPORT)):
    if flag.value is not None:
      fields[field] = flag.value
  trained = settings['config'] if settings['command'] == 'meta_train' else settings['validation']
  if INNER_LR.value is not None and trained.get('learn_inner_lr', 'fixed') != 'fixed':
    raise ValueError(f'--inner_lr does not go with {CHECKPOINT.value}, which has learned its inner learning rates')
  steps = flags.FLAGS['test_inner_steps']
  config = meta_test.MetaTestConfig(
      num_tasks=NUM_TASKS.value, way=way, shot=shot,
      inner_steps=steps.value if steps.present else settings['validation']['inner_steps'],
      inner_lr=trained['inner_lr'] if INNER_LR.value is None else INNER_LR.value,
      adapts=ADAPTS.value or trained['adapts'], regularization=trained['regularization'], **fields)
  name = f'{options.DATASET.value}_{SPLIT.value}_{way}way_{shot}shot_{PROTOCOL.value}_{NUM_TASKS.value}tasks'
  # What is not at its default goes into the name, so that other settings have a directory of their own.
  given = [f'{flag}{flags.FLAGS[flag].value}' for flag in
           ('seed', 'query', 'inner_lr', 'test_inner_steps', 'batch_stats', 'flip_support', 'inner', 'feature_norm',
            'mirror_features', 'temperature', 'compute_dtype', 'center_crop', 'baseline')
           if flags.FLAGS[flag].present]
  name = '_'.join([name, *given])
  workdir = options.WORKDIR.value or os.path.join(CHECKPOINT.value, 'meta_test', name)
  results = runs.meta_test_run(options.load_dataset(), checkpoint=CHECKPOINT.value, config=config, split=SPLIT.value,
                               protocol=PROTOCOL.value, seed=options.SEED.value, workdir=workdir,
                               baseline=BASELINE.value, readout=options.readout(),
                               compute_dtype=options.COMPUTE_DTYPE.value, images=options.IMAGES.value,
                               layout=machines.layout())
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
  session.start(machines.joined(run))
