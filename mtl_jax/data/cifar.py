"""FC100 and CIFAR-FS: CIFAR-100's train and test images together, under two splits of its classes.

References:
  FC100: Oreshkin et al., TADAM, 2018, section 5 (split by super-class).
  CIFAR-FS: Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019, section 4.1.
"""
import hashlib
import pathlib

import numpy as np

from mtl_jax.data import pools
from mtl_jax.untrusted import archives

URL = 'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz'
SOURCES = ('cifar-100-binary.tar.gz', 'cifar-100-binary.tar.xz', 'cifar-100-binary')

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # bytes: super-class, class, then the red, the green and the blue plane
MEMBERS = {  # file -> the most bytes that it may have
    'train.bin': 2**28,
    'test.bin': 2**28,
    'fine_label_names.txt': 2**16,
    'coarse_label_names.txt': 2**16,
}

FC100_SUPER_CLASSES = {
    'train': """
        fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
        large_man-made_outdoor_things large_natural_outdoor_scenes reptiles trees vehicles_1 vehicles_2
    """.split(),
    'val': 'large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals'.split(),
    'test': 'aquatic_mammals insects medium_mammals people'.split(),
}

CIFAR_FS_CLASSES = {
    'train': """
        apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud
        cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower
        lion lizard lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate
        porcupine possum rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar
        sunflower tank tiger train trout tulip turtle willow_tree wolf
    """.split(),
    'val': """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea
        shark television tractor
    """.split(),
    'test': """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper
        table telephone wardrobe whale woman worm
    """.split(),
}


def read_fc100(source: pathlib.Path) -> dict[str, pools.Classes]:
  """FC100's 60/20/20 classes by split; see `read`."""
  classes, super_class_of = read(source)
  return _select(source, classes, {
      split: [c for c in classes if super_class_of[c] in wanted]
      for split, wanted in FC100_SUPER_CLASSES.items()})


def read_cifar_fs(source: pathlib.Path) -> dict[str, pools.Classes]:
  """CIFAR-FS's 64/16/20 classes by split; see `read`."""
  classes, _ = read(source)
  return _select(source, classes, CIFAR_FS_CLASSES)


def _select(source, classes, wanted):
  unknown = [c for names in wanted.values() for c in names if c not in classes]
  if unknown or not all(wanted.values()):
    raise ValueError(f"{source}: expected CIFAR-100's names of classes and super-classes, not found: "
                     f"{', '.join(unknown) or 'super-classes of each split'}")
  return {split: [(c, classes[c]) for c in names] for split, names in wanted.items()}


def read(source: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads CIFAR-100's binary version, train and test together.

  Images of a class come in the order of a hash of their pixels: the order of records, which differs between
  copies in circulation, does not matter.

  Args:
    source: The archive, or the extracted folder.

  Returns:
    class name -> images uint8 [n, 32, 32, 3], and class name -> name of its super-class.

  Raises:
    ValueError: If the content is not as documented.
  """
  members = archives.read_members(source, MEMBERS)
  names = [members[f'{kind}_label_names.txt'].decode('utf-8', 'replace').split()
           for kind in ('coarse', 'fine')]
  if [len(n) for n in names] != [20, 100]:
    raise ValueError(f'{source}: expected names of 20 super-classes and 100 classes, found '
                     f'{len(names[0])} and {len(names[1])}')
  records = np.concatenate([_records(source, n, members[n]) for n in ('train.bin', 'test.bin')])
  coarse, fine = records[:, 0], records[:, 1]
  if coarse.max() >= 20 or fine.max() >= 100:
    raise ValueError(f'{source}: expected labels below 20 and 100, found {coarse.max()} and {fine.max()}')
  super_of = np.zeros(100, np.uint8)
  super_of[fine] = coarse
  if len(np.unique(fine)) != 100 or np.any(super_of[fine] != coarse):
    raise ValueError(f'{source}: expected 100 classes, each in one super-class; found {len(np.unique(fine))} '
                     'classes, or labels that contradict each other')
  planes = records[_order(records), 2:].reshape(-1, 3, SIDE, SIDE)
  images = np.split(planes.transpose(0, 2, 3, 1), np.cumsum(np.bincount(fine))[:-1])
  super_names = [names[0][s] for s in super_of]
  return dict(zip(names[1], images, strict=True)), dict(zip(names[1], super_names, strict=True))


def _records(source: pathlib.Path, name: str, content: bytes) -> np.ndarray:
  if not content or len(content) % RECORD:
    raise ValueError(f'{source}: {name}: expected whole records of {RECORD} bytes, found {len(content)} '
                     f'bytes ({len(content) / RECORD:.2f} records); download or copy it again')
  return np.frombuffer(content, np.uint8).reshape(-1, RECORD)


def _order(records: np.ndarray) -> np.ndarray:
  digests = b''.join(hashlib.blake2b(r[2:].data, digest_size=8).digest() for r in records)
  return np.lexsort((np.frombuffer(digests, '>u8'), records[:, 1]))
