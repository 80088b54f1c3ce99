"""Scores a meta-trained (or merely pre-trained) network on tasks of unseen classes (phase 3)."""
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from mtl_jax import configs, runs
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.phases import meta_test
from mtl_jax.runs import finished, tables

from . import command, page_file
from .flags import begun, data, machine, method, network, processes, task
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('600 tasks of the test classes of glyphs, 15 queries per class, running statistics:',
     '--checkpoint=runs/glyphs/mtl'),
    ("2,000 tasks of FC100 by the paper's protocol:",
     '--dataset=fc100 --data_dir=DIR --checkpoint=runs/fc100/mtl1 --protocol=paper '
     '--num_tasks=2000'),
)
_AS_PROTOCOL = 'by default as the protocol says.'
_AS_TRAINED = 'by default as in --checkpoint.'
FLAGS: Groups = {
    'task': task.TESTING,
    'data': (Flag('checkpoint', 'Work directory of a finished meta-training, or of a pre-training '
                  '(update θ).', Path, shown='DIR', required=True),
             data.WORKDIR._replace(required=False, help='Directory of the results; by default '
                                   'meta_test/SETTINGS in --checkpoint.'),
             page_file.page('page.html in the directory of the results'),
             *data.SOURCE_OF_TEST, *data.CLASSES),
    'method': (method.ADAPTS._replace(default=None,
                                      help=f'What the inner loop adapts; {_AS_TRAINED}'),
               method.INNER_LR._replace(default=None,
                                        help=f'Inner learning rate (α); {_AS_TRAINED}'),
               task.TEST_INNER_STEPS._replace(default=None, help='Inner steps; by default as in '
                                              'the validation of --checkpoint.'),
               method.BATCH_STATS._replace(default=None, help='Batch norm by running statistics, '
                                           'or by those of support and query apart; '
                                           f'{_AS_PROTOCOL}'),
               *network.kept_from('--checkpoint'), network.OWN_BACKBONE,
               Flag('baseline', 'Also score the pre-trained features without meta-learning '
                    '(update θ).', bool, True)),
    'machine': (machine.IMAGES, machine.DEVICES, machine.POOL, machine.TRACKER,
                *machine.COMPILE_CACHE, *processes.PROCESSES),
}
# What goes into the name of the directory if it is given, so that other settings have another.
_NAMED = ('seed', 'query', 'inner_lr', 'test_inner_steps', 'batch_stats', 'flip_support', 'inner',
          'feature_norm', 'mirror_features', 'temperature', 'compute_dtype', 'center_crop',
          'baseline')
_MOST_CHARACTERS = 60  # of the name of the data in that


def run(values: FlagValues) -> None:
  """Runs the phase that the flags describe.

  Args:
    values: parsed flags.
  """
  processes.join(values)
  machine.check_trackers(values)
  page_file.check(values)
  network.backbone_name(values)
  settings = finished.trained_settings(values.checkpoint)
  config = test_config(values, settings)
  split = task.tested_split(values)
  begun.check(values, config, settings, command='meta_test', seed=values.seed, split=split,
              protocol=values.protocol, baseline=values.baseline)
  dataset = data.load_dataset(values, run=settings)
  workdir = values.workdir or os.path.join(values.checkpoint, 'meta_test',
                                           _name(values, dataset.name, config))
  results = runs.meta_test_run(
      dataset, checkpoint=values.checkpoint, config=config, split=split,
      protocol=values.protocol, seed=values.seed, workdir=workdir, baseline=values.baseline,
      readout=network.readout_options(values), compute_dtype=values.compute_dtype,
      machine=machine.machine(values))
  rows = [(results['method'], results['accuracy'], results['ci95'])]
  if 'baselines' in results:
    update_theta = results['baselines']['update_theta']
    rows.append(('update θ', update_theta['accuracy'], update_theta['ci95']))
  tables.show(f'{results["dataset"]} {split}, {config.way}-way {config.shot}-shot, '
              f'{config.query} queries, {values.protocol}, {config.num_tasks} tasks', rows)
  print(f'{results["seconds"]:.1f} s; written to {os.path.join(workdir, "results.json")}')
  page_file.write(values, _shown(values.checkpoint, workdir), workdir, values.cache_dir)


def _shown(checkpoint: str, workdir: str) -> list[str]:
  """What a page shows: the run, with all tests in it, and this test if it lies elsewhere."""
  inside = os.path.dirname(os.path.abspath(workdir)) == os.path.abspath(
      os.path.join(checkpoint, 'meta_test'))
  return [checkpoint] if inside else [checkpoint, workdir]


def test_config(values: FlagValues, settings: dict[str, Any]) -> MetaTestConfig:
  """Returns the settings of the test: those of the flags, then of the protocol, then of the run.

  Args:
    values: parsed flags.
    settings: of the run in --checkpoint, as in its settings.json.

  Raises:
    ValueError: --inner_lr with a run that has learned its own rates, or an unknown protocol.
  """
  training = settings['command'] == 'meta_train'
  trained = configs.from_json(InnerLoop, settings['config' if training else 'validation']['inner'])
  learned = settings['config'].get('learn', {}).get('inner_lr', 'fixed')
  if values.inner_lr is not None and learned != 'fixed':
    raise ValueError(f'--inner_lr does not go with {values.checkpoint}, which has learned its '
                     'inner learning rates')
  # Steps are those of its validation: in training the loop is short, so that gradients go through.
  inner = dataclasses.replace(
      configs.TEST_LOOP, adapts=trained.adapts, lr=trained.lr,
      steps=settings['validation']['inner']['steps'], regularization=trained.regularization)
  config = meta_test.apply_protocol(MetaTestConfig(
      num_tasks=values.num_tasks, inner=inner,
      way=values.way or settings['config'].get('way', MetaTestConfig.way),
      shot=values.shot or settings['config'].get('shot', MetaTestConfig.shot)), values.protocol)
  inner = dataclasses.replace(config.inner, **_given(
      adapts=values.inner, lr=values.inner_lr, steps=values.test_inner_steps,
      batch_stats_mode=values.batch_stats))
  return dataclasses.replace(config, inner=inner, **_given(query=values.query,
                                                           flip_support=values.flip_support))


def _given(**fields: Any) -> dict[str, Any]:
  return {name: value for name, value in fields.items() if value is not None}


def _name(values: FlagValues, dataset: str, config: MetaTestConfig) -> str:
  """The name of the directory where none is given; data of one's own may be called anything."""
  data_name = re.sub(r'[^\w.-]+', '_', dataset)[:_MOST_CHARACTERS]
  name = (f'{data_name}_{task.tested_split(values)}_{config.way}way_{config.shot}shot_'
          f'{values.protocol}_{config.num_tasks}tasks')
  return '_'.join([name, *(f'{flag}{values[flag].value}' for flag in _NAMED
                           if values[flag].present)])


COMMAND = command.Command('meta-test', __doc__, EXAMPLES, FLAGS, run)

if __name__ == '__main__':
  command.start(COMMAND)
