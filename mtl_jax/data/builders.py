"""Builders in the style of TensorFlow Datasets (TFDS), which work without TensorFlow.

TFDS has no FC100 and no CIFAR-FS, and cannot prepare its own Omniglot without TensorFlow. Here an example is
one class with its images as raw bytes: so TFDS prepares 60,000 images of 32x32 in a second, where its image
features take 50. Importing TFDS takes a second as well, so import this module only to prepare something.
"""
import contextlib
import io
import math
import pathlib
import shutil
import warnings

import numpy as np
import tensorflow_datasets as tfds

from mtl_jax.data import cifar, omniglot, pools
from mtl_jax.untrusted import archives

_DOWNLOAD_ERRORS = (OSError, tfds.core.download.util.DownloadError,
                    tfds.core.download.download_manager.NonMatchingChecksumError)


class ClassBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """What the builders share: one example per class, in the order in which `read` gives the classes."""
  URL: str

  def __init__(self, *, source: pathlib.Path | None = None, **kwargs):
    """Reads `source`, an archive placed by hand; downloads `URL` if None."""
    self.source = source
    super().__init__(file_format='array_record', **kwargs)

  @staticmethod
  def read(source: pathlib.Path) -> dict[str, pools.Classes]:
    raise NotImplementedError

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=tfds.features.FeaturesDict({
        'name': tfds.features.Text(),
        'shape': tfds.features.Tensor(shape=(4,), dtype=np.int64),
        'images': tfds.features.Tensor(shape=(), dtype=np.object_),  # bytes of uint8 [n, H, W, C]
    }))

  def _split_generators(self, dl_manager):
    source = self.source or pathlib.Path(dl_manager.download(self.URL))  # Its checksum is known to TFDS.
    return {split: self._generate_examples(classes) for split, classes in self.read(source).items()}

  def _generate_examples(self, classes):
    for i, (name, images) in enumerate(classes):
      yield i, {'name': name, 'shape': np.array(images.shape), 'images': images.tobytes()}


class Fc100(ClassBuilder, skip_registration=True):
  """CIFAR-100 split by super-class."""
  VERSION = tfds.core.Version('1.0.0')
  URL, read = cifar.URL, staticmethod(cifar.read_fc100)


class CifarFs(ClassBuilder, skip_registration=True):
  """CIFAR-100 split by class."""
  VERSION = tfds.core.Version('1.0.0')
  URL, read = cifar.URL, staticmethod(cifar.read_cifar_fs)


class Omniglot(ClassBuilder, skip_registration=True):
  """Omniglot's background set split by alphabet, in its own size."""
  VERSION = tfds.core.Version('1.0.0')
  URL, read = omniglot.URL, staticmethod(omniglot.read)


BUILDERS = {'fc100': Fc100, 'cifar_fs': CifarFs, 'omniglot': Omniglot}


def prepare(name: str, source: pathlib.Path | None, data_dir: pathlib.Path,
            download_dir: pathlib.Path) -> dict[str, pools.Classes]:
  """Prepares a set once and reads it back.

  Args:
    name: Which of `BUILDERS`.
    source: The archive, or its extracted folder; None downloads it.
    data_dir: Where the prepared set is kept, one directory for each source.
    download_dir: Where downloads are kept.

  Returns:
    The classes of each split.

  Raises:
    ValueError: If the source is damaged, or cannot be downloaded.
  """
  if source is None:
    archives.check_reachable(BUILDERS[name].URL)
  for attempt in range(2):
    builder = BUILDERS[name](source=source, data_dir=data_dir)
    _download_and_prepare(builder, download_dir)
    try:
      return {split: _read_split(builder, split) for split in pools.SPLITS}
    except Exception as e:  # The reader is native code, with errors of its own for each kind of damage.
      if attempt:
        raise
      warnings.warn(f'{name}: prepared set {builder.data_dir} is damaged ({type(e).__name__}); '
                    'preparing it again', stacklevel=2)
      shutil.rmtree(builder.data_dir)


def _download_and_prepare(builder: ClassBuilder, download_dir: pathlib.Path) -> None:
  local = builder.source is not None
  tfds.display_progress_bar(not local)  # Preparing takes a moment, a download takes minutes.
  try:
    with contextlib.redirect_stdout(io.StringIO()) if local else contextlib.nullcontext():
      builder.download_and_prepare(download_dir=download_dir)
  except _DOWNLOAD_ERRORS as e:
    where = builder.source if local else f'download of {builder.URL}'
    raise ValueError(f"{builder.name}: {where}: {' '.join(str(e).split())}") from e
  finally:
    tfds.enable_progress_bar()


def _read_split(builder: ClassBuilder, split: str) -> pools.Classes:
  classes = []
  for example in builder.as_data_source(split=split):
    if len(example['images']) != math.prod(example['shape'].tolist()):
      raise ValueError(f"class {example['name']!r}: expected shape {example['shape'].tolist()}")
    images = np.frombuffer(example['images'], np.uint8).reshape(example['shape'])
    classes.append((example['name'].decode(), images))
  return classes
