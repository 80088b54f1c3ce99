"""Photos as they lie in a folder, without classes or splits: found, and decoded some at a time."""
import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from mtl_jax.data import image_files, image_formats, trees


def find(places: Sequence[str | os.PathLike]) -> list[str]:
  """Lists image files, in folders and the folders below them, sorted by path.

  Says which other files lie there.

  Args:
    places: folders or files; a file is taken whatever its ending.

  Returns:
    Their paths.

  Raises:
    FileNotFoundError: a place does not exist.
    ValueError: a folder holds no image.
  """
  found: list[str] = []
  left_out: collections.Counter[str] = collections.Counter()
  for place in map(pathlib.Path, places):
    if place.is_dir():
      tree = trees.walk(place)
      inside = sorted(str(place / folder / name) for folder, names in tree.folders.items()
                      for name in names)
      if not inside:
        raise ValueError(f'{place}: expected images ({" ".join(image_formats.ENDINGS)}), found '
                         'none')
      found += inside
      left_out += tree.left_out
    elif place.exists():
      found.append(str(place))
    else:
      raise FileNotFoundError(f'{place} does not exist: expected a folder of images, or an image')
  trees.report(left_out)
  return found


def decode(paths: Sequence[str], size: int, per_batch: int) -> Iterator[np.ndarray]:
  """Decodes images in batches; the next batch is decoded while one is used.

  Args:
    paths: of image files.
    size: side of the results in pixels.
    per_batch: images of a batch; the last one may have fewer.

  Yields:
    uint8 [n, size, size, 3].

  Raises:
    ValueError: an image is broken.
  """
  batches = [paths[start:start + per_batch] for start in range(0, len(paths), per_batch)]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    def start(batch):
      return [pool.submit(image_files.read_image, path, size) for path in batch]

    waiting = start(batches[0]) if batches else []
    for following in [*batches[1:], []]:
      ready, waiting = waiting, start(following)
      yield np.stack([future.result() for future in ready])
