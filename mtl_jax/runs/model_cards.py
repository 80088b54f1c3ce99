"""The README.md beside a model: what it is, how it was made, how to load it, how good it is."""
from collections.abc import Mapping
from typing import Any

_LICENSES = {('efficientnet_lite', 3085515963): 'Apache-2.0'}  # (format, digest) of public weights


def text(model: Mapping[str, Any]) -> str:
  """Returns the card of a model, in Markdown.

  Args:
    model: content of its `model.json`.
  """
  settings = model['settings']
  title = f'# {settings["backbone"]["name"]}, {made(settings)}'
  shape = 'x'.join(map(str, settings['image_shape']))
  lines = [title, '', f'A model of mtl_jax for few-shot image classification. It takes images of '
           f'{shape} (height, width, channels); `model.json` has what they are normalised by, all '
           'settings, and the SHA-256 of each file.', '',
           f'- Network: {network(settings)}.', f'- Made by: {origin(settings)}.',
           f'- Accuracy: {accuracy(model)}.', f'- Licence of the weights: {license_of(settings)}.']
  return '\n'.join([*lines, '', *_how_to_load(model), ''])


def made(settings: Mapping[str, Any]) -> str:
  """Returns in short how a model came about.

  Args:
    settings: of its run.
  """
  if 'imported' in settings:
    return f'imported from a file of {settings["imported"]["format"]}'
  done = 'meta-trained' if settings['command'] == 'meta_train' else 'pre-trained'
  return f'{done} on {settings["dataset"]}'


def network(settings: Mapping[str, Any]) -> str:
  """Returns the network with those of its options that are given, and the form of its features.

  Args:
    settings: of its run.
  """
  options = {**settings['backbone'], **settings.get('readout', {})}
  given = [f'{name} {value}' for name, value in options.items()
           if name != 'name' and value is not None]
  return ', '.join([options['name'], *given])


def origin(settings: Mapping[str, Any]) -> str:
  """Returns how a model was made, back to the first weights.

  Args:
    settings: of its run.
  """
  config, said = settings['config'], made(settings)
  if settings['command'] == 'meta_train' and 'imported' not in settings:
    said += f', {config["way"]}-way {config["shot"]}-shot, seed {settings["seed"]}'
  elif 'imported' not in settings:
    said += f', seed {settings["seed"]}'
  if (before := settings.get('pretrained')) is not None:
    said += f', over a network {made(before)}'
  return said


def accuracy(model: Mapping[str, Any]) -> str:
  """Returns the accuracy on validation tasks, with its interval where that is known.

  Args:
    model: content of its `model.json`.
  """
  value = model['results'].get('validation_accuracy')
  if value is None:
    return 'not measured'
  interval = model['results'].get('validation_ci95')
  shown = f'{100 * value:.2f}' + ('' if interval is None else f' ± {100 * interval:.2f}')
  tasks = model['settings']['validation']
  return (f'{shown} % on {tasks["num_tasks"]} {tasks["way"]}-way {tasks["shot"]}-shot tasks of '
          'validation classes, which also chose the snapshot')


def license_of(settings: Mapping[str, Any]) -> str:
  """Returns the licence of imported weights; of those that were trained here there is none to know.

  Args:
    settings: of the run.
  """
  imported = settings.get('imported') or settings.get('pretrained', {}).get('imported')
  if imported is None:
    return 'none is set; it is for you to choose'
  known = _LICENSES.get((imported['format'], imported['digest']))
  return known or 'not known here; that of the imported file holds'


def _how_to_load(model: Mapping[str, Any]) -> list[str]:
  return ['```python', 'from mtl_jax import runs', "run = runs.load('DIR')  # this directory",
          'run.backbone, run.backbone_vars, run.meta_params, run.normalization', '```', '',
          '`mtl show DIR` prints more. Without mtl_jax, the package safetensors reads the arrays '
          f'from {" and ".join(model["files"])}.']
