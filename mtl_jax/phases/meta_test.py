"""Phase 3, meta-test: Φ_S and θ stay as meta-learned; each unseen task adapts θ and is scored.

References: Sun et al., CVPR 2019, section 4.3 (meta-test) and 5.1 (the protocol).
"""
import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, episodes, inner_loop, learnable, sharding
from mtl_jax.configs import MetaTestConfig
from mtl_jax.phases import encoding
from mtl_jax.phases.feature_tasks import (
  accuracy_of,
  drawn_accuracies,
  feature_accuracies,
  task_accuracy,
  task_logits,
)
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  Episode,
  EpisodeIndices,
  ImagePool,
  MetaParams,
  Normalization,
)

__all__ = ['MetaTestConfig', 'Protocol', 'accuracies', 'accuracies_drawn', 'accuracies_encoded',
           'accuracies_per_task', 'accuracy_of', 'apply_protocol', 'each_image_alone',
           'encoded_task', 'feature_accuracies', 'image_task_accuracy', 'image_task_logits',
           'summarize', 'task_accuracy', 'task_keys']

Protocol = Literal['inductive', 'paper']


def apply_protocol(config: MetaTestConfig, protocol: str) -> MetaTestConfig:
  """Returns a config with the settings that a protocol stands for.

  Args:
    config: its shots are read.
    protocol: 'inductive' (15 queries per class, running statistics) or 'paper' (as many queries as
      shots, batch statistics, support doubled by flips).

  Returns:
    The config with other `query`, `flip_support` and `inner.batch_stats_mode`.

  Raises:
    ValueError: an unknown protocol.
  """
  if protocol == 'inductive':
    inner = dataclasses.replace(config.inner, batch_stats_mode='running')
    return dataclasses.replace(config, query=15, flip_support=False, inner=inner)
  if protocol == 'paper':
    inner = dataclasses.replace(config.inner, batch_stats_mode='batch')
    return dataclasses.replace(config, query=config.shot, flip_support=True, inner=inner)
  raise ValueError(f"expected protocol 'inductive' or 'paper', got {protocol!r}")


def task_keys(root_key: Array, num_tasks: int) -> jax.Array:
  """Returns the keys that fix the tasks: that of task i depends on the root key and i alone.

  Args:
    root_key: of the evaluation.
    num_tasks: how many tasks.

  Returns:
    Keys [num_tasks].
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(root_key, jnp.arange(num_tasks))


def image_task_accuracy(meta_params: MetaParams, network: BackboneVars, task: Episode,
                        normalization: Normalization | None, *, backbone: Backbone,
                        config: MetaTestConfig) -> jax.Array:
  """Scores one Episode of images under any settings.

  Args:
    meta_params: θ and the inner rates are read.
    network: as `learnable.network` returns it.
    task: an Episode of uint8 images.
    normalization: mean and deviation of images / 255.
    backbone: maps images to features [B, d].
    config: settings.

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  logits = image_task_logits(meta_params, network, task, normalization, backbone=backbone,
                             config=config)
  return accuracy_of(logits, task.query_labels)


def image_task_logits(meta_params: MetaParams, network: BackboneVars, task: Episode,
                      normalization: Normalization | None, *, backbone: Backbone,
                      config: MetaTestConfig) -> jax.Array:
  """Adapts to one Episode of images under any settings, and answers its queries.

  Args:
    meta_params, network, task, normalization, backbone, config: as in `image_task_accuracy`.

  Returns:
    [N*Q, N].
  """
  inner = config.inner
  if inner.adapts == 'head':
    task = encoded_task(network, task, normalization, backbone=backbone, config=config)
    return task_logits(meta_params, task, config=config)
  task = _normalized(task, normalization, flip_support=config.flip_support)
  rates = learnable.inner_rates(meta_params, inner)
  tasks = jax.tree.map(lambda x: x[None], task)
  return inner_loop.find(inner.adapts).adapt(
      meta_params.base_learner, network, rates, tasks, backbone=backbone,
      inner=dataclasses.replace(inner, batching='loop'))[0]


def encoded_task(network: BackboneVars, task: Episode, normalization: Normalization | None, *,
                 backbone: Backbone, config: MetaTestConfig) -> Episode:
  """Computes the features of one Episode of images, support and query apart.

  Args:
    network, task, normalization, backbone, config: as in `image_task_accuracy`.

  Returns:
    An Episode with features [n, d] in place of images; its support is doubled where `config` says.
  """
  task = _normalized(task, normalization, flip_support=config.flip_support)
  support, query = (
      backbone.features(network, images, batch_stats_mode=config.inner.batch_stats_mode)
      for images in (task.support, task.query))
  return task._replace(support=support, query=query)


