"""A run in a few lines: what it has learned, or where it stands."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mtl_jax import configs, learnable
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.runs import finished, model_cards, models, time_budgets, workdirs
from mtl_jax.runs.checkpoints import Checkpoints

Facts = list[tuple[str, str]]  # (what, its value)

_MOST_CLASSES = 8  # that are named
_NEXT = {'pretrain': ('mtl meta-train --pretrained={0}', 'mtl meta-test --checkpoint={0}',
                      'mtl features {0} IMAGES --out=FILE'),
         'meta_train': ('mtl meta-test --checkpoint={0}', 'mtl features {0} IMAGES --out=FILE')}


def of_run(workdir: str | os.PathLike) -> Facts:
  """Describes a pre-training, a meta-training or an import, finished or not.

  Args:
    workdir: directory of the run, or one with the files of a model alone.

  Returns:
    (what, its value), in the order to be read.

  Raises:
    FileNotFoundError: no such directory.
    ValueError: not such a run, one of another version, or a damaged `model.json`.
  """
  folder = os.fspath(workdir)
  settings, model = finished.read_run(folder)
  if model is not None:
    return _finished(folder, model, settings)
  if workdirs.read_results(folder) is not None:
    models.refuse_earlier_format(folder)
  return [('state', _progress(folder, settings)), *_settings(settings, None)]


def _finished(folder: str, model: Mapping[str, Any], settings: Mapping[str, Any]) -> Facts:
  results, facts = model['results'], [('state', f'finished: {model_cards.origin(settings)}')]
  facts += _settings(settings, model['classes'])
  facts.append(('accuracy', model_cards.accuracy(model)))
  if 'steps' in results:
    facts.append(('steps', f'{results["steps"]}, the best snapshot at {results["best_step"]}'))
  facts.append(('versions', ', '.join(f'{name} {value}'
                                      for name, value in model['versions'].items())))
  facts += [(name, _file(folder, name)) for name in model['files']]
  facts += [('next' if index == 0 else '', line.format(folder))
            for index, line in enumerate(_NEXT[settings['command']])]
  return facts


def _settings(settings: Mapping[str, Any], classes: Sequence[str] | None) -> Facts:
  height, width, channels = settings['image_shape']
  moments = [', '.join(f'{value:.4g}' for value in settings['normalization'].get(name, []))
             for name in ('mean', 'std')]
  data = str(settings['dataset'])
  if 'num_classes' in settings:
    data += f', {settings["num_images"]} images in {settings["num_classes"]} base classes'
  facts = [('network', model_cards.network(settings)), ('data', data)]
  if classes:
    more = len(classes) - _MOST_CLASSES
    named = [*classes[:_MOST_CLASSES], *([f'and {more} more'] if more > 0 else [])]
    facts.append(('classes', ', '.join(named)))
  return [*facts, ('images', f'{height}x{width} pixels, {channels} channels'),
          ('normalised by', f'mean {moments[0]}; deviation {moments[1]}'),
          ('learned', _learned(settings)), ('seed', str(settings['seed']))]


def _learned(settings: Mapping[str, Any]) -> str:
  if settings['command'] == 'pretrain':
    return 'the network Θ'
  config = configs.from_json(MetaTrainConfig, settings['config'])
  row = learnable.row_name(config.learn, str(config.inner.adapts), bool(config.num_hard_tasks))
  return f'{row}, {config.way}-way {config.shot}-shot'


def _file(folder: str, name: str) -> str:
  """The size of a file, or what is wrong with it."""
  try:
    arrays = jax.tree.leaves(models.read_tree(folder, name))
  except (OSError, ValueError) as error:
    return f'DAMAGED: {error}'
  size = os.path.getsize(os.path.join(folder, name)) / 1e6
  return f'{size:.2f} MB, {sum(array.size for array in arrays):,} numbers, whole'


def _progress(folder: str, settings: Mapping[str, Any]) -> str:
  checkpoints = Checkpoints(os.path.join(folder, 'checkpoints'))
  steps, scores = checkpoints.steps(), checkpoints.accuracies()
  if not steps:
    return f'{settings["command"]} has begun, and has no checkpoint yet'
  last = time_budgets.decided_steps(folder) or settings['config']['steps']
  said = f'not finished: {settings["command"]} at step {steps[-1]} of {last}'
  measured = [(accuracy, step) for step, accuracy in scores.items() if accuracy is not None]
  if measured:
    accuracy, step = max(measured)
    said += f', best validation accuracy {100 * accuracy:.2f} % at step {step}'
  return f'{said}; the same command goes on from there'
