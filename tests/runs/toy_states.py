"""A small state of training with an optimizer, to be saved; and the comparison of what is read."""
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtl_jax.runs.checkpoints import Checkpoints


class State(NamedTuple):
  step: jax.Array
  params: dict
  opt_state: tuple


def make_state(seed):
  """A state after one step; its leaves have several shapes and dtypes."""
  keys = jax.random.split(jax.random.key(seed), 2)
  params = {'conv1': {'kernel': jax.random.normal(keys[0], (3, 3, 3, 8)), 'bias': jnp.zeros(8)},
            'norm': {'scale': jax.random.normal(keys[1], (8,), jnp.bfloat16)}}
  optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
  _, opt_state = optimizer.update(params, optimizer.init(params), params)
  return State(jnp.int32(seed), params, opt_state)


def save_tree(directory, tree):
  """Saves one more checkpoint of a tree alone."""
  with Checkpoints(directory, keep_latest=1, keep_best=0) as checkpoints:
    checkpoints.save(max(checkpoints.steps(), default=-1) + 1, tree)


def load_tree(directory, like=None):
  """Reads the newest checkpoint."""
  found = Checkpoints(os.fspath(directory)).restore_latest(like)
  assert found is not None, f'expected a checkpoint in {directory}'
  return found[1]


def assert_same(found, expected):
  """Same structure, kinds of arrays and bits."""
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
