"""A table of one's own images: a CSV file with a path and a class in each row."""
import csv
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mtl_jax import types
from mtl_jax.data import cache, columns, division, folder, image_files, pools, trees
from mtl_jax.untrusted import regular

VERSION = 1  # Counts up when the same table and images give other arrays.
_DELIMITERS = ',;\t'


class _Columns(NamedTuple):
  """Where things stand in a row."""
  image: int
  label: int
  split: int | None


def load(name: str, path: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         wanted: division.Wanted = division.AS_FOUND,
         named: columns.Named = columns.NONE_NAMED, skip_broken: bool = False) -> types.Dataset:
  """Loads the images that a CSV file lists.

  Args:
    name: name of the resulting data set.
    path: the file: a header, then rows, between `,`, `;` or tabs.
    data_dir: folder that paths in it begin at; that of the file if None.
    cache_dir: where decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, 84 if None, as in `folder.load`.
    wanted: how classes are divided; rows of all splits are pooled then.
    named: columns that are not called as in `columns`.
    skip_broken: leave out images that are missing or cannot be read, with a warning.

  Returns:
    The data set, as of `folder.load`.

  Raises:
    ValueError: the file, a column, a split or an image is missing or not as described.
  """
  size, root = folder.side(name, image_size), cache.directory(cache_dir)
  base = pathlib.Path(path).parent if data_dir is None else pathlib.Path(data_dir)
  if not base.is_dir():
    raise ValueError(f'{name}: expected data_dir to be a folder of images, got {data_dir}')
  parts = _merge(path, _rows(path, named, wanted))
  divided = division.divide(path, parts, wanted)
  missing: list[str] = []
  files = {split: [_class_files(base, class_name, paths, missing)
                   for class_name, paths in divided[split]] for split in pools.SPLITS}
  if missing and not skip_broken:
    raise ValueError(f'{path}: expected images in {base}, {len(missing)} of them not found: '
                     f'{trees.some(missing)}; give their folder as --data_dir, or pass '
                     '--skip_broken_images to leave such rows out')
  key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken,
         'files': image_files.fingerprint(files)}
  return cache.load_or_stream(
      name, key, lambda: image_files.decode_files(name, files, size, skip_broken), True, root)


def _rows(path: str, named: columns.Named,
          wanted: division.Wanted) -> Iterator[tuple[str, str | None, str]]:
  """Reads (path of an image, split, class) of each row."""
  regular.check(path)
  divided = wanted.split is not None or wanted.split_file is not None
  try:
    # utf-8-sig: tables saved by Excel begin with a mark.
    with open(path, newline='', encoding='utf-8-sig') as file:
      header = file.readline()
      delimiter = max(_DELIMITERS, key=header.count)
      file.seek(0)
      reader = csv.reader(file, delimiter=delimiter, strict=True)
      found = _find_columns(path, next(reader, []), named)
      for row in reader:
        if row:
          yield _read_row(f'{path}: line {reader.line_num}', row, found, divided)
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise ValueError(f'{path}: cannot be read as CSV ({e})') from e


def _find_columns(path: str, header: Sequence[str], named: columns.Named) -> _Columns:
  image = columns.find(path, header, columns.IMAGE, named.image, 'image')
  label = columns.find(path, header, columns.LABEL, named.label, 'label')
  split = columns.find_split(path, header)
  return _Columns(header.index(image), header.index(label),
                  None if split is None else header.index(split))


def _read_row(where: str, row: Sequence[str], found: _Columns,
              divided: bool) -> tuple[str, str | None, str]:
  last = max(index for index in found if index is not None)
  if len(row) <= last:
    raise ValueError(f'{where}: expected at least {last + 1} fields, found {len(row)}')
  image, label = row[found.image].strip(), row[found.label].strip()
  if not image or not label or '\0' in image:
    raise ValueError(f'{where}: expected the path of an image and its class, found {image!r} and '
                     f'{label!r}')
  if found.split is None or divided:
    return image, None, label
  split = division.ALIASES.get(row[found.split].strip().lower())
  if split is None:
    raise ValueError(f'{where}: expected a split among {", ".join(division.ALIASES)}, found '
                     f'{row[found.split]!r}')
  return image, split, label


def _merge(path: str, rows: Iterator[tuple[str, str | None, str]]) -> list[division.Part]:
  """Groups rows by split and class, classes sorted by name, rows in their order, each once."""
  grouped: dict[tuple[str | None, str], dict[str, None]] = {}
  classes: dict[str, str] = {}
  for image, split, label in rows:
    if classes.setdefault(image, label) != label:
      raise ValueError(f'{path}: expected each image in one class, found {image} in '
                       f'{classes[image]} and {label}')
    grouped.setdefault((split, label), {})[image] = None
  if not grouped:
    raise ValueError(f'{path}: expected a row for each image, found none')
  order = sorted(grouped, key=lambda key: (_as_number(key[1]), key[1], key[0] or ''))
  return [division.Part(split, label, list(grouped[split, label])) for split, label in order]


def _as_number(label: str) -> int:
  """Returns a whole number, so that class 10 follows class 9; else 0."""
  return int(label) if label.isascii() and label.isdigit() and len(label) < 19 else 0


def _class_files(base: pathlib.Path, name: str, paths: Sequence[str],
                 missing: list[str]) -> image_files.ClassFiles:
  """Makes a class of the files of its rows; adds to `missing` those that are not there."""
  found = []
  for path in paths:
    try:
      found.append((path, image_files.stamp(os.stat(base / path))))
    except (OSError, ValueError):
      missing.append(path)
      found.append((path, 'missing'))
  digest = cache.digest([os.path.abspath(base), found])
  return image_files.ClassFiles(name, str(base), list(paths), digest)
