"""One outer step and one cycle on numbers fixed by seeds: notices accidental changes.

Where a change is meant, `python -m tests.golden.meta_step` from the root of the repository writes
`meta_step.npz` anew.
"""
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import hard_tasks, outer_loop, scale_shift
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import tiny_network, toy_pool

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'meta_step.npz')
CONFIG = MetaTrainConfig(way=3, shot=2, query=3, num_ordinary_tasks=4, num_hard_tasks=2,
                         crop_padding=2, inner=InnerLoop(lr=0.1, steps=4))
FAILURES = np.array([0, 2, 0, 1, 1, 0])


def compute():
  """Returns what meta-training computes from fixed numbers.

  Returns:
    Name -> array: classes drawn, query loss, accuracy, every gradient, and every parameter after
    one step; under `cycle`, the means and every parameter after one cycle from the same start.
  """
  backbone, variables = tiny_network()
  options = {'backbone': backbone, 'config': CONFIG}
  state = _start(backbone, variables)
  pool = jax.tree.map(jnp.asarray, toy_pool([7, 5, 9, 6, 8, 5]))
  draw = jax.jit(functools.partial(meta_train.draw_tasks, config=CONFIG))
  ordinary, hard = (draw(jax.random.key(2), pool, FAILURES, hard) for hard in (False, True))

  @jax.jit
  def step(state, tasks):
    found = outer_loop.value_and_gradient(state.meta_params, variables, tasks, **options)
    failed = jax.vmap(hard_tasks.failure_class)(found.query_logits, tasks.query_labels,
                                                tasks.class_ids)
    is_right = jnp.argmax(found.query_logits, axis=-1) == tasks.query_labels
    after = outer_loop.apply(state, found.gradient, CONFIG).meta_params
    metrics = {'loss': found.loss, 'accuracy': jnp.mean(is_right)}
    return {'metrics': metrics, 'gradient': found.gradient, 'after': after}, failed

  found, failed = step(state, ordinary)
  found['classes'] = {'ordinary': ordinary.class_ids, 'hard': hard.class_ids, 'failed': failed}
  cycle = jax.jit(functools.partial(meta_train.cycle, **options))
  after, metrics = cycle(state, jax.random.key(3), variables, pool)
  # The stored file is older than the metrics of which classes failed.
  metrics = {name: value for name, value in metrics.items() if 'fail' not in name}
  found['cycle'] = {'metrics': metrics, 'after': after.meta_params}
  leaves = jax.tree_util.tree_flatten_with_path(found)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in leaves}


def _start(backbone, variables):
  """Parameters that are not trivial."""
  rng = np.random.default_rng(11)

  def float32(x):
    return jnp.asarray(x, jnp.float32)

  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  phi = jax.tree.map(lambda x: float32(x + 0.2 * rng.normal(size=x.shape)), identity)
  theta = BaseLearner(*(float32(0.3 * rng.normal(size=shape)) for shape in ((4, 3), (3,))))
  state = meta_train.init(backbone, variables, CONFIG)
  return state._replace(meta_params=MetaParams(phi, {}, theta, {}, {}))


if __name__ == '__main__':
  np.savez_compressed(PATH, **compute())
