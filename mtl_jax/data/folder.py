"""Any images of one's own: a tree of folders, one for each class."""
import os
import pathlib

from mtl_jax import types
from mtl_jax.data import cache, division, image_files, image_formats, pools, trees

VERSION = 1  # Counts up when the same images give other arrays.
SIZE = 84    # pixels, when none is asked for


def load(name: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         wanted: division.Wanted = division.AS_FOUND, skip_broken: bool = False) -> types.Dataset:
  """Loads `data_dir/{train,val,test}/CLASS/*`, or `data_dir/CLASS/*` that are yet to be divided.

  Args:
    name: name of the resulting data set.
    data_dir: the tree of images; `trees` has the rule which folder is which class.
    cache_dir: where decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, 84 if None: the short side is resized to it, then the centre is cut
      out.
    wanted: how classes are divided; images of folders train, val and test are pooled then.
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
  size = side(name, image_size)
  root = cache.directory(cache_dir)
  path = pathlib.Path(data_dir)
  tree = trees.walk(path)
  parts, notes = _parts(path, tree, wanted)
  divided = division.divide(f'data_dir {path}', parts, wanted)
  files = {split: [_class_files(path, tree, class_name, folders)
                   for class_name, folders in divided[split]] for split in pools.SPLITS}
  key = {'version': VERSION, 'image_size': size, 'skip_broken': skip_broken,
         'files': image_files.fingerprint(files)}
  dataset = cache.load_or_stream(
      name, key, lambda: image_files.decode_files(name, files, size, skip_broken), True, root)
  trees.report(tree.left_out, notes)
  return dataset


def side(name: str, image_size: int | None) -> int:
  """Returns the side of the images of one's own data, in pixels.

  Args:
    name: of the data set, for the message.
    image_size: what is asked for, if anything.

  Raises:
    ValueError: it is below 1.
  """
  size = SIZE if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  return size


def _parts(path: pathlib.Path, tree: trees.Tree,
           wanted: division.Wanted) -> tuple[list[division.Part], list[str]]:
  """Finds the folders of each class; and says which images and folders are of none."""
  divided = wanted.split is not None or wanted.split_file is not None
  splits = _split_folders(path, tree)
  tops = {folder.partition('/')[0] for folder in tree.folders if folder}
  if splits and not divided:
    _check_whole(path, tree, splits)
  elif not tops <= splits.keys():  # Classes, of which some may be called as splits are.
    splits = {}
  parts, stray, beside = [], 0, set()
  for folder, images in tree.folders.items():
    top, _, below = folder.partition('/')
    name = trees.class_of(below if splits else folder)
    if splits and top and top not in splits:
      beside.add(top)
    elif name:
      parts.append(division.Part(splits.get(top), name, [folder]))
    else:
      stray += len(images)
  if not parts and wanted.split_file is None and not splits:
    found = f'{stray} in no folder of a class' if stray else 'none'
    raise ValueError(f'data_dir {path}: expected images ({" ".join(image_formats.ENDINGS)}) in '
                     f'folders, one for each class, found {found}')
  trees.check_apart(f'data_dir {path}', {part.name for part in parts})
  notes = [f'{stray} images in no class folder'] * bool(stray)
  notes += [f'folders beside the splits ({trees.some(sorted(beside))})'] * bool(beside)
  if not splits:
    empty = sorted(child.name for child in _folders_in(path) if child.name not in tops)
    notes += [f'folders without images ({trees.some(empty)})'] * bool(empty)
  return sorted(parts, key=lambda part: part.name), notes


def _split_folders(path: pathlib.Path, tree: trees.Tree) -> dict[str, str]:
  """Finds folders that are splits, by name: not those that only hold images themselves."""
  found = {}
  for child in _folders_in(path):
    split = division.ALIASES.get(child.name.lower())
    if split is not None and (child.name not in tree.folders or any(
        folder.startswith(f'{child.name}/') for folder in tree.folders)):
      found[child.name] = split
  return found


def _folders_in(path: pathlib.Path) -> list[pathlib.Path]:
  return sorted(child for child in path.iterdir()
                if child.is_dir() and not child.name.startswith('.'))


def _check_whole(path: pathlib.Path, tree: trees.Tree, splits: dict[str, str]) -> None:
  """Checks that train, val and test are there, and that each class folder in them has an image."""
  if missing := [split for split in pools.SPLITS if split not in splits.values()]:
    raise ValueError(f'data_dir {path}: expected the folders train, val and test, missing '
                     f"{', '.join(missing)}; {division.EXAMPLE} or a split_file divides the "
                     'classes of all folders')
  having = {'/'.join(folder.split('/')[:2]) for folder in tree.folders}
  for split in splits:
    for child in _folders_in(path / split):
      if f'{split}/{child.name}' not in having:
        raise ValueError(f'class folder {child}: expected images '
                         f"({' '.join(image_formats.ENDINGS)}), found none")


def _class_files(path: pathlib.Path, tree: trees.Tree, name: str,
                 folders: list[str]) -> image_files.ClassFiles:
  """Joins the folders of a class, of which pooled splits have several."""
  digests = [image_files.folder_digest(path / folder, tree.folders[folder]) for folder in folders]
  if len(folders) == 1:
    return image_files.ClassFiles(name, str(path / folders[0]), list(tree.folders[folders[0]]),
                                  digests[0])
  files = [f'{folder}/{file}' for folder in folders for file in tree.folders[folder]]
  return image_files.ClassFiles(name, str(path), files, cache.digest(digests))
