"""Which classes are for training, validation and test, of data that do not come divided.

A few-shot split divides classes, not images: those of a test are new to the network. So folders,
tables and files whose splits all have the same classes are pooled, and their classes divided anew.
"""
import collections
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from mtl_jax.data import pools
from mtl_jax.untrusted import regular

T = TypeVar('T')
Fractions = tuple[float, float, float]  # of the classes, for train, val and test

# What splits are called elsewhere -> here.
ALIASES = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val',
           'validation': 'val', 'dev': 'val', 'test': 'test', 'testing': 'test'}
EXAMPLE = '--split=0.6,0.2,0.2'
_TOLERANCE = 1e-6  # of the sum of fractions: 0.7 + 0.15 + 0.15 is not 1 in binary
_MOST_NAMED = 5
_MOST_BYTES = 1 << 26  # of a split file


class Wanted(NamedTuple):
  """How classes shall be divided; without either, as the data say."""
  split: Fractions | None = None
  split_file: str | os.PathLike | None = None
  seed: int = 0


AS_FOUND = Wanted()


class Part(NamedTuple):
  """Some images of a class, as they were found; a class may have several parts."""
  split: str | None  # one of `pools.SPLITS`; None where the data do not say, or say something else
  name: str          # of the class
  items: list        # what the images are read by


Divided = dict[str, list[tuple[str, list]]]  # split -> (class, what its images are read by)


def parse(text: str) -> Fractions:
  """Reads fractions as they are typed.

  Args:
    text: such as '0.6,0.2,0.2'.

  Raises:
    ValueError: they are not three numbers above 0 that sum to 1.

  >>> parse('0.6,0.2,0.2')
  (0.6, 0.2, 0.2)
  """
  try:
    return check(tuple(float(part) for part in text.split(',')))
  except ValueError as e:
    raise ValueError('expected --split to be three fractions above 0 that sum to 1, for train, '
                     f'val and test, such as 0.6,0.2,0.2, got {text!r}') from e


def check(fractions: Sequence[float]) -> Fractions:
  """Checks fractions of the classes, and returns them as a tuple.

  Args:
    fractions: for train, val and test.

  Raises:
    ValueError: they are not three numbers above 0 that sum to 1.
  """
  found = tuple(float(fraction) for fraction in fractions)
  if (len(found) != 3 or not all(0 < fraction < 1 for fraction in found)
      or not math.isclose(sum(found), 1, abs_tol=_TOLERANCE)):
    raise ValueError('expected split to be three fractions above 0 that sum to 1, for train, val '
                     f'and test, got {tuple(fractions)}')
  return found[0], found[1], found[2]


def by_fractions(where: str, names: Iterable[str], fractions: Fractions,
                 seed: int) -> dict[str, list[str]]:
  """Divides classes at random, the same way on every machine.

  The order is that of a hash of seed and name: it depends on no random generator's version, and
  stays where another class is added.

  Args:
    where: what the classes were found in, for the message.
    names: of the classes.
    fractions: for train, val and test; numbers of classes are rounded to the nearest sum.
    seed: decides the order.

  Returns:
    Split -> names, each in the order of `names`.

  Raises:
    ValueError: a split would have no class.
  """
  names = list(names)
  counts = _counts(len(names), fractions)
  if not all(counts):
    found = ', '.join(f'{split} {n}' for split, n in zip(pools.SPLITS, counts, strict=True))
    raise ValueError(f'{where}: expected a split of {",".join(f"{f:g}" for f in fractions)} to '
                     f'leave a class in each of train, val and test, got {found} of '
                     f'{len(names)} {"class" if len(names) == 1 else "classes"}')
  order = sorted(names, key=lambda name: hashlib.sha256(f'{seed} {name}'.encode()).digest())
  home, start = {}, 0
  for split, count in zip(pools.SPLITS, counts, strict=True):
    home |= dict.fromkeys(order[start:start + count], split)
    start += count
  return {split: [name for name in names if home[name] == split] for split in pools.SPLITS}


def _counts(number: int, fractions: Fractions) -> list[int]:
  """Rounds fractions of a number to integers that sum to it, by largest remainders."""
  exact = [number * fraction for fraction in fractions]
  # What binary fractions miss by, such as 5 * 0.6, is no remainder.
  counts = [math.floor(value + _TOLERANCE) for value in exact]
  by_remainder = sorted(range(3), key=lambda i: counts[i] - exact[i])
  for i in by_remainder[:number - sum(counts)]:
    counts[i] += 1
  return counts


