"""An inner loop of your own, in the place of gradient descent: prototypical networks.

    python examples/own_inner_loop.py

Classes are scored by their distance to the mean of their support features (Snell et al., NeurIPS
2017), and meta-training learns Φ_S for that.
"""
import functools

import jax
import jax.numpy as jnp

from mtl_jax import backbones, data, inner_loop
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.phases import meta_train


def prototypes(theta, network, rates, tasks, *, backbone, inner):
  """Returns query logits [tasks, way * query, way]: minus the squared distance to each mean."""
  del rates  # nothing is adapted step by step
  support, query = (inner_loop.encode(network, images, backbone=backbone,
                                      batch_stats_mode=inner.batch_stats_mode)
                    for images in (tasks.support, tasks.query))
  way = theta.bias.shape[0]
  members = jax.nn.one_hot(tasks.support_labels, way, axis=1)  # [tasks, way, way * shot]
  centres = members @ support / members.sum(axis=2, keepdims=True)
  return -jnp.sum((query[:, :, None] - centres[:, None]) ** 2, axis=-1)


glyphs = data.load('glyphs')
backbone = backbones.create('conv4', (32, 32, 3), width=16)
frozen = backbone.init(jax.random.key(0))
config = MetaTrainConfig(num_ordinary_tasks=4, num_hard_tasks=2, inner=InnerLoop(adapts=prototypes),
                         learn=Learn(classifier=False))
cycle = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=config))
state = meta_train.init(backbone, frozen, config)
state, metrics = cycle(state, jax.random.key(1), frozen, glyphs.train)
print({name: round(float(value), 3) for name, value in metrics.items()})

# Runs on disk keep names in their settings, not functions: register one, and
# `mtl_jax.runs.meta_train_run` takes InnerLoop(adapts='prototypes').
inner_loop.register('prototypes', prototypes)
