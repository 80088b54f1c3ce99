"""Born-again networks: pre-training that also learns the answers of an earlier pre-training.

    L = (1 - w) CE(z, y) + w T² KL(softmax(z_teacher / T) || softmax(z / T)),   T = 4

The teacher may be of the same architecture or another; the student can be a teacher in turn.

References: Furlanello et al., ICML 2018; with T and w = 1/2 for few-shot learning: Tian et al.,
ECCV 2020, "Rethinking few-shot image classification: a good embedding is all you need?".
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import base_learner
from mtl_jax.types import Array, Backbone, BackboneVars, BaseLearner

TEMPERATURE = 4.0


class Teacher(NamedTuple):
  """What a pre-training has learned, with the classifier of the base classes."""
  backbone: BackboneVars
  head: tuple[BaseLearner, ...]  # θ_base


def classify(head: tuple[BaseLearner, ...], features: Array) -> jax.Array:
  """Scores features by θ_base: linear layers with ReLU between them.

  Args:
    head: one layer, or a hidden one before it.
    features: [B, d].

  Returns:
    Logits [B, classes].
  """
  for layer in head[:-1]:
    features = jax.nn.relu(base_learner.logits(layer, features))
  return base_learner.logits(head[-1], features)


def teach(teacher: Teacher, images: Array, *, network: Backbone) -> jax.Array:
  """Scores images by a teacher, with its running statistics.

  Args:
    teacher: frozen.
    images: float32 [B, H, W, C], normalised.
    network: that of the teacher, whose features are as in its pre-training.

  Returns:
    Logits [B, classes], through which no gradient goes.
  """
  features = network.features(teacher.backbone, images, batch_stats_mode='running')
  return jax.lax.stop_gradient(classify(teacher.head, features))


def divergence(scores: Array, taught: Array, temperature: float = TEMPERATURE) -> jax.Array:
  """Computes T² KL(softmax(taught / T) || softmax(scores / T)), the mean over images, in nats.

  Args:
    scores: logits of the student [B, classes].
    taught: those of the teacher.
    temperature: T. With T² its gradient stays of one size whatever T is.
  """
  of_teacher = jax.nn.log_softmax(taught / temperature)
  of_student = jax.nn.log_softmax(scores / temperature)
  each = jnp.sum(jnp.exp(of_teacher) * (of_teacher - of_student), axis=1)
  return temperature**2 * jnp.mean(each)