def key(wanted: Wanted) -> dict:
  """Returns all that decides how the same data are divided, as JSON values, for a cache.

  Args:
    wanted: as of `divide`.

  Raises:
    ValueError: the split file cannot be read.
  """
  if wanted.split_file is not None:
    return {'classes': read_file(wanted.split_file)}
  return {} if wanted.split is None else {'split': list(wanted.split), 'seed': wanted.seed}


def divide(where: str, parts: Sequence[Part], wanted: Wanted) -> Divided:
  """Divides what was found, by fractions, by a file, or as the data say.

  Args:
    where: what the parts were found in, for messages.
    parts: in the order in which classes and images shall stand.
    wanted: with fractions or a file, parts of all splits are pooled.

  Returns:
    Split -> its classes with all of their items.

  Raises:
    ValueError: there is nothing to divide by, a class would be in two splits, or a split empty.
  """
  if wanted.split is not None and wanted.split_file is not None:
    raise ValueError(f'{where}: expected --split or --split_file, got both')
  if wanted.split is not None:
    chosen = by_fractions(where, dict.fromkeys(part.name for part in parts), wanted.split,
                          wanted.seed)
  elif wanted.split_file is not None:
    chosen = read_file(wanted.split_file)
    check_disjoint(f'split_file {wanted.split_file}', chosen)
    _check_found(where, chosen, {part.name for part in parts}, wanted.split_file)
  else:
    chosen = _as_found(where, parts)
  items = collections.defaultdict(list)
  for part in parts:
    items[part.name] += part.items
  return {split: [(name, items[name]) for name in chosen[split]] for split in pools.SPLITS}


def _as_found(where: str, parts: Sequence[Part]) -> dict[str, list[str]]:
  """Takes the splits that the data have."""
  number = len({part.name for part in parts})
  if any(part.split is None for part in parts):
    raise ValueError(f'{where}: found {number} {"class" if number == 1 else "classes"}, but no '
                     f'splits train, val and test; divide the classes by {EXAMPLE}, or name those '
                     'of each split in a --split_file')
  chosen = {split: list(dict.fromkeys(part.name for part in parts if part.split == split))
            for split in pools.SPLITS}
  check_disjoint(where, chosen, f'; {EXAMPLE} pools the splits and divides the classes')
  return chosen


def check_disjoint(where: str, classes: Mapping[str, Sequence[str]], hint: str = '') -> None:
  """Checks that each split has a class, and each class one split.

  Args:
    where: what the classes were found in, for the message.
    classes: split -> names.
    hint: what else may be done, at the end of the message.

  Raises:
    ValueError: they are not so divided.
  """
  for split in pools.SPLITS:
    if not classes[split]:
      raise ValueError(f'{where}: expected at least one class in {split}, found none{hint}')
  counts = collections.Counter(name for split in pools.SPLITS for name in classes[split])
  double = sorted(name for name, count in counts.items() if count > 1)
  if double:
    raise ValueError(f'{where}: expected each class once in one split, found more than once: '
                     f'{_some(double)}{hint}')


def read_file(path: str | os.PathLike) -> dict[str, list[str]]:
  """Reads a split file.

  Args:
    path: JSON {"train": [class, ...], "val": [...], "test": [...]}.

  Returns:
    Split -> names.

  Raises:
    ValueError: it is not such a file.
  """
  regular.check(path, _MOST_BYTES)
  try:
    content = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as e:
    raise ValueError(f'split_file {path}: cannot be read as JSON ({e})') from e
  if not isinstance(content, dict) or not all(_is_names(content.get(s)) for s in pools.SPLITS):
    raise ValueError(f'split_file {path}: expected {{"train": [classes], "val": [...], '
                     '"test": [...]}')
  for split in pools.SPLITS:
    for name in content[split]:
      if not _is_name(name):
        raise ValueError(f'split_file {path}: expected names of classes, got {split} class '
                         f'{name[:100]!r}')
  return {split: content[split] for split in pools.SPLITS}


def _is_names(listed: object) -> bool:
  return isinstance(listed, list) and all(isinstance(name, str) for name in listed)


def _is_name(name: str) -> bool:
  """Whether a class may be called so: as a folder it lies within the tree."""
  return bool(name) and '\0' not in name and not name.startswith('/') and not (
      {'.', '..'} & set(name.split('/')))


def _check_found(where: str, chosen: Mapping[str, Sequence[str]], found: set[str],
                 path: str | os.PathLike) -> None:
  for split in pools.SPLITS:
    for name in chosen[split]:
      if name not in found:
        raise ValueError(f'split_file {path}: {split} class {name!r} not found in {where}')


def _some(names: Sequence[str]) -> str:
  return f"{', '.join(names[:_MOST_NAMED])}{', ...' if len(names) > _MOST_NAMED else ''}"
