"""Published sets that come as one archive: found or downloaded, prepared, resized, cached.

TensorFlow Datasets (TFDS) prepares them, without TensorFlow. It has no FC100 and no CIFAR-FS, and
its own Omniglot needs TensorFlow, hence the builders here. An example of theirs is one class with
its images as raw bytes: so TFDS prepares 60,000 images of 32x32 in a second, where its image
features take 50. Importing TFDS takes a second as well and happens only to prepare something.
"""
import contextlib
import importlib
import io
import math
import os
import pathlib
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import requests

from mtl_jax import types
from mtl_jax.data import cache, cifar, cifar_shared, omniglot, pools, transforms

BUILDER_VERSION = '1.0.0'  # of what TFDS keeps
CONNECT_SECONDS = 2.0


class Recipe(NamedTuple):
  """What distinguishes one archived set from another."""
  read: Callable[[pathlib.Path], dict[str, pools.Classes]]  # archive or folder -> classes by split
  url: str
  sources: tuple[str, ...]  # names of the archive and of its extracted folder, sought in data_dir
  version: int              # counts up when the same archive gives other arrays
  image_size: int           # pixels, when none is asked for
  flip: bool                # as in types.Dataset
  rotate_train: bool        # whether turned training classes are further classes
  # Finds the set in another form than the archive, in data_dir.
  shared: Callable[[str, pathlib.Path], cifar_shared.Shared | None] | None = None


RECIPES = {
    'cifar_fs': Recipe(cifar.read_cifar_fs, cifar.URL, cifar.SOURCES, version=1,
                       image_size=cifar.SIDE, flip=True, rotate_train=False,
                       shared=cifar_shared.find),
    'fc100': Recipe(cifar.read_fc100, cifar.URL, cifar.SOURCES, version=1,
                    image_size=cifar.SIDE, flip=True, rotate_train=False,
                    shared=cifar_shared.find),
    'omniglot': Recipe(omniglot.read, omniglot.URL, omniglot.SOURCES, version=1,
                       image_size=28, flip=False, rotate_train=True),
}


def load(name: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None,
         image_size: int | None = None) -> types.Dataset:
  """Loads one of `RECIPES`; see `mtl_jax.data.load`.

  Args:
    name: a key of `RECIPES`.
    data_dir, cache_dir, image_size: as there.
  """
  recipe = RECIPES[name]
  size = recipe.image_size if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  source = find(data_dir, recipe.sources)
  shared = None
  if source is None and data_dir is not None and recipe.shared is not None:
    shared = recipe.shared(name, pathlib.Path(data_dir))
  origin = {'version': recipe.version, 'sources': shared.fingerprint if shared else
            cache.fingerprint(_files_of(source)) if source else recipe.url}
  root = cache.directory(cache_dir)

  def build() -> types.Dataset:
    if shared is not None:
      return _resized(name, shared.read(), size)
    try:
      prepared = root / 'tfds' / cache.digest(origin)
      classes = prepare(name, source, prepared, root / 'downloads')
    except ConnectionError as e:
      others = ', nor its pickles or class folders,' if recipe.shared else ''
      raise ValueError(f"{name}: none of {', '.join(recipe.sources)}{others} in data_dir "
                       f'{data_dir}, and {e}; download it elsewhere, put it in a folder and pass '
                       'that as data_dir') from e
    return _resized(name, classes, size)

  return cache.load_or_build(name, {**origin, 'image_size': size}, build, root)


def _resized(name: str, classes: dict[str, pools.Classes], size: int) -> types.Dataset:
  resized = {split: [(c, pools.resize(images, size)) for c, images in classes[split]]
             for split in pools.SPLITS}
  if RECIPES[name].rotate_train:
    resized['train'] = transforms.with_rotations(resized['train'])
  return pools.from_classes(name, resized, RECIPES[name].flip)


def find(data_dir: str | os.PathLike | None, names: Sequence[str]) -> pathlib.Path | None:
  """Returns the first of `names` (files or folders) that lies in `data_dir`, or is it, or None.

  Args:
    data_dir: folder to look in; None finds nothing.
    names: in the order of preference.

  Raises:
    ValueError: `data_dir` is given and is not a folder.
  """
  if data_dir is None:
    return None
  root = pathlib.Path(data_dir)
  if not root.is_dir():
    raise ValueError(f"data_dir {root}: expected a folder, found "
                     f"{'a file' if root.exists() else 'nothing'}")
  within = next((root / name for name in names if (root / name).exists()), None)
  return root if within is None and root.absolute().name in names else within


def _files_of(source: pathlib.Path) -> list[pathlib.Path]:
  """Lists the archive itself, or all files of an extracted folder."""
  return sorted(p for p in source.rglob('*') if p.is_file()) if source.is_dir() else [source]


