"""Any images of one's own: a tree of folders, one for each class."""
import collections
import json
import os
import pathlib

from mtl_jax import types
from mtl_jax.data import cache, image_files, pools

VERSION = 1  # Counts up when the same images give other arrays.
SIZE = 84    # pixels, when none is asked for


def load(name: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         split_file: str | os.PathLike | None = None, skip_broken: bool = False) -> types.Dataset:
  """Loads `data_dir/{train,val,test}/CLASS/*`, or `data_dir/CLASS/*` with a split file.

  Args:
    name: name of the resulting data set.
    data_dir: the tree of images (.png, .jpg, .jpeg, .webp, .bmp, in any case).
    cache_dir: where decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, 84 if None: the short side is resized to it, then the centre is cut
      out.
    split_file: JSON file {"train": [class, ...], "val": [...], "test": [...]}.
    skip_broken: leave out images that cannot be read, with a warning, rather than fail.

  Returns:
    The data set, images uint8 [n, image_size, image_size, 3], mapped from the cache; transparency
    lies over white.

  Raises:
    ValueError: a folder, split, class or image is missing, empty, or not as described (named); or
      the decoded images cannot be written to the cache.
  """
  if data_dir is None or not pathlib.Path(data_dir).is_dir():
    raise ValueError(f'{name}: expected data_dir to be a folder of images, got {data_dir}')
  size = SIZE if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  root = cache.directory(cache_dir)
  tree = pathlib.Path(data_dir)
  if split_file is None:
    folders = image_files.split_folders(tree)
    _check_disjoint(f'data_dir {tree}', {split: [path.name for path in folders[split]]
                                         for split in pools.SPLITS})
  else:
    folders = _split_by_file(tree, pathlib.Path(split_file))
  files = {split: [image_files.class_files(path) for path in folders[split]]
           for split in pools.SPLITS}
  key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken,
         'files': image_files.fingerprint(files)}
  return cache.load_or_stream(
      name, key, lambda: image_files.decode_files(name, files, size, skip_broken), True, root)


def _split_by_file(tree: pathlib.Path, split_file: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """Finds the class folders that a split file names."""
  try:
    content = json.loads(split_file.read_text(encoding='utf-8'))
  except (OSError, ValueError) as e:
    raise ValueError(f'split_file {split_file}: cannot be read as JSON ({e})') from e
  if not isinstance(content, dict) or not all(_is_names(content.get(s)) for s in pools.SPLITS):
    raise ValueError(f'split_file {split_file}: expected {{"train": [classes], "val": [...], '
                     '"test": [...]}')
  classes = {split: content[split] for split in pools.SPLITS}
  _check_disjoint(f'split_file {split_file}', classes)
  for split, names in classes.items():
    for name in names:  # A name such as ../other would leave the tree.
      if name != pathlib.PurePath(name).name or not (tree / name).is_dir():
        raise ValueError(f'split_file {split_file}: {split} class {name!r} not found as a folder '
                         f'in {tree}')
  return {split: [tree / name for name in names] for split, names in classes.items()}


def _is_names(listed: object) -> bool:
  return isinstance(listed, list) and all(isinstance(name, str) for name in listed)


def _check_disjoint(where: str, classes: dict[str, list[str]]) -> None:
  """Checks that each split has a class, and each class one split."""
  for split, names in classes.items():
    if not names:
      raise ValueError(f'{where}: expected at least one class in {split}, found none')
  counts = collections.Counter(name for names in classes.values() for name in names)
  double = sorted(name for name, count in counts.items() if count > 1)
  if double:
    raise ValueError(f'{where}: expected each class once in one split, found more than once: '
                     f"{', '.join(double[:5])}{', ...' if len(double) > 5 else ''}")
