"""Small weights, tasks and features that PyTorch and JAX make alike from NumPy alone, in float64, by their names."""
import hashlib
import pathlib
import zlib

import numpy as np

NETWORKS, ORDERS = ('resnet12', 'resnet25'), ('second', 'first')
WIDTH, WAY, TASKS, EPS = 4, 3, 2, 1e-3
SOURCES = ('mtl', 'networks', 'modes', 'inner_loop')
STEP = {'inner_steps': 3, 'inner_lr': 0.1}
LOOP = {'inner_steps': 8, 'inner_lr': 0.5}


def sources() -> str:
  """Gives a digest of the files on the side of PyTorch that the written numbers come from."""
  benchmarks = pathlib.Path(__file__).parents[2] / 'benchmarks'
  return hashlib.sha256(b''.join((benchmarks / 'pytorch' / f'{name}.py').read_bytes() for name in SOURCES)).hexdigest()


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Gives the array of a name as it stands in the files of the benchmarks."""
  normal = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape)
  leaf = name.rsplit('/', 1)[-1]
  if leaf == 'kernel':
    return normal / np.sqrt(np.prod(shape[:-1]))  # keeps features short, so that the inner loop does not saturate
  return {'scale': 1 + 0.1 * normal, 'var': np.exp(0.1 * normal)}.get(leaf, 0.1 * normal)


def tasks() -> dict[str, np.ndarray]:
  """Gives tasks of 2 support and 3 query images per class, of 17x16 pixels: `support_images`, `support_labels` etc."""
  means = _random('means').normal(size=(TASKS, WAY, 17, 16, 3))
  return _parts('images', means, support=2, query=3)


def features() -> dict[str, np.ndarray]:
  """Gives the inputs of an inner loop: `support` [3, 6, 5], `query` [3, 9, 5], labels, `kernel` and `bias`."""
  found = _parts('features', _random('centres').normal(size=(3, WAY, 5)), support=2, query=3)
  found = {name.removesuffix('_features'): value for name, value in found.items()}
  return found | {'kernel': 0.3 * _random('kernel').normal(size=(5, WAY)), 'bias': _random('bias').normal(size=WAY)}


def _parts(what, means, **per_class):
  found = {}
  for part, number in per_class.items():
    repeated = np.repeat(means, number, axis=1)
    found[f'{part}_{what}'] = (repeated + _random(part + what).normal(size=repeated.shape)) / 2 ** 0.5
    found[f'{part}_labels'] = np.tile(np.repeat(np.arange(WAY, dtype=np.int32), number), (len(means), 1))
  return found


def _random(name):
  return np.random.RandomState(zlib.crc32(name.encode()))
