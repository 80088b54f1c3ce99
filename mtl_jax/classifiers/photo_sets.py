"""What people hand over as labelled photos, brought into one form: photos, labels, class names."""
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.classifiers.encoder import Photo
from mtl_jax.data import photos


class PhotoSet(NamedTuple):
  """Photos with their classes."""
  photos: list[Photo]
  labels: np.ndarray       # int [n]
  names: tuple[str, ...]   # of the classes, sorted


Labelled = str | os.PathLike | Mapping[str, Sequence[Photo]] | tuple[Sequence[Photo], Sequence]


def gather(labelled: Labelled) -> PhotoSet:
  """Brings labelled photos into one form.

  Args:
    labelled: a folder with a folder of photos for each class; or {class: photos}; or (photos,
      their classes). Photos are paths or uint8 arrays.

  Returns:
    A PhotoSet of at least two classes.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: fewer than two classes, a class without photos, or two classes whose names differ in
      case alone.
  """
  if isinstance(labelled, (str, os.PathLike)):
    labelled = class_folders(labelled)
  if not isinstance(labelled, Mapping):
    labelled = _by_class(*labelled)
  names = tuple(sorted(map(str, labelled)))
  check_names(names)
  by_name = {str(name): list(found) for name, found in labelled.items()}
  empty = [name for name in names if not by_name[name]]
  if empty:
    raise ValueError(f'class {empty[0]} has no photos')
  gathered = [photo for name in names for photo in by_name[name]]
  labels = np.repeat(np.arange(len(names)), [len(by_name[name]) for name in names])
  return PhotoSet(gathered, labels, names)


def class_folders(folder: str | os.PathLike) -> dict[str, list[str]]:
  """Lists the photos of each folder in a folder, with those of the folders below it.

  Args:
    folder: whose folders are the classes; hidden ones are passed over.

  Returns:
    Class -> paths.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no folders, or one of them no photos.
  """
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise FileNotFoundError(f'{root} does not exist: expected a folder with a folder of photos for '
                            'each class')
  classes = sorted(path for path in root.iterdir()
                   if path.is_dir() and not path.name.startswith('.'))
  if not classes:
    raise ValueError(f'{root}: expected a folder of photos for each class, found no folders')
  return {path.name: list(photos.find([path])) for path in classes}


def _by_class(found: Sequence[Photo], classes: Sequence) -> dict[str, list[Photo]]:
  if len(found) != len(classes):
    raise ValueError(f'expected a class for each photo, got {len(found)} photos and '
                     f'{len(classes)} classes')
  by_name: dict[str, list[Photo]] = {}
  for photo, name in zip(found, classes, strict=True):
    by_name.setdefault(str(name), []).append(photo)
  return by_name


def check_names(names: Sequence[str]) -> None:
  """Refuses names of classes that are too few, or the same but for their case.

  Args:
    names: of all classes.

  Raises:
    ValueError: see above.
  """
  if len(names) < 2:
    raise ValueError(f'expected at least two classes, got {len(names)}'
                     + (f': {names[0]}' if names else ''))
  seen: dict[str, str] = {}
  for name in names:
    other = seen.get(name.casefold())
    if other == name:
      raise ValueError(f'class {name} is there already')
    if other is not None:
      raise ValueError(f'classes {other} and {name} differ in case alone: rename or join them')
    seen[name.casefold()] = name
