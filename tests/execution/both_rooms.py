"""Pre-training and meta-training by either `on_device` or `from_host`, on the toy network."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.configs import InnerLoop, MetaTrainConfig, PretrainConfig
from mtl_jax.phases import meta_train, pretrain
from tests.execution.toy_phases import ROOT, SIZES, network

# Three cycles of 5 steps.
META = MetaTrainConfig(steps=14, way=3, shot=1, query=3, num_ordinary_tasks=6, num_hard_tasks=4,
                       crop_padding=2, outer_lr=0.01, inner=InnerLoop(lr=0.1, steps=2))
PLAIN = dataclasses.replace(META, crop_padding=0, flip=False)  # compiles faster
PRE = PretrainConfig(steps=8, batch_size=8, lr=0.2, crop_padding=2, color=0.3, steps_per_call=3)


def meta_training(room, pool, config=PLAIN):
  """The context of `advance` in that room."""
  backbone, variables = network()
  return room.meta_training(ROOT, variables, pool, backbone=backbone, config=config)


def pretraining(room, pool, config=PRE):
  """The context of `advance` in that room."""
  return room.pretraining(ROOT, pool, backbone=network()[0], config=config)


def copied(tree):
  """A copy, which survives donation of the original."""
  return jax.tree.map(lambda x: jnp.asarray(np.array(x)), tree)


def start(phase):
  """The state before the first step."""
  backbone, variables = network()
  if phase is meta_training:
    return copied(meta_train.init(backbone, variables, META))
  return copied(pretrain.init(jax.random.key(0), backbone, len(SIZES), PRE))


def run(phase, room, pool, calls=3, state=None, **options):
  """Runs calls of `advance`: [(state, metrics) after each], as NumPy arrays."""
  after, state = [], start(phase) if state is None else copied(state)
  with phase(room, pool, **options) as advance:
    for _ in range(calls):
      state, metrics = advance(state)
      after.append(jax.tree.map(np.array, (state, metrics)))
  return after