def _normalized(task, normalization, *, flip_support):
  images, labels = task.support, task.support_labels
  if flip_support:
    images = jnp.concatenate([images, images[:, :, ::-1]])
    labels = jnp.concatenate([labels, labels])
  return task._replace(support=augment.normalize(images, normalization), support_labels=labels,
                       query=augment.normalize(task.query, normalization))


def accuracies_encoded(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool,
                       keys: Array, *, backbone: Backbone, config: MetaTestConfig,
                       layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks with every image encoded once: exact where `each_image_alone`.

  Args:
    meta_params: Φ_S, θ and whatever else was learned.
    backbone_vars: Θ.
    pool: uint8 images of the split.
    keys: [num_tasks], one per task.
    backbone: maps images to features [B, d].
    config: settings, of running statistics, support not flipped and θ alone adapted.
    layout: devices, each of which takes its part of the tasks (`sharding.per_device`); None for
      one device.

  Returns:
    float32 [num_tasks].
  """
  features = encoding.encode_pool(meta_params, backbone_vars, pool, backbone=backbone,
                                  layout=layout)
  return feature_accuracies(meta_params, features, keys, config=config, layout=layout)


def accuracies_drawn(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool,
                     drawn: EpisodeIndices, *, backbone: Backbone, config: MetaTestConfig,
                     layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks that were drawn before, with every image encoded once, as `accuracies_encoded`.

  Args:
    meta_params, backbone_vars, backbone, config, layout: as in `accuracies_encoded`.
    pool: uint8 images, those that the tasks name or more; its classes are not read.
    drawn: stacked [num_tasks, ...], places among these images (`feature_tasks.named`).
  """
  features = encoding.encode_pool(meta_params, backbone_vars, pool, backbone=backbone,
                                  layout=layout)
  return drawn_accuracies(meta_params, features.images, drawn, config=config, layout=layout)


def accuracies_per_task(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool,
                        keys: Array, *, backbone: Backbone, config: MetaTestConfig,
                        layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks one by one from their images, under any settings.

  Args:
    meta_params, backbone_vars, pool, keys, backbone, layout: as in `accuracies_encoded`.
    config: any settings.
  """
  network = learnable.network(backbone_vars, meta_params)
  fetch = functools.partial(sharding.take, pool.images, layout=layout)

  def one_task(key):
    drawn = episodes.draw(key, pool, way=config.way, shot=config.shot, query=config.query)
    task = episodes.gather(fetch, drawn, shot=config.shot)
    return image_task_accuracy(meta_params, network, task, pool.normalization,
                               backbone=backbone, config=config)

  own_keys = sharding.local_shard(keys, layout)
  return sharding.all_gather_rows(jax.lax.map(one_task, own_keys), len(keys), layout)


def accuracies(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, keys: Array,
               *, backbone: Backbone, config: MetaTestConfig,
               layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks by the faster of the two ways that is exact under `config`.

  Args:
    meta_params, backbone_vars, pool, keys, backbone, layout: as in `accuracies_encoded`.
    config: any settings.
  """
  score = accuracies_encoded if each_image_alone(config) else accuracies_per_task
  return score(meta_params, backbone_vars, pool, keys, backbone=backbone, config=config,
               layout=layout)


def each_image_alone(config: MetaTestConfig) -> bool:
  """Whether features depend on one image alone, so that they need to be computed only once.

  Args:
    config: settings.
  """
  inner = config.inner
  return (inner.batch_stats_mode, config.flip_support, inner.adapts) == ('running', False, 'head')


def summarize(task_accuracies: Array) -> tuple[float, float]:
  """Computes the mean and the half-width of its 95% interval: 1.96 * std / sqrt(num_tasks).

  Args:
    task_accuracies: [num_tasks], in [0, 1].

  Returns:
    (accuracy, ci95), both in [0, 1].

  >>> summarize(np.array([0.5, 0.7, 0.6, 0.6]))
  (0.6, 0.06929646455628165)
  """
  values = np.asarray(task_accuracies, np.float64)
  return float(values.mean()), float(1.96 * values.std() / np.sqrt(len(values)))
