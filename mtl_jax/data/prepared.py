"""Data sets that TensorFlow Datasets (TFDS) has prepared on this machine; nothing is downloaded.

What it wrote is read as it stands, without the code that wrote it and without TensorFlow.
"""
import io
import json
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

from mtl_jax import types
from mtl_jax.data import cache, columns, division, encoded, folder, trees

VERSION = 1  # Counts up when the same files give other arrays.
_NAME = re.compile(r'(?P<set>\w[\w.-]*(?:/\w[\w.+-]*)?)(?::(?P<version>\d+\.\d+\.\d+))?')
# In features.json: names of Python classes, whose modules TFDS would import, whatever they are.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type', 'proto_cls')
_RECORD_HEADER = struct.Struct('<Q4x')  # of a TFRecord: length, checksum of that
_RECORD_FOOTER = 4                      # bytes: checksum of the record


def load(name: str, asked: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         wanted: division.Wanted = division.AS_FOUND,
         named: columns.Named = columns.NONE_NAMED, skip_broken: bool = False) -> types.Dataset:
  """Loads the images and labels of a set that TFDS has prepared.

  Args:
    name: name of the resulting data set.
    asked: name of the set: `NAME`, `NAME/CONFIG`, with `:VERSION` where it is not the newest.
    data_dir: where TFDS keeps its sets; where it does by itself if None.
    cache_dir: where decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, 84 if None, as in `folder.load`.
    wanted: how classes are divided; examples of all splits are pooled then.
    named: features, where there are several of images or labels.
    skip_broken: leave out images that cannot be read, with a warning.

  Returns:
    The data set, as of `folder.load`.

  Raises:
    ValueError: the set is not prepared, or its files, features or splits are not as described.
  """
  size, root = folder.side(name, image_size), cache.directory(cache_dir)
  place = _find(asked, data_dir)
  builder = _open(place)
  image, label = _features(asked, builder.info.features, named)
  key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken,
         'features': [image, label], 'divided': division.key(wanted),
         'files': cache.fingerprint(path for path in place.iterdir() if path.is_file())}

  def divide() -> division.Divided:
    parts, unlabelled = _parts(builder, image, label)
    divided = division.divide(f'tfds:{asked}', parts, wanted)
    trees.report({}, [f'{unlabelled} examples without a label'] * bool(unlabelled))
    return divided

  def images() -> Iterator[encoded.Encoded]:
    for index, (split, example) in enumerate(_examples(builder, image)):
      yield encoded.Encoded(index, f'{place}: {split} example {index}', example[image])

  return encoded.load(name, key, divide, images, size, skip_broken, root)


def _find(asked: str, data_dir: str | os.PathLike | None) -> pathlib.Path:
  """Finds the folder of the set, of several versions the newest."""
  match = _NAME.fullmatch(asked)
  if match is None or '..' in asked:
    raise ValueError(f'expected tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:1.0.0, got tfds:{asked}')
  root = pathlib.Path(os.path.expanduser(data_dir or os.environ.get(
      'TFDS_DATA_DIR', os.path.join('~', 'tensorflow_datasets'))))
  base = root / match['set']
  found = [path.parent for pattern in ('*/features.json', '*/*/features.json')
           for path in base.glob(pattern) if match['version'] in (None, path.parent.name)]
  if not found:
    raise ValueError(
        f'tfds:{asked}: not prepared in {root}; prepare it once, by python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder('{asked}', data_dir='{root}', "
        "file_format='array_record').download_and_prepare()\", or name its folder as --data_dir")
  if len({path.parent for path in found}) > 1:
    configs = sorted({path.parent.name for path in found})
    raise ValueError(f'tfds:{asked}: expected one configuration in {base}, found several: '
                     f'{trees.some(configs)}; name one, as in tfds:{match["set"]}/{configs[0]}')
  return max(found, key=lambda path: [int(part) if part.isdigit() else -1
                                      for part in path.name.split('.')])


