"""A finished pre-training as a teacher: its network, and its classifier from its checkpoint."""
import os
from typing import Any, NamedTuple

from mtl_jax import backbones
from mtl_jax.phases.distillation import Teacher
from mtl_jax.runs import finished, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import Backbone, BaseLearner


class LoadedTeacher(NamedTuple):
  """A teacher as it lies on disk."""
  network: Backbone
  teacher: Teacher
  settings: dict[str, Any]  # of its run


def load(workdir: str | os.PathLike) -> LoadedTeacher:
  """Reads the best snapshot of a pre-training, with the classifier of its base classes.

  Args:
    workdir: of the run, with its checkpoints: `model.json` and what stands beside it have the
      network alone.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: no pre-training, or its checkpoints are not there.
  """
  workdir = os.fspath(workdir)
  run = finished.load(workdir)
  folder = os.path.join(workdir, 'checkpoints')
  found = Checkpoints(folder).restore_best(None) if os.path.isdir(folder) else None
  if run.settings['command'] != 'pretrain' or found is None or 'head' not in found[1]:
    raise ValueError(f'expected the teacher {workdir} to be the work directory of a pre-training '
                     'with its checkpoints, which hold the classifier of its classes; found none')
  best = (workdirs.read_results(workdir) or {}).get('best_step')
  if best != found[0]:  # a damaged one gives way to the next best
    raise ValueError(f'the checkpoint of step {best} in the teacher {workdir} is damaged or was '
                     'removed: its classifier is that of the network that the run has kept')
  # Networks as tasks see them may mirror images and scale features; the classifier knows neither.
  height, width, channels = run.backbone.image_shape
  network = backbones.create(image_shape=(height, width, channels), **run.settings['backbone'])
  head = found[1]['head']
  layers = tuple(BaseLearner(head[name]['kernel'], head[name]['bias']) for name in sorted(head))
  return LoadedTeacher(network, Teacher(run.backbone_vars, layers), run.settings)


def check(loaded: LoadedTeacher, settings: dict[str, Any], workdir: str | os.PathLike) -> None:
  """Refuses a teacher of other images than the student has.

  Args:
    loaded: of `load`.
    settings: of the student's run.
    workdir: of the teacher, to be named.

  Raises:
    ValueError: other base classes, images, or a normalisation of other moments.
  """
  for name in ('image_shape', 'num_classes', 'normalization'):
    if loaded.settings.get(name) != settings[name]:
      raise ValueError(f'expected a teacher of the same images and base classes, but the {name} of '
                       f'{workdir} is another')
  if loaded.settings['images']['train'] != settings['images']['train']:
    raise ValueError(f'expected a teacher of the same images and base classes, but those of '
                     f'{workdir} are others')
