"""A network that compiles in a moment and can be pre-trained too, for phases run on any machine."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.phases import smooth_features, smooth_network, toy_pool

ROOT = jax.random.key(9)
SIZES = [6, 9, 7, 5, 8, 6, 7]


@functools.cache
def network():
  """(backbone, float32 variables).

  Its statistics move by the variance of the images, so they need all of a batch.
  """
  backbone, variables = smooth_network()
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)

  def train_features(variables, images):
    stats = jax.tree.map(lambda x: 0.9 * x + 0.1 * jnp.var(images), variables.batch_stats)
    return smooth_features(variables, images, batch_stats_mode='batch'), stats

  return backbone._replace(init=lambda key: variables, train_features=train_features), variables


def mapped_pool(folder):
  """The toy pool in a file of that folder, mapped read-only."""
  in_ram = toy_pool(SIZES)
  np.save(folder / 'images.npy', in_ram.images)
  return in_ram._replace(images=np.load(folder / 'images.npy', mmap_mode='r'))
