"""miniImageNet: 100 classes of ImageNet, 600 images of 84x84 each, split 64/16/20, in the layouts it is shared in.

The classes of every layout are checked against the known split, but for pickles by labels without names: there
numbers of classes, and that no label is in two splits.

References:
  Vinyals et al., Matching networks for one shot learning, 2016, section 4.1.2 (the set).
  Ravi and Larochelle, Optimization as a model for few-shot learning, 2017, section 5.1 (this split).
  Gidaris and Komodakis, Dynamic few-shot visual learning without forgetting, 2018 (the pickles by labels).
"""
import collections
import csv
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtl_jax import types
from mtl_jax.data import cache, folder, imagenet, imagenet_classes, pools
from mtl_jax.untrusted import numpy_pickles

COLUMNS = ['filename', 'label']
CACHE = 'mini-imagenet-cache-{}.pkl'
# The training classes come with two more files, of other images: to test the pre-trained classifier on.
LABELLED = {'train': 'miniImageNet_category_split_train_phase_train.pickle',
            'val': 'miniImageNet_category_split_val.pickle',
            'test': 'miniImageNet_category_split_test.pickle'}


def load(name: str, data_dir: str | os.PathLike | None = None, cache_dir: str | os.PathLike | None = None,
         image_size: int | None = None, skip_broken: bool = False) -> types.Dataset:
  """Loads miniImageNet; see `mtl_jax.data.load`."""
  return imagenet.load(name, LAYOUTS, data_dir, cache_dir, image_size, skip_broken)


def _open_csv(request: imagenet.Request) -> imagenet.Source:
  """train.csv, val.csv and test.csv, which name the files in images/."""
  files = folder.scan(request.root / 'images')
  classes = {split: _read_csv(request.root / f'{split}.csv') for split in pools.SPLITS}
  imagenet_classes.check(request.name, f'data_dir {request.root}: csv files', classes)
  listed = [file for split in pools.SPLITS for names in classes[split].values() for file in names]
  missing = [file for file in listed if file not in files]
  if missing:
    raise ValueError(f"{request.root / 'images'}: expected the {len(listed)} images that the csv files list, missing "
                     f"{len(missing)}, the first: {missing[0]!r}")
  double, times = collections.Counter(listed).most_common(1)[0]
  if times > 1:
    raise ValueError(f'data_dir {request.root}: expected each image once in the csv files, found {times} times: '
                     f'{double!r}')
  found = {split: [_of_class(request.root / 'images', c, sorted(classes[split][c]), files)
                   for c in sorted(classes[split])] for split in pools.SPLITS}
  return imagenet.Source(folder.fingerprint(found),
                         lambda: folder.decode_files(request.name, found, request.size, request.skip_broken))


def _of_class(images: pathlib.Path, name: str, listed: list[str], files: dict[str, str]) -> folder.ClassFiles:
  return folder.ClassFiles(name, str(images), listed,
                           cache.digest([os.path.abspath(images), [(file, files[file]) for file in listed]]))


def _read_csv(path: pathlib.Path) -> dict[str, list[str]]:
  """Class -> names of its files."""
  classes: dict[str, list[str]] = {}
  try:
    with path.open(newline='', encoding='utf-8-sig') as file:
      rows = [row for row in csv.reader(file) if row]
  except (OSError, ValueError, csv.Error) as e:
    raise ValueError(f'{path}: cannot be read as a csv file ({e})') from e
  if not rows or rows[0] != COLUMNS:
    found = repr(','.join(rows[0])[:80]) if rows else 'nothing'
    raise ValueError(f"{path}: expected the header {','.join(COLUMNS)}, found {found}")
  for line, row in enumerate(rows[1:], 2):
    if len(row) != 2:
      raise ValueError(f"{path}: line {line}: expected {','.join(COLUMNS)}, found {','.join(row)[:80]!r}")
    classes.setdefault(row[1], []).append(row[0])
  return classes


