"""Phase 3, meta-test: Φ_S and θ stay as meta-learned; each unseen task adapts θ on its support and scores its query."""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, base_learner, episodes, inner_loop, learnable, sharding
from mtl_jax.types import Backbone, BackboneVars, Episode, ImagePool, MetaParams

IMAGES_PER_PASS = 200  # when a whole split is encoded; of those above 84 pixels as many as have so many pixels


class MetaTestConfig(NamedTuple):
  """Settings of meta-test; the defaults are the `inductive` protocol."""
  num_tasks: int = 600
  way: int = 5
  shot: int = 1
  query: int = 15
  inner_lr: float = 0.01
  inner_steps: int = 100
  batch_stats_mode: str = 'running'  # 'batch': statistics of the pass at hand, support and query apart
  flip_support: bool = False         # support doubled by horizontal flips
  adapts: str = 'head'               # what the inner loop adapts beside θ: nothing, the 'last_block', or 'all'
  gradient_order: str = 'first'      # read by inner loops; scores are the same
  regularization: float = 0.0        # λ, pull of the inner loop towards its start
  over_tasks: str = 'loop'           # read by inner loops, which get one task at a time


def protocol_settings(protocol: str, shot: int) -> dict:
  """Gives the settings that a protocol stands for.

  Args:
    protocol: 'inductive' (15 queries per class, running statistics) or 'paper' (as many queries as shots, batch
      statistics, support doubled by flips).
    shot: K.

  Returns:
    Fields of MetaTestConfig: `query`, `batch_stats_mode` and `flip_support`.

  Raises:
    ValueError: an unknown protocol.
  """
  if protocol == 'inductive':
    return {'query': 15, 'batch_stats_mode': 'running', 'flip_support': False}
  if protocol == 'paper':
    return {'query': shot, 'batch_stats_mode': 'batch', 'flip_support': True}
  raise ValueError(f"expected protocol 'inductive' or 'paper', got {protocol!r}")


def task_keys(root_key: jax.Array, num_tasks: int) -> jax.Array:
  """Fixes the tasks: the key of task i depends on the root key and i alone.

  Args:
    root_key: of the evaluation.
    num_tasks: how many tasks.

  Returns:
    Keys [num_tasks].
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(root_key, jnp.arange(num_tasks))


def encode_pool(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
                std: jax.Array, *, backbone: Backbone, batch_size: int | None = None,
                layout: sharding.Layout | None = None) -> ImagePool:
  """Computes the features of every image of a split once, by running statistics.

  Args:
    meta_params: what the outer loop has made of the network is read.
    backbone_vars: Θ.
    pool: uint8 images [n, H, W, C].
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    batch_size: images per forward pass; None: `images_per_pass`.
    layout: of the devices, each of which encodes its part of the images (`devices.on_each`); None: one device.

  Returns:
    The same pool with features float32 [n, d] in place of images, all of them on each device.
  """
  network = learnable.network(backbone_vars, meta_params)
  return map_images(lambda images: encode_images(network, images, mean, std, backbone=backbone), pool, batch_size,
                    layout)


def images_per_pass(height: int, width: int) -> int:
  """Gives how many images of that size are encoded at a time, so that their maps fit in memory.

  Args:
    height: pixels.
    width: pixels.

  Returns:
    IMAGES_PER_PASS up to 84x84 pixels; above, as many as have that many pixels, at least 1.

  >>> images_per_pass(32, 32), images_per_pass(84, 84), images_per_pass(224, 224)
  (200, 200, 28)
  """
  return max(1, min(IMAGES_PER_PASS, IMAGES_PER_PASS * 84**2 // (height * width)))


def map_images(function: Callable[[jax.Array], jax.Array], pool: ImagePool, batch_size: int | None = None,
               layout: sharding.Layout | None = None) -> ImagePool:
  """Applies a function to all images of a split, batch by batch: a pool of what it gives, [n, ...]."""
  images, total = sharding.own_images(pool.images, layout)
  batch_size = batch_size or images_per_pass(*images.shape[1:3])
  whole = len(images) // batch_size * batch_size
  parts = [jax.lax.map(function, images[:whole].reshape(-1, batch_size, *images.shape[1:]))] if whole else []
  parts = [part.reshape(whole, *part.shape[2:]) for part in parts]
  parts += [function(images[whole:])] if whole < len(images) else []
  return pool._replace(images=sharding.everyone(jnp.concatenate(parts), total, layout))


def encode_images(network: BackboneVars, images: jax.Array, mean: jax.Array, std: jax.Array, *,
                  backbone: Backbone) -> jax.Array:
  """Computes the features of uint8 images [n, H, W, C] by running statistics of `learnable.network`: float32 [n, d]."""
  return backbone.features(network, augment.normalize(images, mean, std), batch_stats_mode='running')


def accuracy_of(query_logits: jax.Array, query_labels: jax.Array) -> jax.Array:
  """Gives the share of queries whose highest logit is that of their class.

  Args:
    query_logits: [m, N].
    query_labels: int [m].

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  return jnp.mean(jnp.argmax(query_logits, axis=1) == query_labels)


