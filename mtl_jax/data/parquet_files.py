"""Images in Parquet files, as the Hugging Face hub keeps data sets: one row, one image, one label.

Classes are called as the file's own metadata have it; else by their labels.
"""
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mtl_jax import types
from mtl_jax.data import cache, columns, division, encoded, folder, trees

VERSION = 1  # Counts up when the same files give other arrays.
_IMAGE, _LABEL = (*columns.IMAGE, 'img'), (*columns.LABEL, 'labels')
_ROWS_AT_ONCE = 64


class _Shard(NamedTuple):
  """A file, and what its rows are."""
  path: pathlib.Path
  split: str | None
  file: Any          # pyarrow.parquet.ParquetFile
  start: int         # index of its first row


def load(name: str, path: str, cache_dir: str | os.PathLike | None = None,
         image_size: int | None = None, wanted: division.Wanted = division.AS_FOUND,
         named: columns.Named = columns.NONE_NAMED, skip_broken: bool = False) -> types.Dataset:
  """Loads images from a Parquet file, or from all of those in a folder and below it.

  Args:
    name: name of the resulting data set.
    path: the file or folder; of a file such as `train-00000-of-00002.parquet`, or in a folder such
      as `train`, the split is that.
    cache_dir: where decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, 84 if None, as in `folder.load`.
    wanted: how classes are divided; rows of all splits are pooled then.
    named: columns, where there are several of images or labels.
    skip_broken: leave out images that cannot be read, with a warning.

  Returns:
    The data set, as of `folder.load`.

  Raises:
    ValueError: a file, a column, a split or an image is missing or not as described.
  """
  size, root = folder.side(name, image_size), cache.directory(cache_dir)
  shards = _open(pathlib.Path(path))
  try:
    schema = shards[0].file.schema_arrow
    image, label = _image_column(path, schema, named), _label_column(path, schema, named)
    key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken,
           'columns': [image, label], 'files': cache.fingerprint(s.path for s in shards),
           'divided': division.key(wanted)}

    def divide() -> division.Divided:
      parts, unlabelled = _parts(shards, label, _class_names(schema, label))
      divided = division.divide(path, parts, wanted)
      trees.report({}, [f'{unlabelled} rows without a label'] * bool(unlabelled))
      return divided

    return encoded.load(name, key, divide, lambda: _images(shards, image), size, skip_broken, root)
  finally:
    for shard in shards:
      shard.file.close()


def _open(path: pathlib.Path) -> list[_Shard]:
  """Opens the files; reads no row."""
  try:
    from pyarrow import parquet
  except ImportError as e:
    raise ValueError(f'{path}: Parquet files need pyarrow: pip install pyarrow ({e})') from e
  paths = sorted(path.rglob('*.parquet')) if path.is_dir() else [path]
  if not paths:
    raise ValueError(f'{path}: expected Parquet files (*.parquet), found none')
  shards, start = [], 0
  for each in paths:
    try:
      file = parquet.ParquetFile(each)
    except Exception as e:  # Damaged files make the reader raise nearly anything.
      raise ValueError(f'{each}: expected a whole Parquet file ({_reason(e)})') from e
    shards.append(_Shard(each, _split_of(each), file, start))
    start += file.metadata.num_rows
    if not file.schema_arrow.equals(shards[0].file.schema_arrow):
      raise ValueError(f'{each}: expected the columns of {shards[0].path}, found others; name one '
                       'folder of files that belong together')
  return shards


def _split_of(path: pathlib.Path) -> str | None:
  """Returns the split that a file is called by, or its folder."""
  for text in (re.split(r'[-_.]', path.stem)[0], path.parent.name):
    if (split := division.ALIASES.get(text.lower())) is not None:
      return split
  return None


def _image_column(where: str, schema: Any, named: columns.Named) -> str:
  """Finds the column of image files: binary, or a struct with `bytes`, as the hub has them."""
  import pyarrow as pa

  def holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
      index = kind.get_field_index('bytes')
      return index >= 0 and holds_bytes(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

  possible = [field.name for field in schema if holds_bytes(field.type)]
  if named.image is None and len(possible) == 1:
    return possible[0]
  if not possible:
    raise ValueError(f'{where}: expected a column of image files (bytes), found none in the '
                     f'columns {", ".join(schema.names)}')
  return columns.find(where, possible, _IMAGE, named.image, 'image')


def _label_column(where: str, schema: Any, named: columns.Named) -> str:
  """Finds the column of labels: integers or strings; by its name, or by the file's metadata."""
  import pyarrow as pa

  def is_label(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
      kind = kind.value_type
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)

  possible = [field.name for field in schema if is_label(field.type)]
  with_names = [column for column in possible if _class_names(schema, column) is not None]
  if named.label is None and not columns.matching(possible, _LABEL) and len(with_names) == 1:
    return with_names[0]
  return columns.find(where, possible, _LABEL, named.label, 'label')


def _class_names(schema: Any, column: str) -> list[str] | None:
  """Reads what the classes of a column are called from the hub's metadata; None without any."""
  try:
    content = json.loads((schema.metadata or {})[b'huggingface'])
    names = content['info']['features'][column]['names']
  except (KeyError, TypeError, ValueError, RecursionError):
    return None
  return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _parts(shards: Sequence[_Shard], column: str,
           names: list[str] | None) -> tuple[list[division.Part], int]:
  """Groups rows by class and split; and counts those without a label."""
  grouped: dict[tuple[Any, str | None], list[int]] = {}
  unlabelled = 0
  for shard in shards:
    for row, label in enumerate(_labels(shard, column)):
      if label is None or (names is not None and label == -1):  # so the hub marks the unknown
        unlabelled += 1
      elif names is not None and isinstance(label, int) and not 0 <= label < len(names):
        raise ValueError(f'{shard.path}: row {row}: expected a label below {len(names)}, the '
                         f'number of class names, found {label}')
      else:
        grouped.setdefault((label, shard.split), []).append(shard.start + row)

  def name_of(label: Any) -> str:
    return names[label] if names is not None and isinstance(label, int) else str(label)

  order = sorted(grouped, key=lambda key: (key[0], key[1] or ''))
  return [division.Part(split, name_of(label), grouped[label, split])
          for label, split in order], unlabelled


def _labels(shard: _Shard, column: str) -> list:
  try:
    return shard.file.read(columns=[column]).column(column).to_pylist()
  except Exception as e:  # as in `_open`
    raise ValueError(f'{shard.path}: column {column} cannot be read ({_reason(e)})') from e


def _images(shards: Sequence[_Shard], column: str) -> Iterator[encoded.Encoded]:
  """Reads the image files of all rows, some rows at a time."""
  for shard in shards:
    row = 0
    try:
      # Of a struct this reads all leaves, of which only `bytes` is large.
      for batch in shard.file.iter_batches(_ROWS_AT_ONCE, columns=[column]):
        for value in batch.column(0).to_pylist():
          content = value.get('bytes') if isinstance(value, dict) else value
          yield encoded.Encoded(shard.start + row, f'{shard.path}: row {row}', content)
          row += 1
    except Exception as e:  # as in `_open`
      raise ValueError(f'{shard.path}: rows from {row} on cannot be read ({_reason(e)})') from e


def _reason(error: Exception) -> str:
  return ' '.join(str(error).split())[:200] or type(error).__name__
