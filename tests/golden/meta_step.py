"""One outer step on numbers fixed by seeds, to notice an accidental change of what meta-training computes.

Where a change is meant, `python -m tests.golden.meta_step` from the root of the repository writes `meta_step.npz` anew.
"""
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import outer_loop, scale_shift
from mtl_jax.phases import meta_train
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import MEAN, STD, tiny_network, toy_pool

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'meta_step.npz')
CONFIG = meta_train.MetaTrainConfig(way=3, shot=2, query=3, inner_lr=0.1, inner_steps=4, crop_padding=2)


def compute():
  """Returns name -> array: classes drawn, query loss, accuracy, every gradient, and every parameter after the step."""
  backbone, variables = tiny_network()
  rng = np.random.default_rng(11)
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  phi = jax.tree.map(lambda x: jnp.asarray(x + 0.2 * rng.normal(size=x.shape), jnp.float32), identity)
  theta = BaseLearner(*(jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32) for shape in ((4, 3), (3,))))
  state = meta_train.init(backbone, variables, CONFIG)._replace(meta_params=MetaParams(phi, {}, theta, {}))
  pool = jax.tree.map(jnp.asarray, toy_pool([7, 5, 9, 6, 8, 5]))

  draw = jax.jit(functools.partial(meta_train.draw_tasks, config=CONFIG))
  tasks = [draw(jax.random.key(2), pool, MEAN, STD, np.array([0, 2, 0, 1, 1, 0]), hard) for hard in (False, True)]

  @jax.jit
  def step(state, tasks):
    gradient = jax.grad(outer_loop.query_loss, has_aux=True)(state.meta_params, variables, tasks[0],
                                                             backbone=backbone, config=CONFIG)[0]
    after, metrics, failed = outer_loop.step(state, variables, tasks[0], backbone=backbone, config=CONFIG)
    classes = {'ordinary': tasks[0].class_ids, 'hard': tasks[1].class_ids, 'failed': failed}
    return {'classes': classes, 'metrics': metrics, 'gradient': gradient, 'after': after.meta_params}

  leaves = jax.tree_util.tree_flatten_with_path(step(state, tasks))[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}


if __name__ == '__main__':
  np.savez_compressed(PATH, **compute())
