"""FC100 and CIFAR-FS: CIFAR-100's train and test images together, under two splits of its classes.

References:
  FC100: Oreshkin et al., TADAM, 2018, section 5 (split by super-class).
  CIFAR-FS: Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019,
    section 4.1.
"""
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mtl_jax.data import cifar_classes, pools
from mtl_jax.untrusted import archives, numpy_pickles

URL = 'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz'
# The binary version; and the one of pickles, which torchvision downloads.
SOURCES = ('cifar-100-binary.tar.gz', 'cifar-100-binary.tar.xz', 'cifar-100-binary',
           'cifar-100-python.tar.gz', 'cifar-100-python')

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # bytes: super-class, class, red plane, green plane, blue plane
NUM_SUPER_CLASSES, NUM_CLASSES = 20, 100
MEMBERS = {  # file -> the most bytes that it may have
    'train.bin': 2**28,
    'test.bin': 2**28,
    'fine_label_names.txt': 2**16,
    'coarse_label_names.txt': 2**16,
}

PICKLES = {'train': 2**28, 'test': 2**28, 'meta': 2**16}  # likewise

FC100_SUPER_CLASSES = {
    'train': """
        fish flowers food_containers fruit_and_vegetables household_electrical_devices
        household_furniture large_man-made_outdoor_things large_natural_outdoor_scenes reptiles
        trees vehicles_1 vehicles_2
    """.split(),
    'val': """
        large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals
    """.split(),
    'test': 'aquatic_mammals insects medium_mammals people'.split(),
}

CIFAR_FS_CLASSES = {
    'train': """
        apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock
        cloud cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo
        keyboard lawn_mower lion lizard lobster mountain mouse mushroom oak_tree orange orchid
        palm_tree pear pine_tree plate porcupine possum rabbit raccoon ray road seal shrew skunk
        skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip turtle
        willow_tree wolf
    """.split(),
    'val': """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle
        otter sea shark television tractor
    """.split(),
    'test': """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail
        sweet_pepper table telephone wardrobe whale woman worm
    """.split(),
}


def read_fc100(source: pathlib.Path) -> dict[str, pools.Classes]:
  """Reads FC100's 60/20/20 classes by split.

  Args:
    source: as in `read`.

  Returns:
    The classes of each split, images uint8 [n, 32, 32, 3].

  Raises:
    ValueError: as `read`, or the names of the classes are others.
  """
  classes, super_class_of = read(source)
  return _select(source, classes, {
      split: [c for c in classes if super_class_of[c] in wanted]
      for split, wanted in FC100_SUPER_CLASSES.items()})


def read_cifar_fs(source: pathlib.Path) -> dict[str, pools.Classes]:
  """Reads CIFAR-FS's 64/16/20 classes by split.

  Args:
    source: as in `read`.

  Returns:
    The classes of each split, images uint8 [n, 32, 32, 3].

  Raises:
    ValueError: as `read`, or the names of the classes are others.
  """
  classes, _ = read(source)
  return _select(source, classes, CIFAR_FS_CLASSES)


def split_of(name: str) -> dict[str, list[str]]:
  """Returns the classes of each split, in the order in which they are read.

  Args:
    name: 'fc100' or 'cifar_fs'.
  """
  if name == 'cifar_fs':
    return {split: list(classes) for split, classes in CIFAR_FS_CLASSES.items()}
  return {split: [c for c, above in cifar_classes.SUPER_CLASSES.items() if above in wanted]
          for split, wanted in FC100_SUPER_CLASSES.items()}


def _select(source: pathlib.Path, classes: dict[str, np.ndarray],
            wanted: Mapping[str, Sequence[str]]) -> dict[str, pools.Classes]:
  unknown = [c for names in wanted.values() for c in names if c not in classes]
  if unknown or not all(wanted.values()):
    raise ValueError(f"{source}: expected CIFAR-100's names of classes and super-classes, not "
                     f"found: {', '.join(unknown) or 'super-classes of each split'}")
  return {split: [(c, classes[c]) for c in names] for split, names in wanted.items()}