def task_accuracy(meta_params: MetaParams, task: Episode, *, config: MetaTestConfig) -> jax.Array:
  """Adapts θ to one task given as features and scores its query set.

  Args:
    meta_params: θ and the inner rates are read.
    task: an Episode with features [n, d] in place of images.
    config: settings.

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  rates = learnable.inner_rates(meta_params, config.inner_lr, config.inner_steps)
  adapted = base_learner.adapt(meta_params.base_learner, task.support_images, task.support_labels, task.query_images,
                               inner_lr=rates, num_steps=config.inner_steps, regularization=config.regularization)
  return accuracy_of(adapted.query_logits, task.query_labels)


def accuracies_encoded(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
                       std: jax.Array, keys: jax.Array, *, backbone: Backbone, config: MetaTestConfig,
                       layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks with every image encoded once: exact where features depend on one image alone.

  Args:
    meta_params: Φ_S, θ and whatever else was learned.
    backbone_vars: Θ.
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings, of running statistics, support not flipped and θ alone adapted.
    layout: of the devices, each of which takes its part of the tasks (`devices.on_each`); None: one device.

  Returns:
    float32 [num_tasks].
  """
  features = encode_pool(meta_params, backbone_vars, pool, mean, std, backbone=backbone, layout=layout)
  return feature_accuracies(meta_params, features, keys, config=config, layout=layout)


def feature_accuracies(meta_params: MetaParams, features: ImagePool, keys: jax.Array, *, config: MetaTestConfig,
                       layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks over the features that `encode_pool` gives: float32 [num_tasks]."""
  def one_task(key):
    task = episodes.sample(key, features, way=config.way, shot=config.shot, query=config.query)
    return task_accuracy(meta_params, task, config=config)

  return sharding.everyone(jax.lax.map(one_task, sharding.own(keys, layout), batch_size=100), len(keys), layout)


def accuracies_per_task(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
                        std: jax.Array, keys: jax.Array, *, backbone: Backbone, config: MetaTestConfig,
                        layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks one by one from their images: works under every protocol, and adapts the network where asked to.

  Args:
    meta_params: Φ_S, θ and whatever else was learned.
    backbone_vars: Θ.
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings.
    layout: as in `accuracies_encoded`.

  Returns:
    float32 [num_tasks].
  """
  network = learnable.network(backbone_vars, meta_params)

  def one_task(key):
    task = episodes.sample(key, pool, way=config.way, shot=config.shot, query=config.query, layout=layout)
    return image_task_accuracy(meta_params, network, task, mean, std, backbone=backbone, config=config)

  return sharding.everyone(jax.lax.map(one_task, sharding.own(keys, layout)), len(keys), layout)


def image_task_accuracy(meta_params: MetaParams, network: BackboneVars, task: Episode, mean: jax.Array, std: jax.Array,
                        *, backbone: Backbone, config: MetaTestConfig) -> jax.Array:
  """Scores one Episode of uint8 images under any settings, with the network of `learnable.network`: a scalar."""
  task = _normalized(task, mean, std, flip_support=config.flip_support)
  if config.adapts == 'head':
    support, query = (backbone.features(network, images, batch_stats_mode=config.batch_stats_mode)
                      for images in (task.support_images, task.query_images))
    return task_accuracy(meta_params, task._replace(support_images=support, query_images=query), config=config)
  rates = learnable.inner_rates(meta_params, config.inner_lr, config.inner_steps)
  one = jax.tree.map(lambda x: x[None], task)
  logits = inner_loop.LOOPS[config.adapts](meta_params.base_learner, network, rates, one, backbone=backbone,
                                           config=config)
  return accuracy_of(logits[0], task.query_labels)


def _normalized(task: Episode, mean: jax.Array, std: jax.Array, *, flip_support: bool) -> Episode:
  images, labels = task.support_images, task.support_labels
  if flip_support:
    images, labels = jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([labels, labels])
  return task._replace(support_images=augment.normalize(images, mean, std), support_labels=labels,
                       query_images=augment.normalize(task.query_images, mean, std))


def accuracies(*arguments, backbone: Backbone, config: MetaTestConfig,
               layout: sharding.Layout | None = None) -> jax.Array:
  """Scores tasks by the faster of the two ways that is exact under `config`; arguments as `accuracies_encoded`.

  Args:
    *arguments: meta_params, backbone_vars, pool, mean, std, keys.
    backbone: the network.
    config: settings.
    layout: as in `accuracies_encoded`.

  Returns:
    float32 [num_tasks].
  """
  score = accuracies_encoded if each_image_alone(config) else accuracies_per_task
  return score(*arguments, backbone=backbone, config=config, layout=layout)


def each_image_alone(config: MetaTestConfig) -> bool:
  """Tells whether the features of an image depend on that image alone, so that they need to be computed only once."""
  return (config.batch_stats_mode, config.flip_support, config.adapts) == ('running', False, 'head')


def summarize(task_accuracies: np.ndarray) -> tuple[float, float]:
  """Gives the mean and the half-width of its 95% interval: 1.96 * std / sqrt(num_tasks).

  Args:
    task_accuracies: [num_tasks], in [0, 1].

  Returns:
    (accuracy, ci95), both in [0, 1].

  >>> summarize(np.array([0.5, 0.7, 0.6, 0.6]))
  (0.6, 0.06929646455628165)
  """
  values = np.asarray(task_accuracies, np.float64)
  return float(values.mean()), float(1.96 * values.std() / np.sqrt(len(values)))
