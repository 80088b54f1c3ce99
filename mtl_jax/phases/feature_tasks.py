"""Tasks over features that were computed before: drawn, adapted to and scored.

The tasks of a test are fixed by their keys, so that it is known before anything is computed which
images they name; no others need to be encoded.
"""
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import base_learner, checks, episodes, learnable, sharding
from mtl_jax.configs import MetaTestConfig
from mtl_jax.systems import support_classifiers
from mtl_jax.types import Array, Episode, EpisodeIndices, ImagePool, MetaParams

_TASKS_PER_PASS = 100  # features are small
_WORTH_GATHERING = 0.75  # share of the images of a split; more are encoded as they lie


class Named(NamedTuple):
  """The tasks of a test, and which images they name."""
  images: np.ndarray | None  # int [k], places in the pool in rising order; None for all images
  drawn: EpisodeIndices      # stacked [num_tasks, ...]; places among `images`


def accuracy_of(query_logits: Array, query_labels: Array) -> jax.Array:
  """Computes the share of queries whose highest logit is that of their class.

  Args:
    query_logits: [m, N].
    query_labels: int [m].

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  return jnp.mean(jnp.argmax(query_logits, axis=1) == query_labels)


def task_logits(meta_params: MetaParams, task: Episode, *, config: MetaTestConfig,
                strength: Array | float | None = None) -> jax.Array:
  """Fits the classifier of `config` to one task given as features, and answers its queries.

  Args:
    meta_params: θ and the inner rates are read, by gradient descent.
    task: an Episode with features [n, d] in place of images.
    config: its classifier, with its setting, and its inner loop are read.
    strength: takes the place of the inner rate, or of the strength, in `config`.

  Returns:
    [m, N].
  """
  inner = config.inner
  if config.classifier != support_classifiers.GRADIENT_DESCENT:
    return support_classifiers.find(config.classifier).logits(
        task.support, task.support_labels, task.query, way=config.way,
        strength=config.strength if strength is None else strength)
  rates = learnable.inner_rates(meta_params, inner) if strength is None else strength
  return base_learner.adapt(
      meta_params.base_learner, task.support, task.support_labels, task.query, inner_lr=rates,
      num_steps=inner.steps, regularization=inner.regularization).query_logits


def task_accuracy(meta_params: MetaParams, task: Episode, *, config: MetaTestConfig) -> jax.Array:
  """Adapts to one task given as features and scores its query set.

  Args:
    meta_params: θ and the inner rates are read.
    task: an Episode with features [n, d] in place of images.
    config: its classifier and its inner loop are read.

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  return accuracy_of(task_logits(meta_params, task, config=config), task.query_labels)


def strength_scores(meta_params: MetaParams, task: Episode, strengths: Array, *,
                    config: MetaTestConfig) -> tuple[jax.Array, jax.Array]:
  """Scores one task given as features at several inner rates, or strengths of another classifier.

  Args:
    meta_params: θ is read.
    task: an Episode with features [n, d] in place of images.
    strengths: [s].
    config: all but that setting is read.

  Returns:
    (accuracy, cross-entropy of the queries in nats), each [s].
  """
  def one(strength):
    logits = task_logits(meta_params, task, config=config, strength=strength)
    return (accuracy_of(logits, task.query_labels),
            base_learner.cross_entropy(logits, task.query_labels))

  return jax.vmap(one)(strengths)


def draw(keys: Array, pool: ImagePool, *, config: MetaTestConfig) -> EpisodeIndices:
  """Draws which images make the tasks of a test.

  Args:
    keys: [num_tasks], one per task; consumed.
    pool: only its offsets and sizes are read.
    config: way, shot and query.

  Returns:
    EpisodeIndices stacked along axis 0 [num_tasks, ...].
  """
  return _draw(keys, pool._replace(images=(), normalization=None), way=config.way,
               shot=config.shot, query=config.query)


def named(keys: Array, pool: ImagePool, *, config: MetaTestConfig) -> Named:
  """Finds the images that the tasks of a test name; for use on the host.

  Args:
    keys: [num_tasks], one per task; they may be used again.
    pool: its offsets and sizes, and the number of its images, are read.
    config: way, shot and query.

  Returns:
    Named; its `images` is None where most images are, or where they are spread over processes:
    then they stay as they lie.
  """
  places = jax.tree.map(np.asarray, pool._replace(images=(), normalization=None))
  drawn = jax.tree.map(np.asarray, _draw(jax.random.clone(keys), places, way=config.way,
                                         shot=config.shot, query=config.query))
  images, total = np.unique(drawn.indices), len(pool.images)
  of_this_process = getattr(pool.images, 'is_fully_addressable', True)
  if len(images) > _WORTH_GATHERING * total or not of_this_process:
    return Named(None, drawn)
  place = np.zeros(total, np.int32)
  place[images] = np.arange(len(images))
  return Named(images, drawn._replace(indices=place[drawn.indices]))


def drawn_accuracies(meta_params: MetaParams, features: Array, drawn: EpisodeIndices, *,
                     config: MetaTestConfig, layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks that were drawn before.

  Args:
    meta_params: θ and the inner rates are read.
    features: [k, d], on each device.
    drawn: stacked [num_tasks, ...], places among the features.
    config: its classifier and its inner loop are read.
    layout: devices, each of which takes its part of the tasks; None for one device.

  Returns:
    float32 [num_tasks].
  """
  def one_task(drawn):
    task = episodes.gather(_fetching(features), drawn, shot=config.shot)
    return task_accuracy(meta_params, task, config=config)

  own = sharding.local_shard(drawn, layout)
  scored = jax.lax.map(one_task, own, batch_size=_TASKS_PER_PASS)
  return sharding.all_gather_rows(scored, len(drawn.indices), layout)


def drawn_strength_scores(meta_params: MetaParams, features: Array, drawn: EpisodeIndices,
                          strengths: Array, *, config: MetaTestConfig
                          ) -> tuple[jax.Array, jax.Array]:
  """Scores tasks that were drawn before, at several inner rates or strengths.

  Args:
    meta_params: θ is read.
    features: [k, d].
    drawn: stacked [num_tasks, ...], places among the features.
    strengths: [s].
    config: all but that setting is read.

  Returns:
    (accuracies, cross-entropies), each [num_tasks, s].
  """
  def one_task(drawn):
    task = episodes.gather(_fetching(features), drawn, shot=config.shot)
    return strength_scores(meta_params, task, strengths, config=config)

  return jax.lax.map(one_task, drawn, batch_size=_TASKS_PER_PASS)


def feature_accuracies(meta_params: MetaParams, features: ImagePool, keys: Array, *,
                       config: MetaTestConfig, layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks over the features of a whole split.

  Args:
    meta_params: θ and the inner rates are read.
    features: as `encoding.encode_pool` returns it.
    keys: [num_tasks], one per task.
    config: settings of the tasks and the inner loop.
    layout: devices, each of which takes its part of the tasks; None for one device.

  Returns:
    float32 [num_tasks].
  """
  drawn = draw(keys, features, config=config)
  return drawn_accuracies(meta_params, features.images, drawn, config=config, layout=layout)


@functools.partial(checks.jit, static_argnames=('way', 'shot', 'query'))
def _draw(keys, places, *, way, shot, query):
  return jax.vmap(lambda key: episodes.draw(key, places, way=way, shot=shot, query=query))(keys)


def _fetching(features):
  # Drawn indices are in range; saying so to the compiler spares a bounds check per element.
  return lambda indices: jnp.asarray(features).at[indices].get(mode='promise_in_bounds')
