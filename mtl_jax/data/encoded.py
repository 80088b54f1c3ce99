"""Encoded images in the order of a file, whose classes are mixed: decoded one class after another.

They are decoded in the order in which they are read, into a scratch file, where each has its place
by class. So memory holds some images at a time, however large the set.
"""
import concurrent.futures
import contextlib
import io
import itertools
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mtl_jax import types
from mtl_jax.data import cache, division, image_files, pools

_AT_ONCE = 64  # images that wait, encoded, to be decoded


class Encoded(NamedTuple):
  """An image as it lies in a file."""
  number: int            # of the image, counted over the whole set
  name: str              # what to call it if it is broken
  content: bytes | None  # of an image file; None where it is missing


def load(name: str, key: dict[str, Any], divide: Callable[[], division.Divided],
         images: Callable[[], Iterable[Encoded]], size: int, skip_broken: bool,
         root: pathlib.Path) -> types.Dataset:
  """Reads a data set from the cache, or decodes it into the cache.

  Args:
    name: of the data set and its cached entry.
    key: as of `cache.load_or_stream`: all that `divide` and `images` depend on.
    divide: returns split -> classes, with the numbers of their images; called where the cache does
      not have them.
    images: called to read them, in any order; those of no class are passed over.
    size: side of the results in pixels.
    skip_broken: leave out images that cannot be read, with a warning.
    root: of the cache; the scratch file lies there as well, and is gone at the end.

  Returns:
    The data set, images uint8 [n, size, size, 3], mapped from the cache.

  Raises:
    ValueError: an image is broken, or the cache cannot be written.
  """
  with contextlib.ExitStack() as stack:
    def read() -> pools.Streams:
      divided = divide()
      scratch = stack.enter_context(tempfile.TemporaryFile(dir=root))
      sound = _decode(name, divided, images(), size, skip_broken, scratch)
      return _classes(name, divided, sound, size, scratch)

    return cache.load_or_stream(name, key, read, True, root)


def _decode(name: str, divided: division.Divided, images: Iterable[Encoded], size: int,
            skip_broken: bool, scratch: BinaryIO) -> np.ndarray:
  """Writes each image to its place by class; returns which places hold one: bool [n]."""
  order = [number for split in pools.SPLITS for _, numbers in divided[split] for number in numbers]
  places = {number: place for place, number in enumerate(order)}
  sound = np.zeros(len(order), bool)
  broken: list[str] = []
  wanted = (image for image in images if image.number in places)
  for image, decoded in _in_threads(wanted, size):
    if isinstance(decoded, np.ndarray):
      scratch.seek(places[image.number] * decoded.nbytes)
      scratch.write(decoded.tobytes())
      sound[places[image.number]] = True
    elif skip_broken:
      broken.append(str(decoded))
    else:
      raise ValueError(f'{decoded}; {image_files.SKIP_HINT}') from decoded
  if broken:
    warnings.warn(f'{name}: left out {len(broken)} broken images, the first: {broken[0]}',
                  stacklevel=2)
  return sound


def _in_threads(images: Iterator[Encoded], size: int
                ) -> Iterator[tuple[Encoded, np.ndarray | ValueError]]:
  with concurrent.futures.ThreadPoolExecutor() as pool:
    while some := list(itertools.islice(images, _AT_ONCE)):
      yield from zip(some, pool.map(lambda image: image_files.attempt(_read, (image, size)), some),
                     strict=True)


def _read(item: tuple[Encoded, int]) -> np.ndarray:
  image, size = item
  if not image.content:
    raise ValueError(f'{image.name}: no image in it')
  return image_files.decode_image(io.BytesIO(image.content), image.name, size)


def _classes(name: str, divided: division.Divided, sound: np.ndarray, size: int,
             scratch: BinaryIO) -> pools.Streams:
  """Reads the classes of each split back."""
  starts, start = {}, 0
  for split in pools.SPLITS:
    for class_name, numbers in divided[split]:
      starts[class_name] = start
      start += len(numbers)

  def read_split(split: str) -> Iterator[tuple[str, np.ndarray]]:
    for class_name, numbers in divided[split]:
      first, count = starts[class_name], len(numbers)
      kept = sound[first:first + count]
      if not kept.any():
        raise ValueError(f'{name}: class {class_name}: all of its {count} images are broken')
      scratch.seek(first * size * size * 3)
      # A broken image at the end leaves the file short.
      content = scratch.read(count * size * size * 3).ljust(count * size * size * 3, b'\0')
      yield class_name, np.frombuffer(content, np.uint8).reshape(count, size, size, 3)[kept]

  return {split: read_split(split) for split in pools.SPLITS}