def read(source: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads CIFAR-100, its binary version or the one of pickles, train and test together.

  Images of a class come in the order of a hash of their pixels: the order of records, which differs
  between copies in circulation, does not matter.

  Args:
    source: the archive, or the extracted folder.

  Returns:
    class name -> images uint8 [n, 32, 32, 3], and class name -> name of its super-class.

  Raises:
    ValueError: the content is not as documented.
  """
  by_pickles = source.name.startswith('cifar-100-python')
  super_names, names, records = (_read_pickles if by_pickles else _read_binary)(source)
  if (len(super_names), len(names)) != (NUM_SUPER_CLASSES, NUM_CLASSES):
    raise ValueError(f'{source}: expected names of 20 super-classes and 100 classes, found '
                     f'{len(super_names)} and {len(names)}')
  super_of = _super_class_of_each(source, coarse=records[:, 0], fine=records[:, 1])
  planes = records[_order(records), 2:].reshape(-1, 3, SIDE, SIDE)
  ends = np.cumsum(np.bincount(records[:, 1]))
  images = np.split(planes.transpose(0, 2, 3, 1), ends[:-1])
  return (dict(zip(names, images, strict=True)),
          dict(zip(names, (super_names[s] for s in super_of), strict=True)))


def _read_binary(source: pathlib.Path) -> tuple[list[str], list[str], np.ndarray]:
  """Names of super-classes, names of classes, and records of the binary version."""
  members = archives.read_members(source, MEMBERS)
  super_names, names = (members[f'{kind}_label_names.txt'].decode('utf-8', 'replace').split()
                        for kind in ('coarse', 'fine'))
  parts = [_records(source, name, members[name]) for name in ('train.bin', 'test.bin')]
  return super_names, names, np.concatenate(parts)


def _read_pickles(source: pathlib.Path) -> tuple[list[str], list[str], np.ndarray]:
  """Likewise of the version of pickles, which Python 2 wrote."""
  members = archives.read_members(source, PICKLES)
  found = {name: numpy_pickles.of_bytes(source, name, members[name]) for name in PICKLES}
  super_names, names = (found['meta'][f'{kind}_label_names'] for kind in ('coarse', 'fine'))
  if not all(isinstance(name, str) for name in (*super_names, *names)):
    raise ValueError(f'{source}: meta: expected names of classes')
  parts = []
  for name in ('train', 'test'):
    labels = [np.asarray(found[name][f'{kind}_labels']) for kind in ('coarse', 'fine')]
    pixels = np.asarray(found[name]['data'])
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels[0]), 3 * SIDE * SIDE) or any(
        each.shape != (len(pixels),) or each.dtype.kind not in 'iu' or each.min(initial=0) < 0
        or each.max(initial=0) > NUM_CLASSES for each in labels):
      raise ValueError(f'{source}: {name}: expected two labels and {3 * SIDE * SIDE} bytes of each '
                       f'image, found {pixels.dtype} {pixels.shape}')
    parts.append(np.concatenate([np.stack(labels, axis=1).astype(np.uint8), pixels], axis=1))
  return list(super_names), list(names), np.concatenate(parts)


def _records(source: pathlib.Path, name: str, content: bytes) -> np.ndarray:
  if not content or len(content) % RECORD:
    raise ValueError(f'{source}: {name}: expected whole records of {RECORD} bytes, found '
                     f'{len(content)} bytes ({len(content) / RECORD:.2f} records); download or '
                     'copy it again')
  return np.frombuffer(content, np.uint8).reshape(-1, RECORD)


def _super_class_of_each(source: pathlib.Path, coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
  """Looks up the super-class of each class, uint8 [100], in the labels of all images."""
  if coarse.max() >= NUM_SUPER_CLASSES or fine.max() >= NUM_CLASSES:
    raise ValueError(f'{source}: expected labels below 20 and 100, found {coarse.max()} and '
                     f'{fine.max()}')
  super_of = np.zeros(NUM_CLASSES, np.uint8)
  super_of[fine] = coarse
  if len(np.unique(fine)) != NUM_CLASSES or np.any(super_of[fine] != coarse):
    raise ValueError(f'{source}: expected 100 classes, each in one super-class; found '
                     f'{len(np.unique(fine))} classes, or labels that contradict each other')
  return super_of


def _order(records: np.ndarray) -> np.ndarray:
  """Orders records by class, and within it by a hash of the pixels."""
  return np.lexsort((cifar_classes.hashes(records[:, 2:]), records[:, 1]))
