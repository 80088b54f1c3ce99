"""Small weights, tasks and features that PyTorch and JAX make alike from NumPy alone, in float64.

Each array is drawn from a generator that its name seeds, so that the goldens need not hold inputs.
"""
import hashlib
import pathlib
import zlib

import numpy as np

NETWORKS, ORDERS = ('resnet12', 'resnet25'), ('second', 'first')
WIDTH, WAY, TASKS, EPS = 4, 3, 2, 1e-3
FOLDER = pathlib.Path(__file__).parents[2] / 'benchmarks' / 'pytorch'
SOURCES = ('mtl', 'convolutions', 'networks', 'array_names', 'modes', 'outer_step', 'feature_loop')
STEP = {'inner_steps': 3, 'inner_lr': 0.1}
LOOP = {'inner_steps': 8, 'inner_lr': 0.5}


def sources() -> str:
  """Returns a digest of the PyTorch files that the written numbers come from."""
  content = b''.join((FOLDER / f'{name}.py').read_bytes() for name in SOURCES)
  return hashlib.sha256(content).hexdigest()


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the array of a name as it stands in the files of the benchmarks."""
  normal = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape)
  leaf = name.rsplit('/', 1)[-1]
  if leaf == 'kernel':
    # Keeps features short, so that the inner loop does not saturate.
    return normal / np.sqrt(np.prod(shape[:-1]))
  return {'scale': 1 + 0.1 * normal, 'var': np.exp(0.1 * normal)}.get(leaf, 0.1 * normal)


def tasks() -> dict[str, np.ndarray]:
  """Returns tasks of 2 support and 3 query images per class, of 17x16 pixels.

  The arrays are `support_images`, `support_labels`, `query_images` and `query_labels`.
  """
  means = _random('means').normal(size=(TASKS, WAY, 17, 16, 3))
  return _parts('images', means, support=2, query=3)


def features() -> dict[str, np.ndarray]:
  """Returns the inputs of an inner loop.

  The arrays are `support` [3, 6, 5], `query` [3, 9, 5], their labels, `kernel` and `bias`.
  """
  centres = _random('centres').normal(size=(3, WAY, 5))
  found = _parts('features', centres, support=2, query=3)
  found = {name.removesuffix('_features'): value for name, value in found.items()}
  return found | {'kernel': 0.3 * _random('kernel').normal(size=(5, WAY)),
                  'bias': _random('bias').normal(size=WAY)}


def _parts(what, means, **per_class):
  """Returns images or features around the mean of their class, and labels, of each part."""
  found = {}
  for part, number in per_class.items():
    repeated = np.repeat(means, number, axis=1)
    noise = _random(part + what).normal(size=repeated.shape)
    found[f'{part}_{what}'] = (repeated + noise) / 2 ** 0.5  # of variance one again
    labels = np.repeat(np.arange(WAY, dtype=np.int32), number)
    found[f'{part}_labels'] = np.tile(labels, (len(means), 1))
  return found


def _random(name):
  return np.random.RandomState(zlib.crc32(name.encode()))
