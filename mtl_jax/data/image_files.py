"""Image files in class folders: listing them, decoding them, and telling when one has changed."""
import concurrent.futures
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mtl_jax.data import cache, decoding_room, image_formats, pools
from mtl_jax.untrusted import regular

_CALLED = {'val': ('val', 'validation', 'valid')}  # in the repositories of the field
_LEAST_DRAFT = 2  # times the final size: what is left to resize hides how it was decoded
SKIP_HINT = 'replace it, or pass --skip_broken_images to leave such images out'


class ClassFiles(NamedTuple):
  """The image files of a class."""
  name: str
  folder: str
  files: list[str]  # names, sorted
  fingerprint: str  # differs when a file was added, removed or replaced


def place(root: pathlib.Path, file: str, split: str) -> pathlib.Path:
  """Returns where the file or folder of a split lies, by whatever name of that split is there.

  Args:
    root: folder of the data set.
    file: its name, with {} for that of the split.
    split: one of `pools.SPLITS`.
  """
  names = _CALLED.get(split, (split,))
  found = (root / file.format(name) for name in names if (root / file.format(name)).exists())
  return next(found, root / file.format(split))


def split_folders(tree: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Lists the class folders in `tree/{train,val,test}`, sorted by name.

  Args:
    tree: folder of the data set.

  Returns:
    Split -> paths; val may be called validation too.

  Raises:
    ValueError: train, val or test is missing (named).
  """
  places = {split: place(tree, '{}', split) for split in pools.SPLITS}
  missing = [split for split in pools.SPLITS if not places[split].is_dir()]
  if missing:
    raise ValueError(f'data_dir {tree}: expected the folders train, val and test (or a '
                     f"split_file), missing {', '.join(missing)}")
  return {split: sorted(path for path in places[split].iterdir()
                        if path.is_dir() and not path.name.startswith('.'))
          for split in pools.SPLITS}


def scan(folder: pathlib.Path) -> dict[str, str]:
  """Lists the image files in a folder, sorted by name.

  A folder of 60,000 takes half a second.

  Args:
    folder: where the files lie; folders in it are not looked into.

  Returns:
    File name -> size and time of change.
  """
  found = {}
  with os.scandir(folder) as entries:
    for file in entries:
      if image_formats.is_image(file.name) and file.is_file():
        found[file.name] = stamp(file.stat())
  return dict(sorted(found.items()))


def stamp(stat: os.stat_result) -> str:
  """Returns size and time of change of a file.

  Args:
    stat: of the file.
  """
  return f'{stat.st_size} {stat.st_mtime_ns}'


def class_files(folder: pathlib.Path) -> ClassFiles:
  """Lists the image files of a class folder.

  Args:
    folder: whose name is that of the class.

  Raises:
    ValueError: there are none.
  """
  found = scan(folder)
  if not found:
    raise ValueError(f"class folder {folder}: expected images ({' '.join(image_formats.ENDINGS)}), "
                     'found none')
  return ClassFiles(folder.name, str(folder), list(found), folder_digest(folder, found))


def folder_digest(folder: pathlib.Path, found: Mapping[str, str]) -> str:
  """Computes a digest that differs when an image of a folder was added, removed or replaced.

  Args:
    folder: where the images lie.
    found: of `scan`.
  """
  return cache.digest([os.path.abspath(folder), found])


def fingerprint(files: Mapping[str, Sequence[ClassFiles]]) -> str:
  """Computes a digest that differs when any file or class of any split does.

  Args:
    files: split -> its classes.
  """
  return cache.digest({split: [(c.name, c.fingerprint) for c in classes]
                       for split, classes in files.items()})


def decode_files(name: str, files: Mapping[str, Sequence[ClassFiles]], size: int,
                 skip_broken: bool) -> pools.Streams:
  """Prepares the decoding of image files, class after class; see `decode`.

  Args:
    name: name of the data set, for warnings.
    files: split -> its classes.
    size: side of the results in pixels.
    skip_broken: as in `decode`.

  Returns:
    Split -> iterator over (name of a class, its images uint8 [n, size, size, 3]).
  """
  def decode_split(split: str) -> Iterator[tuple[str, np.ndarray]]:
    paths = ((c.name, [os.path.join(c.folder, file) for file in c.files]) for c in files[split])
    return decode(name, paths, lambda path: read_image(path, size), skip_broken)
  return {split: decode_split(split) for split in pools.SPLITS}


def decode(name: str, classes: Iterable[tuple[str, Sequence[Any]]],
           read: Callable[[Any], np.ndarray], skip_broken: bool
           ) -> Iterator[tuple[str, np.ndarray]]:
  """Decodes class after class.

  Args:
    name: name of the data set, for warnings.
    classes: name of each class, and what to pass to `read` for each of its images.
    read: returns an image, uint8 [H, W, C]; raises a ValueError that names it if it is broken.
    skip_broken: leave such images out, with a warning at the end.

  Yields:
    Name of a class, and its images.

  Raises:
    ValueError: an image is broken, or all images of a class are.
  """
  broken: list[str] = []
  # Threads suffice: Pillow decodes without holding Python's lock.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for class_name, items in classes:
      results = pool.map(lambda item: attempt(read, item), items)
      images = list(_sound(results, skip_broken, broken))
      if not images:
        raise ValueError(f'{name}: class {class_name}: all of its {len(items)} images are broken, '
                         f'such as {broken[-1]}')
      yield class_name, np.stack(images)
  if broken:
    warnings.warn(f'{name}: left out {len(broken)} broken images, the first: {broken[0]}',
                  stacklevel=2)


def attempt(read: Callable[[Any], np.ndarray], item: Any) -> np.ndarray | ValueError:
  """Returns an image, or the error that says why it is broken.

  Args:
    read: as in `decode`.
    item: what it is passed.

  Raises:
    MissingReader: the image may well be sound.
  """
  try:
    return read(item)
  except image_formats.MissingReader:  # Left out, it would stay so in the cache once installed.
    raise
  except ValueError as e:
    return e


def _sound(results: Iterable[np.ndarray | ValueError], skip_broken: bool,
           broken: list[str]) -> Iterator[np.ndarray]:
  """Yields the images that were read, and adds to `broken` what was not."""
  for result in results:
    if not isinstance(result, ValueError):
      yield result
    elif skip_broken:
      broken.append(str(result))
    else:
      raise ValueError(f'{result}; {SKIP_HINT}') from result


def read_image(path: str | os.PathLike, size: int) -> np.ndarray:
  """Reads an image file, see `decode_image`.

  Args:
    path: of the file.
    size: side of the result in pixels.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: the file is missing, empty or broken.
    MissingReader: as in `decode_image`.
  """
  regular.check(path)
  if os.path.exists(path) and os.path.getsize(path) == 0:
    raise ValueError(f'{path}: empty file (0 bytes)')
  return decode_image(path, str(path), size)


def decode_image(file: str | os.PathLike | BinaryIO, name: str, size: int) -> np.ndarray:
  """Decodes an image, upright: the short side is resized to `size`, then the centre is cut out.

  A JPEG image of at least four times that size is decoded at 1/2, 1/4 or 1/8 of its size, and still
  at twice `size` or more: a photo of 12 megapixels takes a third of the time then.

  Args:
    file: path or open file.
    name: what to call it if it is broken.
    size: side of the result in pixels.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: it is broken.
    MissingReader: it takes a package that is not installed; a ValueError as well.
    MemoryError: it may well be sound.
  """
  try:
    with image_formats.open_image(file, name) as image:
      image.draft(None, (_LEAST_DRAFT * size, _LEAST_DRAFT * size))  # of JPEG alone
      with decoding_room.SHARED.taken(image.width * image.height):
        fitted = _fitted(image, size)
        image.close()  # gives its memory back while the room is still taken
        return fitted
  except (image_formats.MissingReader, MemoryError):
    raise
  except Exception as e:  # Damaged files make decoders raise nearly anything.
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise ValueError(f'{name}: broken image ({reason})') from e


def _fitted(image: Image.Image, size: int) -> np.ndarray:
  """The middle of an image that was opened: uint8 [size, size, 3]."""
  image.load()
  plain = image_formats.to_plain(image)
  fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR)
  return np.asarray(fitted.convert('RGB'))  # afterwards, as grey pixels take a quarter
