"""miniImageNet: 100 classes of ImageNet, 600 images each of 84x84, in the layouts it is shared in.

It is split 64/16/20. Every layout's classes are checked against the known split, but for pickles by
labels without names: there the numbers of classes are checked, and that no label is in two splits.

References:
  Vinyals et al., Matching networks for one shot learning, 2016, section 4.1.2 (the set).
  Ravi and Larochelle, Optimization as a model for few-shot learning, 2017, section 5.1 (this
    split).
  Gidaris and Komodakis, Dynamic few-shot visual learning without forgetting, 2018 (the pickles by
    labels).
"""
import collections
import csv
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtl_jax import types
from mtl_jax.data import cache, columns, image_files, imagenet, imagenet_classes, pools
from mtl_jax.untrusted import numpy_pickles, regular

COLUMNS = ['filename', 'label']
# As other repositories call them, in any order.
_IMAGE_COLUMNS = (*columns.IMAGE, 'file_name', 'image_name', 'name')
_LABEL_COLUMNS = (*columns.LABEL, 'class_id', 'wnid')
CACHE = 'mini-imagenet-cache-{}.pkl'
# Two more files of the training classes hold other images, to test the pre-trained classifier on.
LABELLED = {'train': 'miniImageNet_category_split_train_phase_train.pickle',
            'val': 'miniImageNet_category_split_val.pickle',
            'test': 'miniImageNet_category_split_test.pickle'}


def load(name: str, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         skip_broken: bool = False) -> types.Dataset:
  """Loads miniImageNet; see `mtl_jax.data.load`.

  Args:
    name: 'mini_imagenet'.
    data_dir, cache_dir, image_size, skip_broken: as there.
  """
  return imagenet.load(name, LAYOUTS, data_dir, cache_dir, image_size, skip_broken)


def _open_csv(request: imagenet.Request) -> imagenet.Source:
  """Opens train.csv, val.csv and test.csv, which name the files in images/."""
  folder = request.root / 'images'
  files = image_files.scan(folder)
  classes = {split: _read_csv(image_files.place(request.root, '{}.csv', split))
             for split in pools.SPLITS}
  imagenet_classes.check_wordnet_ids(request.name, f'data_dir {request.root}: csv files', classes)
  _check_listed(request.root, classes, files)

  def files_of(name: str, listed: list[str]) -> image_files.ClassFiles:
    changes = cache.digest([os.path.abspath(folder), [(file, files[file]) for file in listed]])
    return image_files.ClassFiles(name, str(folder), listed, changes)

  found = {split: [files_of(c, sorted(listed)) for c, listed in sorted(classes[split].items())]
           for split in pools.SPLITS}
  return imagenet.Source(image_files.fingerprint(found), lambda: image_files.decode_files(
      request.name, found, request.size, request.skip_broken))


def _check_listed(root: pathlib.Path, classes: dict[str, dict[str, list[str]]],
                  files: dict[str, str]) -> None:
  """Checks that the csv files list images that are there, each of them once."""
  listed = [file for split in pools.SPLITS for names in classes[split].values() for file in names]
  missing = [file for file in listed if file not in files]
  if missing:
    raise ValueError(f"{root / 'images'}: expected the {len(listed)} images that the csv files "
                     f'list, missing {len(missing)}, the first: {missing[0]!r}')
  double, times = collections.Counter(listed).most_common(1)[0]
  if times > 1:
    raise ValueError(f'data_dir {root}: expected each image once in the csv files, found {times} '
                     f'times: {double!r}')


def _read_csv(path: pathlib.Path) -> dict[str, list[str]]:
  """Reads the names of the files of each class."""
  regular.check(path)
  classes: dict[str, list[str]] = {}
  try:
    # Spreadsheets put a byte order mark in front, which this encoding drops.
    with path.open(newline='', encoding='utf-8-sig') as file:
      header = file.readline()
      file.seek(0)
      delimiter = max(',;\t', key=header.count)
      rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
  except (OSError, ValueError, csv.Error) as e:
    raise ValueError(f'{path}: cannot be read as a csv file ({e})') from e
  images, labels = (columns.matching(rows[0] if rows else [], names)
                    for names in (_IMAGE_COLUMNS, _LABEL_COLUMNS))
  if len(images) != 1 or len(labels) != 1:
    found = repr(','.join(rows[0])[:80]) if rows else 'nothing'
    raise ValueError(f"{path}: expected the header {','.join(COLUMNS)}, found {found}")
  image, label = rows[0].index(images[0]), rows[0].index(labels[0])
  for line, row in enumerate(rows[1:], 2):
    if len(row) != len(rows[0]):
      raise ValueError(f"{path}: line {line}: expected {','.join(rows[0])[:80]}, found "
                       f"{','.join(row)[:80]!r}")
    classes.setdefault(row[label].strip(), []).append(row[image].strip())
  return classes


