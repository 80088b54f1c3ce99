"""A finished pre-training as a teacher: network and classifier, from its best checkpoint."""
import os
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import backbones
from mtl_jax.phases.distillation import Teacher
from mtl_jax.runs import finished, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import Backbone, BackboneVars, BaseLearner


class LoadedTeacher(NamedTuple):
  """A teacher as it lies on disk."""
  network: Backbone
  teacher: Teacher
  settings: dict[str, Any]  # of its run


def check_run(workdir: str) -> tuple[Backbone, dict[str, Any]]:
  """Refuses what cannot be a teacher, before any images are read.

  Args:
    workdir: of a run.

  Returns:
    (its network, its settings).

  Raises:
    FileNotFoundError: no such directory.
    ValueError: no finished pre-training, without its checkpoints, or of a network of one's own that
      is not registered.
  """
  settings = finished.trained_settings(workdir)
  if settings['command'] != 'pretrain' or not os.path.isdir(os.path.join(workdir, 'checkpoints')):
    raise ValueError(f'expected the teacher {workdir} to be the work directory of a pre-training '
                     'with its checkpoints, which hold the classifier of its classes; found none')
  # Networks as tasks see them may mirror images and scale features; the classifier knows neither.
  height, width, channels = settings['image_shape']
  network = backbones.create(image_shape=(height, width, channels), **settings['backbone'])
  return network, settings


def load(workdir: str | os.PathLike) -> LoadedTeacher:
  """Reads the best snapshot of a pre-training, with the classifier of its base classes.

  Where it kept a moving average of its weights, the teacher is the network of that step itself,
  whose classifier it is.

  Args:
    workdir: of the run, with its checkpoints: `model.json` and what stands beside it have the
      network alone.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: as `check_run`, or its best checkpoint is damaged or that of the untrained network.
  """
  workdir = os.fspath(workdir)
  network, settings = check_run(workdir)
  found = Checkpoints(os.path.join(workdir, 'checkpoints')).restore_best(None)
  best = (workdirs.read_results(workdir) or {}).get('best_step')
  if found is None or best != found[0]:  # a damaged one gives way to the next best
    raise ValueError(f'the checkpoint of step {best} in the teacher {workdir} is damaged or was '
                     'removed: the answers of its best snapshot cannot be had')
  if best == 0:
    raise ValueError('expected a teacher that has learned something, but the best snapshot of '
                     f'{workdir} is that before its first step')
  tree = found[1]
  layers = tuple(BaseLearner(tree['head'][name]['kernel'], tree['head'][name]['bias'])
                 for name in sorted(tree['head'], key=int))
  variables = BackboneVars(tree['backbone']['params'], tree['backbone'].get('batch_stats', {}))
  return LoadedTeacher(network, Teacher(variables, layers), settings)


def describe(loaded: LoadedTeacher) -> dict[str, Any]:
  """Returns what a student's settings say of its teacher: its settings and a checksum.

  Args:
    loaded: of `load`.
  """
  checksum = 0
  for leaf in jax.tree.leaves(loaded.teacher):
    checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
  return {**loaded.settings, 'arrays': checksum}


def check(loaded: LoadedTeacher, settings: Mapping[str, Any], workdir: str | os.PathLike) -> None:
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
    raise ValueError('expected a teacher of the same images and base classes, but those of '
                     f'{workdir} are others')
