"""Any images of one's own: a tree of folders, one for each class."""
import collections
import concurrent.futures
import json
import os
import pathlib
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps

from mtl_jax import types
from mtl_jax.data import cache, pools

VERSION = 1  # Counts up when the same images give other arrays.
SIZE = 84    # pixels, when none is asked for
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # By content: files under a wrong ending are common.
SKIP_HINT = "replace it, or pass --skip_broken_images to leave such images out"

Files = dict[str, list[tuple[str, list[pathlib.Path]]]]  # split -> name and files of each class


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
    The data set, images uint8 [n, image_size, image_size, 3]; transparency lies over white.

  Raises:
    ValueError: If a folder, split, class or image is missing, empty, or not as described; names it.
  """
  if data_dir is None or not pathlib.Path(data_dir).is_dir():
    raise ValueError(f"{name}: expected data_dir to be a folder of images, got {data_dir}")
  size = SIZE if image_size is None else image_size
  if size < 1:
    raise ValueError(f"{name}: expected image_size of at least 1 pixel, got {image_size}")
  root = cache.directory(cache_dir)
  tree = pathlib.Path(data_dir)
  folders = _split_folders(tree) if split_file is None else _split_by_file(tree, pathlib.Path(split_file))
  files = {split: [(folder.name, _images_in(folder)) for folder in folders[split]] for split in pools.SPLITS}
  every_file = [path for classes in files.values() for _, paths in classes for path in paths]
  key = {"version": VERSION, "image_size": size, "skip_broken": skip_broken,
         "splits": {split: [c for c, _ in classes] for split, classes in files.items()},
         "files": cache.digest(cache.fingerprint(every_file))}
  return cache.load_or_build(name, key, lambda: _build(name, files, size, skip_broken), root)


def _split_folders(tree: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  missing = [split for split in pools.SPLITS if not (tree / split).is_dir()]
  if missing:
    raise ValueError(f"data_dir {tree}: expected the folders train, val and test (or a split_file), missing "
                     f"{', '.join(missing)}")
  folders = {split: sorted(p for p in (tree / split).iterdir() if p.is_dir() and not p.name.startswith("."))
             for split in pools.SPLITS}
  _check_disjoint(f"data_dir {tree}", {split: [p.name for p in found] for split, found in folders.items()})
  return folders


def _split_by_file(tree: pathlib.Path, split_file: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  try:
    content = json.loads(split_file.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise ValueError(f"split_file {split_file}: cannot be read as JSON ({e})") from e
  if not isinstance(content, dict) or not all(
      isinstance(content.get(s), list) and all(isinstance(c, str) for c in content[s]) for s in pools.SPLITS):
    raise ValueError(f'split_file {split_file}: expected {{"train": [classes], "val": [...], "test": [...]}}')
  classes = {split: content[split] for split in pools.SPLITS}
  _check_disjoint(f"split_file {split_file}", classes)
  for split, names in classes.items():
    for name in names:  # A name such as ../other would leave the tree.
      if name != pathlib.PurePath(name).name or not (tree / name).is_dir():
        raise ValueError(f"split_file {split_file}: {split} class {name!r} not found as a folder in {tree}")
  return {split: [tree / name for name in names] for split, names in classes.items()}


def _check_disjoint(where: str, classes: dict[str, list[str]]) -> None:
  for split, names in classes.items():
    if not names:
      raise ValueError(f"{where}: expected at least one class in {split}, found none")
  counts = collections.Counter(name for names in classes.values() for name in names)
  double = sorted(name for name, count in counts.items() if count > 1)
  if double:
    raise ValueError(f"{where}: expected each class once in one split, found more than once: "
                     f"{', '.join(double[:5])}{', ...' if len(double) > 5 else ''}")


def _images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  found = sorted(p for p in folder.iterdir()
                 if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file())
  if not found:
    raise ValueError(f"class folder {folder}: expected images ({' '.join(ENDINGS)}), found none")
  return found


def _build(name: str, files: Files, size: int, skip_broken: bool) -> types.Dataset:
  broken: list[str] = []
  splits = {}
  with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock.
    for split in pools.SPLITS:
      splits[split] = []
      for class_name, paths in files[split]:
        images = list(_sound(pool.map(lambda path: _try_read(path, size), paths), skip_broken, broken))
        if not images:
          raise ValueError(f"class folder {paths[0].parent}: all of its {len(paths)} images are broken")
        splits[split].append((class_name, np.stack(images)))
  if broken:
    warnings.warn(f"{name}: left out {len(broken)} broken images, the first: {broken[0]}", stacklevel=2)
  return pools.from_classes(name, splits, flip=True)


def _sound(results: Iterable[np.ndarray | ValueError], skip_broken: bool, broken: list[str]):
  for result in results:
    if not isinstance(result, ValueError):
      yield result
    elif skip_broken:
      broken.append(str(result))
    else:
      raise ValueError(f"{result}; {SKIP_HINT}") from result


def _try_read(path: pathlib.Path, size: int) -> np.ndarray | ValueError:
  try:
    return read_image(path, size)
  except ValueError as e:
    return e


def read_image(path: pathlib.Path, size: int) -> np.ndarray:
  """Reads an image, upright, as uint8 [size, size, 3].

  Raises:
    ValueError: If the file is empty or broken.
  """
  if path.stat().st_size == 0:
    raise ValueError(f"{path}: empty file (0 bytes)")
  try:
    with Image.open(path, formats=FORMATS) as image:
      image.load()
      upright = to_rgb(ImageOps.exif_transpose(image))
      return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))
  except Exception as e:  # Damaged files make decoders raise nearly anything.
    reason = " ".join(str(e).split()) or type(e).__name__
    raise ValueError(f"{path}: broken image ({reason})") from e


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts any image to RGB: 16 bits are scaled to 8, transparency is laid over white."""
  if image.mode.startswith("I"):  # 16-bit grey; `convert` would clip at 255.
    values = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
    image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
  if "A" in image.mode or "transparency" in image.info:
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image.convert("RGBA"))
  return image.convert("RGB")