def _open(place: pathlib.Path) -> Any:
  """Returns a builder that only reads, after a look at what it would import."""
  import tensorflow_datasets as tfds  # Here: it takes a second.
  try:
    content = json.loads((place / 'features.json').read_text(encoding='utf-8'))
    for name in _class_names(content):
      if not name.startswith('tensorflow_datasets.'):
        raise ValueError(f'features.json names {name!r}, which is not of tensorflow_datasets; '
                         'nothing of it was run')
    return tfds.builder_from_directory(place)
  except Exception as e:  # Damaged files make the reader raise nearly anything.
    raise ValueError(f'{place}: expected a set that tensorflow-datasets has prepared '
                     f'({_reason(e)})') from e


def _class_names(content: Any) -> Iterator[str]:
  """Iterates over all names of Python classes in features.json."""
  if isinstance(content, dict):
    for key, value in content.items():
      if key in _CLASS_KEYS and isinstance(value, str):
        yield value
      else:
        yield from _class_names(value)
  elif isinstance(content, list):
    for value in content:
      yield from _class_names(value)


def _features(asked: str, features: Any, named: columns.Named) -> tuple[str, str]:
  """Finds the features of images and of labels, by their types."""
  import tensorflow_datasets as tfds
  found = []
  for kind, wanted, given, what in (
      (tfds.features.Image, columns.IMAGE, named.image, 'image'),
      (tfds.features.ClassLabel, columns.LABEL, named.label, 'label')):
    possible = [name for name, feature in features.items() if isinstance(feature, kind)]
    if given is None and len(possible) == 1:
      found.append(possible[0])
    else:
      found.append(columns.find(f'tfds:{asked}', possible, wanted, given, what))
  return found[0], found[1]


def _parts(builder: Any, image: str, label: str) -> tuple[list[division.Part], int]:
  """Groups examples by class and split, and counts those without a label."""
  names = builder.info.features[label].names
  grouped: dict[tuple[int, str], list[int]] = {}
  unlabelled = 0
  for index, (split, example) in enumerate(_examples(builder, image)):
    number = int(example[label])
    if 0 <= number < len(names):
      grouped.setdefault((number, split), []).append(index)
    else:
      unlabelled += 1
  return [division.Part(division.ALIASES.get(split.lower()), names[number], indices)
          for (number, split), indices in sorted(grouped.items())], unlabelled


def _examples(builder: Any, image: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Iterates over (split, example) of all splits; images as they are encoded."""
  import tensorflow_datasets as tfds
  decoders = {image: tfds.decode.SkipDecoding()}
  for split in sorted(builder.info.splits):
    try:
      if builder.info.file_format.value == 'tfrecord':
        for path in builder.info.splits[split].filepaths:
          for record in _records(pathlib.Path(path)):
            yield split, builder.info.features.deserialize_example_np(record, decoders=decoders)
      else:
        source = builder.as_data_source(split=split, decoders=decoders)
        for index in range(len(source)):
          yield split, source[index]
    except Exception as e:  # as in `_open`
      raise ValueError(f'{builder.data_dir}: split {split} cannot be read ({_reason(e)})') from e


def _records(path: pathlib.Path) -> Iterator[bytes]:
  """Reads the records of a TFRecord file, which TFDS alone reads only with TensorFlow."""
  left = path.stat().st_size
  with path.open('rb') as file:
    while header := file.read(_RECORD_HEADER.size):
      length = _RECORD_HEADER.unpack(header)[0] if len(header) == _RECORD_HEADER.size else left
      left -= _RECORD_HEADER.size + length + _RECORD_FOOTER
      if left < 0:
        raise ValueError(f'{path.name} ends within a record')
      yield file.read(length)
      file.seek(_RECORD_FOOTER, io.SEEK_CUR)


def _reason(error: Exception) -> str:
  return ' '.join(str(error).split())[:200] or type(error).__name__
