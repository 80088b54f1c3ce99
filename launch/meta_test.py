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
from mtl_jax.runs import finished, paired, strengths, tables, tested_rows
from mtl_jax.systems import support_classifiers

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
               method.INNER_LR._replace(
                   default=None, words=(method.AUTO,), shown='X|auto',
                   help='Inner learning rate (α); auto: the best on validation tasks; by default '
                   'as in --checkpoint, of a pre-training (update θ) auto.'),
               Flag('classifier', 'What is fitted to the support of a task: the base-learner, by '
                    'gradient descent in the inner loop (gd), or another classifier over the '
                    'features.',
                    (support_classifiers.GRADIENT_DESCENT, *support_classifiers.CLASSIFIERS),
                    support_classifiers.GRADIENT_DESCENT),
               Flag('strength', 'Regularisation (λ) of --classifier=ridge or logistic; by default '
                    'the best on validation tasks.', float, least=0.0),
               task.TEST_INNER_STEPS._replace(default=None, help='Inner steps; by default as in '
                                              'the validation of --checkpoint.'),
               method.BATCH_STATS._replace(default=None, help='Batch norm by running statistics, '
                                           'or by those of support and query apart; '
                                           f'{_AS_PROTOCOL}'),
               *network.kept_from('--checkpoint'), network.OWN_BACKBONE,
               Flag('center_features', 'Take the mean features of the base classes from all '
                    'features, before they are scaled to a length.', bool, False),
               Flag('baseline', 'Also score the pre-trained features without meta-learning '
                    '(update θ), at the inner rate that is best for them on validation tasks.',
                    bool, True)),
    'machine': (machine.IMAGES, machine.DEVICES, machine.POOL, machine.TRACKER,
                *machine.COMPILE_CACHE, *processes.PROCESSES),
}
# What goes into the name of the directory if it is given, so that other settings have another.
_NAMED = ('seed', 'query', 'inner_lr', 'test_inner_steps', 'batch_stats', 'flip_support', 'inner',
          'feature_norm', 'mirror_features', 'temperature', 'shift_features', 'center_features',
          'classifier', 'strength', 'compute_dtype', 'center_crop', 'baseline')
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
              protocol=values.protocol, baseline=values.baseline,
              chosen=_is_tuned(values, settings, config))
  dataset = data.load_dataset(values, run=settings)
  workdir = values.workdir or os.path.join(values.checkpoint, 'meta_test',
                                           _name(values, dataset.name, config))
  results = runs.meta_test_run(
      dataset, checkpoint=values.checkpoint, config=config, split=split,
      protocol=values.protocol, seed=values.seed, workdir=workdir, baseline=values.baseline,
      readout=network.readout_options(values), compute_dtype=values.compute_dtype,
      tuned=_is_tuned(values, settings, config), center=values.center_features,
      machine=machine.machine(values))
  _show(results)
  print(f'{results["seconds"]:.1f} s; written to {os.path.join(workdir, "results.json")}')
  page_file.write(values, _shown(values.checkpoint, workdir), workdir, values.cache_dir)


def _show(results: dict[str, Any]) -> None:
  """Prints the rows, each with the setting of its classifier, and the gains over the same tasks."""
  others = results.get('baselines', {})
  rows = [(results['method'], results)]
  rows += [(tested_rows.NAMES[key], row) for key, row in others.items()]
  gains = ['', *(paired.text(results['gains'][key]) for key in others)]
  settings = [next((f'{row[name]:g}' for name in ('inner_lr', 'strength') if name in row), '–')
              for _, row in rows]
  cells = [[name, f'{100 * row["accuracy"]:.2f} ± {100 * row["ci95"]:.2f}', setting, gain]
           for (name, row), setting, gain in zip(rows, settings, gains, strict=True)]
  tables.show_columns(
      f'{results["dataset"]} {results["split"]}, {results["way"]}-way {results["shot"]}-shot, '
      f'{results["query"]} queries, {results["protocol"]}, {results["num_tasks"]} tasks',
      ['method', 'accuracy, %', 'rate or strength', 'gain of the first row over it'], cells)


def _is_tuned(values: FlagValues, settings: dict[str, Any], config: MetaTestConfig) -> bool:
  """Whether validation tasks choose the inner rate, or the strength of another classifier."""
  if config.classifier != support_classifiers.GRADIENT_DESCENT:
    return values.strength is None and bool(strengths.candidates(config))
  if values.inner_lr == method.AUTO:
    return True
  return (values.inner_lr is None and settings['command'] == 'pretrain'
          and config.inner.adapts == 'head')


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
    ValueError: --inner_lr with a run that has learned its own rates, or flags of a classifier that
      the chosen one has not; or an unknown protocol.
  """
  training = settings['command'] == 'meta_train'
  trained = configs.from_json(InnerLoop, settings['config' if training else 'validation']['inner'])
  learned = settings['config'].get('learn', {}).get('inner_lr', 'fixed')
  if values.inner_lr is not None and learned != 'fixed':
    raise ValueError(f'--inner_lr does not go with {values.checkpoint}, which has learned its '
                     'inner learning rates')
  _check_classifier(values)
  # Steps are those of its validation: in training the loop is short, so that gradients go through.
  inner = dataclasses.replace(
      configs.TEST_LOOP, adapts=trained.adapts, lr=trained.lr,
      steps=settings['validation']['inner']['steps'], regularization=trained.regularization)
  config = meta_test.apply_protocol(MetaTestConfig(
      num_tasks=values.num_tasks, inner=inner,
      way=values.way or settings['config'].get('way', MetaTestConfig.way),
      shot=values.shot or settings['config'].get('shot', MetaTestConfig.shot)), values.protocol)
  inner = dataclasses.replace(config.inner, **_given(
      adapts=values.inner, lr=None if values.inner_lr == method.AUTO else values.inner_lr,
      steps=values.test_inner_steps, batch_stats_mode=values.batch_stats))
  if values.inner_lr == method.AUTO and inner.adapts != 'head':
    raise ValueError(f'--inner_lr=auto goes with --inner=head, not with {inner.adapts}: give a '
                     'number')
  return dataclasses.replace(config, inner=inner, classifier=values.classifier, **_given(
      query=values.query, flip_support=values.flip_support, strength=values.strength))


def _check_classifier(values: FlagValues) -> None:
  is_gd = values.classifier == support_classifiers.GRADIENT_DESCENT
  if not is_gd and values.inner_lr is not None:
    raise ValueError(f'--inner_lr does not go with --classifier={values.classifier}')
  has_strength = not is_gd and support_classifiers.find(values.classifier).strengths
  if values.strength is not None and not (has_strength and values.strength > 0):
    raise ValueError('--strength is above 0 and goes with --classifier=ridge or logistic, got '
                     f'{values.strength:g} with {values.classifier}')


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
