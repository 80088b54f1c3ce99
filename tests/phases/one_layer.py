"""A network small enough to write twice, in JAX and NumPy, and meta-training tasks for it."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import hard_tasks, outer_loop
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import Backbone, BackboneVars
from tests.phases import toy_pool

CLASSES = 14
CONFIG = MetaTrainConfig(way=2, shot=1, query=4, num_ordinary_tasks=6, num_hard_tasks=4,
                         crop_padding=2, outer_lr=0.01, inner=InnerLoop(lr=0.1, steps=3))


def features(variables, images, *, batch_stats_mode, xp=jnp):
  """conv 1x1 -> normalisation -> tanh -> mean of rows; `xp` is numpy or jax.numpy."""
  def row(vector):
    return vector[None, None, None]

  layer, stats = variables.params['conv'], variables.batch_stats
  x = images @ layer['kernel'][0, 0] + row(layer['bias'])
  batch = batch_stats_mode == 'batch'
  mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if batch else (stats['mean'], stats['var'])
  return xp.tanh((x - row(mean)) / row(xp.sqrt(var + 1e-5))).mean(1).reshape(len(images), -1)


# Of images of 3x2 pixels in 2 channels.
BACKBONE = Backbone(None, features, None, 6, (3, 2, 2), (('conv',),), (('conv',),))


def network():
  """The same for images of the toy pool: much faster to compile than convolutions are."""
  rng = np.random.default_rng(3)
  layer = {'kernel': rng.normal(size=(1, 1, 3, 3)), 'bias': rng.normal(size=3)}
  stats = {'mean': 0.3 * rng.normal(size=3), 'var': rng.uniform(1, 4, 3)}
  variables = BackboneVars({'conv': layer}, stats)
  backbone = BACKBONE._replace(feature_dim=48)
  return backbone, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def pool():
  """Images of CLASSES classes, on the device."""
  return jax.tree.map(jnp.asarray, toy_pool([6, 9, 7, 5, 8, 6, 7] * 2))


_DRAW = jax.jit(functools.partial(meta_train.draw_tasks, config=CONFIG))


def draw(key, failures, hard):
  """One meta-batch under CONFIG."""
  return _DRAW(key, pool(), np.asarray(failures, np.int32), hard)


@functools.cache
def tasks_of(key_number=0):
  """The ordinary tasks of a key."""
  return draw(jax.random.key(key_number), np.zeros(CLASSES), False)


def outer_step(state, variables, tasks, *, backbone, config):
  """One outer step put together from its parts: (state, metrics, failure class of each task)."""
  found = outer_loop.value_and_gradient(state.meta_params, variables, tasks, backbone=backbone,
                                        config=config)
  logits = found.query_logits
  failed = [hard_tasks.failure_class(logits[i], tasks.query_labels[i], tasks.class_ids[i])
            for i in range(len(logits))]
  accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == tasks.query_labels)
  state = outer_loop.apply(state, found.gradient, config)
  return state, {'loss': found.loss, 'accuracy': accuracy}, jnp.stack(failed)
