"""Any images of one's own: a tree of folders, one for each class."""
import collections
import concurrent.futures
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mtl_jax import types
from mtl_jax.data import cache, pools

VERSION = 1  # Counts up when the same images give other arrays.
SIZE = 84    # pixels, when none is asked for
ENDINGS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF')  # By content: files under a wrong ending are common.
SKIP_HINT = 'replace it, or pass --skip_broken_images to leave such images out'

class ClassFiles(NamedTuple):
  """The image files of one class."""
  name: str
  folder: str
  files: list[str]  # names, sorted
  fingerprint: str  # differs when a file was added, removed or replaced


def load(name: str, data_dir: str | os.PathLike | None = None, cache_dir: str | os.PathLike | None = None,
         image_size: int | None = None, split_file: str | os.PathLike | None = None,
         skip_broken: bool = False) -> types.Dataset:
  """Loads `data_dir/{train,val,test}/CLASS/*`, or `data_dir/CLASS/*` with a split file.

  Args:
    name: Name of the resulting data set.
    data_dir: The tree of images (.png, .jpg, .jpeg, .webp, .bmp, in any case).
    cache_dir: Where decoded images are kept; the per-user cache directory if None.
    image_size: Side in pixels, 84 if None: the short side is resized to it, then the centre is cut out.
    split_file: JSON file {"train": [class, ...], "val": [...], "test": [...]}.
    skip_broken: Leave out images that cannot be read, with a warning, rather than fail.

  Returns:
    The data set, images uint8 [n, image_size, image_size, 3], mapped from the cache; transparency lies over
    white.

  Raises:
    ValueError: If a folder, split, class or image is missing, empty, or not as described; names it. If the
      decoded images cannot be written to the cache.
  """
  if data_dir is None or not pathlib.Path(data_dir).is_dir():
    raise ValueError(f'{name}: expected data_dir to be a folder of images, got {data_dir}')
  size = SIZE if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  root = cache.directory(cache_dir)
  tree = pathlib.Path(data_dir)
  if split_file is None:
    folders = split_folders(tree)
    _check_disjoint(f'data_dir {tree}', {split: [p.name for p in found] for split, found in folders.items()})
  else:
    folders = _split_by_file(tree, pathlib.Path(split_file))
  files = {split: [class_files(folder) for folder in folders[split]] for split in pools.SPLITS}
  key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken, 'files': fingerprint(files)}
  return cache.load_or_stream(name, key, lambda: decode_files(name, files, size, skip_broken), True, root)


