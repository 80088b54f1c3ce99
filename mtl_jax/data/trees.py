"""Trees of folders with images: which folder is which class, and what was left out.

A class is a folder that holds images, and is named by its path below the root: `Apple`, or
`Fruit/Apple` where folders nest. Where its images lie in a folder `images` of their own, as
Tiny-ImageNet has them, the class is the folder above that. A class holds no other class.
"""
import collections
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from absl import logging

from mtl_jax.data import image_files, image_formats

WRAPPER = 'images'  # the folder in a class that only holds its images
_MOST_NAMED = 5


class Tree(NamedTuple):
  """What lies below a folder; hidden files and folders are not looked at."""
  folders: dict[str, dict[str, str]]    # path below the root, '' for itself -> file -> its stamp
  left_out: collections.Counter[str]    # ending -> number of files that are no images


def walk(root: pathlib.Path) -> Tree:
  """Finds all images below a folder.

  Args:
    root: the folder; links to folders are followed, but not in circles.

  Returns:
    Folders that hold images, and files, sorted by name.
  """
  folders: dict[str, dict[str, str]] = {}
  left_out: collections.Counter[str] = collections.Counter()
  # Each with the folders that it lies in, links resolved.
  waiting: list[tuple[str, tuple[str, ...]]] = [('', (os.path.realpath(root),))]
  while waiting:
    place, above = waiting.pop()
    images = {}
    with os.scandir(root / place) as entries:
      for entry in entries:
        if entry.name.startswith('.'):
          continue
        path = f'{place}/{entry.name}' if place else entry.name
        if entry.is_dir():
          real = os.path.realpath(entry.path)
          if real not in above:
            waiting.append((path, (*above, real)))
        elif entry.is_file():
          if image_formats.is_image(entry.name):
            images[entry.name] = image_files.stamp(entry.stat())
          else:
            left_out[os.path.splitext(entry.name)[1].lower() or 'without ending'] += 1
    if images:
      folders[place] = dict(sorted(images.items()))
  return Tree(dict(sorted(folders.items())), left_out)


def class_of(folder: str) -> str:
  """Returns the name of the class whose images lie in a folder; '' where that is none.

  Args:
    folder: path below the root.

  >>> class_of('Fruit/Apple'), class_of('n01443537/images'), class_of('images')
  ('Fruit/Apple', 'n01443537', '')
  """
  above, _, last = folder.rpartition('/')
  return above if last == WRAPPER else folder


def check_apart(where: str, names: Iterable[str]) -> None:
  """Checks that no class lies within another.

  Args:
    where: root of the tree, for the message.
    names: of classes.

  Raises:
    ValueError: one does.
  """
  known = set(names)
  for name in sorted(known):
    above = name
    while '/' in above:
      above = above.rpartition('/')[0]
      if above in known:
        raise ValueError(f'{where}: expected images in {above} or in folders below it, found both, '
                         f'such as in {name}; a class holds no other class')


def report(left_out: Mapping[str, int], notes: Iterable[str] = ()) -> None:
  """Says in one line which files are no part of the data, if there are any.

  Args:
    left_out: ending -> number of files.
    notes: what else was left out.
  """
  files = [f'{n} {ending}' for ending, n in
           sorted(left_out.items(), key=lambda item: (-item[1], item[0]))]
  if said := [*files, *notes]:
    logging.info('left out: %s', ', '.join(said))


def some(names: Iterable[str]) -> str:
  """Returns the first few of some names.

  Args:
    names: of anything.
  """
  names = list(names)
  more = len(names) - _MOST_NAMED
  return ', '.join(names[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