def _open_cache(request: imagenet.Request) -> imagenet.Source:
  """Opens mini-imagenet-cache-{train,val,test}.pkl: images, and indices by WordNet id."""
  paths = {split: image_files.place(request.root, CACHE, split) for split in pools.SPLITS}

  def read() -> pools.Streams:
    images, indices = {}, {}
    for split, path in paths.items():
      content = numpy_pickles.load(path)
      found = imagenet.field(content, 'image_data', np.ndarray, path)
      images[split] = imagenet.check_images(found, path)
      indices[split] = _read_class_dict(content, len(images[split]), path)
    where = f"data_dir {request.root}: {CACHE.format('*')}"
    imagenet_classes.check_wordnet_ids(request.name, where, indices)
    return {split: _take(images[split], indices[split], request.size) for split in pools.SPLITS}

  return imagenet.Source(cache.fingerprint(paths.values()), read)


def _read_class_dict(content: Any, count: int, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the indices of the images of each class, each image in one class."""
  found = imagenet.field(content, 'class_dict', dict, path)
  indices = {imagenet.text(name): imagenet.as_integers(listed) for name, listed in found.items()}
  empty = [name for name, listed in indices.items() if not len(listed)]
  if empty:
    raise ValueError(f'{path}: expected a list of indices of images for each class, found none for '
                     f'{empty[0]!r}')
  every = np.sort(np.concatenate(list(indices.values()))) if indices else np.array([], int)
  if len(every) and (every[0] < 0 or every[-1] >= count or np.any(np.diff(every) == 0)):
    raise ValueError(f'{path}: expected indices of {count} images, each in one class, found '
                     f'{every[0]} to {every[-1]}, {len(every) - len(np.unique(every))} of them '
                     'twice')
  return indices


def _open_labelled(request: imagenet.Request) -> imagenet.Source:
  """Opens pickles of `data`, `labels` and mostly `catname2label`, the label of each WordNet id."""
  paths = {split: request.root / file for split, file in LABELLED.items()}

  def read() -> pools.Streams:
    images, indices = {}, {}
    for split, path in paths.items():
      content = numpy_pickles.load(path)
      found = imagenet.field(content, 'data', np.ndarray | list, path)
      images[split] = _check_array_or_list(found, path)
      indices[split] = _group_by_name(content, len(images[split]), path)
    where = f"data_dir {request.root}: {', '.join(LABELLED.values())}"
    imagenet_classes.check_ids_or_counts(request.name, where, indices)
    return {split: _take(images[split], indices[split], request.size) for split in pools.SPLITS}

  return imagenet.Source(cache.fingerprint(paths.values()), read)


def _group_by_name(content: Any, count: int, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Groups the indices of images by WordNet id or, without one, by label."""
  labels = imagenet.field(content, 'labels', np.ndarray | list, path)
  by_label = imagenet.by_label(labels, count, path)
  named = imagenet.field(content, 'catname2label', dict, path, default={})
  # A label that is no integer cannot be one of `by_label`.
  names = {label: imagenet.text(c) for c, label in named.items() if isinstance(label, int)}
  return {names.get(label, f'label_{label:02d}'): listed for label, listed in by_label.items()}


def _check_array_or_list(images: np.ndarray | list, path: pathlib.Path) -> np.ndarray | list:
  """Checks an array of images, or a list of images of one shape."""
  if isinstance(images, np.ndarray):
    return imagenet.check_images(images, path)
  if not images or not all(isinstance(i, np.ndarray) and i.shape == images[0].shape
                           and i.dtype == images[0].dtype for i in images):
    raise ValueError(f'{path}: expected a list of images of one shape, found {len(images)} items')
  imagenet.check_images(images[0][None], path)
  return images


def _take(images: np.ndarray | list, indices: dict[str, np.ndarray],
          size: int) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the images of each class, sorted by name."""
  for name, listed in sorted(indices.items(), key=lambda item: item[0]):
    # Copies of a single class, out of arrays that are mapped from the file.
    taken = images[listed] if isinstance(images, np.ndarray) else np.stack(
        [images[i] for i in listed])
    yield name, pools.resize(taken, size)


LAYOUTS = (
    imagenet.FOLDERS,
    imagenet.Layout('train.csv, val.csv, test.csv and images/', ('{}.csv', 'images'), _open_csv),
    imagenet.Layout(CACHE.format('{train,val,test}'), (CACHE,), _open_cache),
    imagenet.Layout('miniImageNet_category_split_{train_phase_train,val,test}.pickle',
                    tuple(LABELLED.values()), _open_labelled),
)