def split_folders(tree: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """The class folders in `tree/{train,val,test}`, by name.

  Raises:
    ValueError: If one of the three is missing; names it.
  """
  missing = [split for split in pools.SPLITS if not (tree / split).is_dir()]
  if missing:
    raise ValueError(f"data_dir {tree}: expected the folders train, val and test (or a split_file), missing "
                     f"{', '.join(missing)}")
  return {split: sorted(p for p in (tree / split).iterdir() if p.is_dir() and not p.name.startswith('.'))
          for split in pools.SPLITS}


def _split_by_file(tree: pathlib.Path, split_file: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  try:
    content = json.loads(split_file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as e:
    raise ValueError(f'split_file {split_file}: cannot be read as JSON ({e})') from e
  if not isinstance(content, dict) or not all(
      isinstance(content.get(s), list) and all(isinstance(c, str) for c in content[s]) for s in pools.SPLITS):
    raise ValueError(f'split_file {split_file}: expected {{"train": [classes], "val": [...], "test": [...]}}')
  classes = {split: content[split] for split in pools.SPLITS}
  _check_disjoint(f'split_file {split_file}', classes)
  for split, names in classes.items():
    for name in names:  # A name such as ../other would leave the tree.
      if name != pathlib.PurePath(name).name or not (tree / name).is_dir():
        raise ValueError(f'split_file {split_file}: {split} class {name!r} not found as a folder in {tree}')
  return {split: [tree / name for name in names] for split, names in classes.items()}


def _check_disjoint(where: str, classes: dict[str, list[str]]) -> None:
  for split, names in classes.items():
    if not names:
      raise ValueError(f'{where}: expected at least one class in {split}, found none')
  counts = collections.Counter(name for names in classes.values() for name in names)
  double = sorted(name for name, count in counts.items() if count > 1)
  if double:
    raise ValueError(f"{where}: expected each class once in one split, found more than once: "
                     f"{', '.join(double[:5])}{', ...' if len(double) > 5 else ''}")


def scan(folder: pathlib.Path) -> dict[str, str]:
  """Name, size and time of change of each image file in a folder, sorted by name; of 60,000 in half a second."""
  found = {}
  with os.scandir(folder) as entries:
    for file in entries:
      if file.name.lower().endswith(ENDINGS) and not file.name.startswith('.') and file.is_file():
        stat = file.stat()
        found[file.name] = f'{stat.st_size} {stat.st_mtime_ns}'
  return dict(sorted(found.items()))


def class_files(folder: pathlib.Path) -> ClassFiles:
  """The image files of a class folder.

  Raises:
    ValueError: If there are none.
  """
  found = scan(folder)
  if not found:
    raise ValueError(f"class folder {folder}: expected images ({' '.join(ENDINGS)}), found none")
  return ClassFiles(folder.name, str(folder), list(found), cache.digest([os.path.abspath(folder), found]))


def fingerprint(files: Mapping[str, Sequence[ClassFiles]]) -> str:
  """Differs when any file or class of any split does."""
  return cache.digest({split: [(c.name, c.fingerprint) for c in classes] for split, classes in files.items()})


def decode_files(name: str, files: Mapping[str, Sequence[ClassFiles]], size: int, skip_broken: bool) -> pools.Streams:
  """The images of each class, uint8 [n, size, size, 3], decoded when their turn comes; see `decode`."""
  return {split: decode(name, ((c.name, [os.path.join(c.folder, file) for file in c.files]) for c in files[split]),
                        lambda path: read_image(path, size), skip_broken) for split in pools.SPLITS}


def decode(name: str, classes: Iterable[tuple[str, Sequence]], read: Callable[[Any], np.ndarray],
           skip_broken: bool) -> Iterator[tuple[str, np.ndarray]]:
  """Decodes one class at a time.

  Args:
    name: Name of the data set, for warnings.
    classes: Name of each class, and what to pass to `read` for each of its images.
    read: Gives an image, uint8 [H, W, C]; raises a ValueError that names it if it is broken.
    skip_broken: Leave such images out, with a warning at the end.

  Yields:
    Name of a class, and its images.

  Raises:
    ValueError: If an image is broken, or all images of a class are.
  """
  broken: list[str] = []
  with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock.
    for class_name, items in classes:
      images = list(_sound(pool.map(lambda item: _try(read, item), items), skip_broken, broken))
      if not images:
        raise ValueError(f'{name}: class {class_name}: all of its {len(items)} images are broken, such as '
                         f'{broken[-1]}')
      yield class_name, np.stack(images)
  if broken:
    warnings.warn(f'{name}: left out {len(broken)} broken images, the first: {broken[0]}', stacklevel=2)


def _sound(results: Iterable[np.ndarray | ValueError], skip_broken: bool, broken: list[str]):
  for result in results:
    if not isinstance(result, ValueError):
      yield result
    elif skip_broken:
      broken.append(str(result))
    else:
      raise ValueError(f'{result}; {SKIP_HINT}') from result


def _try(read: Callable[[Any], np.ndarray], item: Any) -> np.ndarray | ValueError:
  try:
    return read(item)
  except ValueError as e:
    return e


def read_image(path: str | os.PathLike, size: int) -> np.ndarray:
  """Reads an image file, see `decode_image`.

  Raises:
    ValueError: If the file is missing, empty or broken.
  """
  if os.path.exists(path) and os.path.getsize(path) == 0:
    raise ValueError(f'{path}: empty file (0 bytes)')
  return decode_image(path, str(path), size)


def decode_image(file: str | os.PathLike | BinaryIO, name: str, size: int) -> np.ndarray:
  """Decodes an image, upright, to uint8 [size, size, 3]: the short side is resized, then the centre cut out.

  Args:
    file: Path or open file.
    name: What to call it if it is broken.
    size: Pixels.

  Raises:
    ValueError: If it is broken.
  """
  try:
    with Image.open(file, formats=FORMATS) as image:
      image.load()
      upright = to_rgb(ImageOps.exif_transpose(image))
      return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))
  except Exception as e:  # Damaged files make decoders raise nearly anything.
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise ValueError(f'{name}: broken image ({reason})') from e


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts any image to RGB: 16 bits are scaled to 8, transparency is laid over white."""
  if image.mode.startswith('I'):  # 16-bit grey; `convert` would clip at 255.
    values = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
    image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
  if 'A' in image.mode or 'transparency' in image.info:
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image.convert('RGBA'))
  return image.convert('RGB')
