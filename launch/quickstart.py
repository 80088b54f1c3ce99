"""All three phases on the built-in data set, with the rows that tell what meta-transfer brings.

  python -m launch.quickstart --workdir=runs/quickstart
"""
import os
import time

from absl import flags, logging

from launch.flags import options, session
from mtl_jax import data
from mtl_jax.phases.meta_test import MetaTestConfig
from mtl_jax.phases.meta_train import MetaTrainConfig
from mtl_jax.phases.pretrain import PretrainConfig
from mtl_jax.runs import runs, tables, workdirs

WORKDIR = options.WORKDIR
SEED = options.SEED
PRETRAIN_STEPS = flags.DEFINE_integer('pretrain_steps', 600, 'Optimizer steps of pre-training.', lower_bound=1)
META_STEPS = flags.DEFINE_integer('meta_steps', 300, 'Outer steps of each meta-training.', lower_bound=1)
NUM_TASKS = flags.DEFINE_integer('num_tasks', 2000, 'Tasks of each meta-test.', lower_bound=2)
WIDTH = flags.DEFINE_integer('width', 64, 'Filters of the network (4CONV).', lower_bound=1)

# Each row: key in results.json, name in the table, what differs from the first row.
ROWS = (
    ('mtl_ht', 'MTL, HT meta-batch: SS[Θ;θ]', {}),
    ('mtl', 'MTL, meta-batch: SS[Θ;θ]', {'hard_tasks': 0}),
    ('ft_theta', 'meta-learned head only: FT θ', {'hard_tasks': 0, 'learn': 'head'}),
)
INNER_LR = 0.05


def run():
  """Runs the three phases and prints the table."""
  foreign = sorted(flag.name for flag in flags.FLAGS.get_key_flags_for_module(options)
                   if flag.present and flag.name not in ('workdir', 'seed'))
  if foreign:
    raise ValueError(f'quickstart has no --{foreign[0]}: use the launchers of the single phases')
  began = time.monotonic()
  root = WORKDIR.value
  settings = {'command': 'quickstart', 'seed': SEED.value, 'pretrain_steps': PRETRAIN_STEPS.value,
              'meta_steps': META_STEPS.value, 'num_tasks': NUM_TASKS.value, 'width': WIDTH.value}
  workdirs.claim(root, settings)
  if workdirs.read_results(root) is not None:
    logging.info('the run in %s is finished: nothing to do', root)
    return _show(root)
  glyphs = data.load('glyphs')
  validation = runs.Validation(every=150, num_tasks=500, inner_lr=INNER_LR)
  pretrained = os.path.join(root, 'pretrain')
  phases = {'pretrain': runs.pretrain_run(
      glyphs, backbone={'name': 'conv4', 'width': WIDTH.value}, seed=SEED.value, workdir=pretrained,
      config=PretrainConfig(steps=PRETRAIN_STEPS.value, flip=glyphs.flip), validation=validation)}
  phases['meta_train'], phases['meta_test'] = {}, {}
  for key, _, changes in ROWS:
    config = MetaTrainConfig(steps=META_STEPS.value, inner_lr=INNER_LR, flip=glyphs.flip)._replace(**changes)
    phases['meta_train'][key] = runs.meta_train_run(glyphs, pretrained=pretrained, config=config, seed=SEED.value,
                                                    validation=validation, workdir=os.path.join(root, key))
  for key in [row[0] for row in ROWS] + ['pretrain']:
    phases['meta_test'][key] = runs.meta_test_run(
        glyphs, checkpoint=os.path.join(root, key), split='test', protocol='inductive', seed=SEED.value,
        config=MetaTestConfig(num_tasks=NUM_TASKS.value, inner_lr=INNER_LR), baseline=False,
        workdir=os.path.join(root, f'meta_test_{key}'))
  _write(root, phases, time.monotonic() - began)
  _show(root)


def _write(root, phases, seconds):
  """Writes results.json; `seconds` is all that this process took."""
  tested = phases['meta_test']
  best = tested['mtl_ht']
  baselines = {'update_theta' if key == 'pretrain' else key: {k: tested[key][k] for k in ('accuracy', 'ci95')}
               for key in ('mtl', 'ft_theta', 'pretrain')}
  workdirs.write_results(root, {
      'command': 'quickstart', 'accuracy': best['accuracy'], 'ci95': best['ci95'], 'baselines': baselines, **phases,
      'seed': SEED.value, 'seconds': seconds, **workdirs.describe_machine()})


def _show(root):
  """Prints the table and the seconds of each phase."""
  results = workdirs.read_results(root)
  tested = results['meta_test']
  names = {key: name for key, name, _ in ROWS} | {'pretrain': 'no meta-learning: update θ'}
  tables.show(f'glyphs, 5-way 1-shot, 15 queries, inductive, {tested["mtl_ht"]["num_tasks"]} test tasks',
              [(names[key], tested[key]['accuracy'], tested[key]['ci95']) for key in names])
  spent = {'pre-training': results['pretrain']['seconds'],
           'meta-training': sum(result['seconds'] for result in results['meta_train'].values()),
           'meta-test': sum(result['seconds'] for result in tested.values())}
  print('  '.join(f'{name} {value:.0f} s' for name, value in spent.items()) + f'  in all {results["seconds"]:.0f} s')
  print(f'written to {os.path.join(root, "results.json")}')


flags.declare_key_flag('workdir')
flags.declare_key_flag('seed')
flags.adopt_module_key_flags(session)
flags.mark_flag_as_required('workdir')

if __name__ == '__main__':
  session.start(run)
