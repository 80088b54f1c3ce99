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


def prototypes(theta, support, classes, query):
  """Returns query logits [way * query, way] of one episode: squared distances to means, negated.

  Args:
    theta: {}, as nothing is learned but the network.
    support: features [way * shot, d].
    classes: [way * shot, way], the labels of the support as rows of zeros and a one.
    query: features [way * query, d].
  """
  del theta
  centres = classes.T @ support / classes.sum(axis=0)[:, None]
  return -jnp.sum((query[:, None] - centres[None]) ** 2, axis=-1)


adapt = inner_loop.over_features(prototypes)


glyphs = data.load('glyphs')
backbone = backbones.create('conv4', (32, 32, 3), width=16)
frozen = backbone.init(jax.random.key(0))
config = MetaTrainConfig(num_ordinary_tasks=4, num_hard_tasks=2, inner=InnerLoop(adapts=adapt),
                         learn=Learn(classifier=False))
cycle = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=config))
state = meta_train.init(backbone, frozen, config)
state, metrics = cycle(state, jax.random.key(1), frozen, glyphs.train)
print({name: round(float(value), 3) for name, value in metrics.items()})

# Runs on disk keep names in their settings, not functions: register one, and
# `mtl_jax.runs.meta_train_run` takes InnerLoop(adapts='my_prototypes').
inner_loop.register('my_prototypes', adapt)