def prepare(name: str, source: pathlib.Path | None, data_dir: pathlib.Path,
            download_dir: pathlib.Path) -> dict[str, pools.Classes]:
  """Prepares a set once and reads it back.

  Args:
    name: which of `RECIPES`.
    source: the archive, or its extracted folder; None downloads it.
    data_dir: where the prepared set is kept, one directory for each source.
    download_dir: where downloads are kept.

  Returns:
    The classes of each split.

  Raises:
    ValueError: the source is damaged, or its download fails.
    ConnectionError: there is no source, and the address of the download cannot be reached.
  """
  if source is None:
    check_reachable(RECIPES[name].url)
  for attempt in range(2):
    builder = _make_builder(name, source, data_dir)
    _download_and_prepare(builder, source, download_dir)
    try:
      return {split: _read_split(builder, split) for split in pools.SPLITS}
    except Exception as e:  # The reader is native code, with errors of its own for each damage.
      if attempt:
        raise
      warnings.warn(f'{name}: prepared set {builder.data_dir} is damaged ({type(e).__name__}); '
                    'preparing it again', stacklevel=2)
      shutil.rmtree(builder.data_dir)
  raise AssertionError('the second attempt returns or raises')


def _make_builder(name: str, source: pathlib.Path | None, data_dir: pathlib.Path) -> Any:
  """Makes a TFDS builder, with one example per class, in the order in which they are read."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import file_adapters, writer
  recipe, file_format = RECIPES[name], _file_format()

  class Writer(writer.ExampleWriter):
    # From an iterator, TFDS 4.9.10 writes the first hundred examples to Parquet and skips others.
    def write(self, path, examples):
      return super().write(path, list(examples))

  class ClassBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(BUILDER_VERSION)

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, disable_shuffling=True, features=tfds.features.FeaturesDict({
              'name': tfds.features.Text(),
              'shape': tfds.features.Tensor(shape=(4,), dtype=np.int64),
              'images': tfds.features.Tensor(shape=(), dtype=np.object_),  # of uint8, as bytes
          }))

    def _split_generators(self, dl_manager):
      found = source or pathlib.Path(dl_manager.download(recipe.url))  # TFDS knows its checksum.
      return {split: self._generate_examples(c) for split, c in recipe.read(found).items()}

    def _generate_examples(self, classes):
      for i, (c, images) in enumerate(classes):
        yield i, {'name': c, 'shape': np.array(images.shape), 'images': images.tobytes()}

    def _example_writer(self):
      return Writer(file_adapters.FileFormat(file_format))

  ClassBuilder.name = name
  # TFDS refuses a directory that holds the same set in another format.
  own = data_dir if file_format == 'array_record' else data_dir / file_format
  return ClassBuilder(data_dir=own, file_format=file_format)


def _file_format() -> str:
  """Returns the format in which TFDS is to keep examples: ArrayRecord, or else Parquet.

  Both need no TensorFlow. ArrayRecord has checksums, but no package for Windows.
  """
  try:
    importlib.import_module('array_record.python.array_record_module')
  except ImportError:
    return 'parquet'
  return 'array_record'


def _download_and_prepare(builder: Any, source: pathlib.Path | None,
                          download_dir: pathlib.Path) -> None:
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import download_manager, util
  tfds.display_progress_bar(source is None)  # Preparing takes a moment, a download takes minutes.
  try:
    with contextlib.redirect_stdout(io.StringIO()) if source else contextlib.nullcontext():
      builder.download_and_prepare(download_dir=download_dir)
  except (OSError, util.DownloadError, download_manager.NonMatchingChecksumError) as e:
    where = source or f'download of {RECIPES[builder.name].url}'
    raise ValueError(f"{builder.name}: {where}: {' '.join(str(e).split())}") from e
  finally:
    tfds.enable_progress_bar()


def _read_split(builder: Any, split: str) -> pools.Classes:
  classes = []
  for example in builder.as_data_source(split=split):
    if len(example['images']) != math.prod(example['shape'].tolist()):
      raise ValueError(f"class {example['name']!r}: expected shape {example['shape'].tolist()}")
    images = np.frombuffer(example['images'], np.uint8).reshape(example['shape'])
    classes.append((example['name'].decode(), images))
  if len(classes) != builder.info.splits[split].num_examples:
    raise ValueError(f'expected {builder.info.splits[split].num_examples} classes in {split}, '
                     f'found {len(classes)}')
  return classes


def check_reachable(url: str) -> None:
  """Fails within two seconds where a download would retry for minutes.

  Args:
    url: of the download.

  Raises:
    ConnectionError: it does not answer.
  """
  problems = ['no answer']

  def ask():
    try:
      with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
        problems[:] = [] if response.ok else [f'HTTP {response.status_code}']
    except requests.RequestException as e:
      problems[:] = [type(e).__name__]

  # A thread, since the look-up of a host's name has no timeout.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(CONNECT_SECONDS)
  if problems:
    raise ConnectionError(f'{url} cannot be reached ({problems[0]})')