def _open_cache(request: imagenet.Request) -> imagenet.Source:
  """mini-imagenet-cache-{train,val,test}.pkl: images, and the indices of each class by its WordNet id."""
  paths = {split: request.root / CACHE.format(split) for split in pools.SPLITS}

  def read() -> pools.Streams:
    images, indices = {}, {}
    for split, path in paths.items():
      content = numpy_pickles.load(path)
      images[split] = imagenet.check_images(imagenet.field(content, 'image_data', np.ndarray, path), path)
      indices[split] = _class_dict(content, len(images[split]), path)
    imagenet_classes.check(request.name, f"data_dir {request.root}: {CACHE.format('*')}", indices)
    return {split: _take(images[split], indices[split], request.size) for split in pools.SPLITS}

  return imagenet.Source(cache.fingerprint(paths.values()), read)


def _class_dict(content: Any, count: int, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Class -> indices of its images, each image in one class."""
  found = imagenet.field(content, 'class_dict', dict, path)
  indices = {imagenet.text(name): imagenet.as_integers(listed) for name, listed in found.items()}
  empty = [name for name, listed in indices.items() if not len(listed)]
  if empty:
    raise ValueError(f'{path}: expected a list of indices of images for each class, found none for {empty[0]!r}')
  every = np.sort(np.concatenate(list(indices.values()))) if indices else np.array([], int)
  if len(every) and (every[0] < 0 or every[-1] >= count or np.any(np.diff(every) == 0)):
    raise ValueError(f'{path}: expected indices of {count} images, each in one class, found {every[0]} to {every[-1]}, '
                     f'{len(every) - len(np.unique(every))} of them twice')
  return indices


def _open_labelled(request: imagenet.Request) -> imagenet.Source:
  """Pickles of `data` and `labels`, and mostly `catname2label`: the label of each WordNet id."""
  paths = {split: request.root / file for split, file in LABELLED.items()}

  def read() -> pools.Streams:
    images, indices = {}, {}
    for split, path in paths.items():
      content = numpy_pickles.load(path)
      images[split] = _check_list(imagenet.field(content, 'data', np.ndarray | list, path), path)
      by_label = imagenet.by_label(imagenet.field(content, 'labels', np.ndarray | list, path), len(images[split]), path)
      named = imagenet.field(content, 'catname2label', dict, path, default={})
      names = {label: imagenet.text(c) for c, label in named.items() if isinstance(label, int)}
      indices[split] = {names.get(label, f'label_{label:02d}'): listed for label, listed in by_label.items()}
    imagenet_classes.check_names_or_counts(request.name, f"data_dir {request.root}: {', '.join(LABELLED.values())}",
                                           indices)
    return {split: _take(images[split], indices[split], request.size) for split in pools.SPLITS}

  return imagenet.Source(cache.fingerprint(paths.values()), read)


def _check_list(images: np.ndarray | list, path: pathlib.Path) -> np.ndarray | list:
  if isinstance(images, np.ndarray):
    return imagenet.check_images(images, path)
  if not images or not all(isinstance(i, np.ndarray) and i.shape == images[0].shape and i.dtype == images[0].dtype
                           for i in images):
    raise ValueError(f'{path}: expected a list of images of one shape, found {len(images)} items')
  imagenet.check_images(images[0][None], path)
  return images


def _take(images: np.ndarray | list, indices: dict[str, np.ndarray], size: int) -> Iterator[tuple[str, np.ndarray]]:
  for name in sorted(indices):
    of_class = images[indices[name]] if isinstance(images, np.ndarray) else np.stack([images[i] for i in indices[name]])
    yield name, pools.resize(of_class, size)


LAYOUTS = (
    imagenet.FOLDERS,
    imagenet.Layout('train.csv, val.csv, test.csv and images/', ('{}.csv', 'images'), _open_csv),
    imagenet.Layout(CACHE.format('{train,val,test}'), (CACHE,), _open_cache),
    imagenet.Layout('miniImageNet_category_split_{train_phase_train,val,test}.pickle', tuple(LABELLED.values()),
                    _open_labelled),
)
