"""Phase 3, meta-test: Φ_S and θ stay as meta-learned; each unseen task adapts θ on its support and scores its query."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import augment, base_learner, episodes, scale_shift
from mtl_jax.types import Backbone, BackboneVars, Episode, ImagePool, MetaParams


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
                std: jax.Array, *, backbone: Backbone, batch_size: int = 200) -> ImagePool:
  """Computes the features of every image of a split once, by running statistics.

  Args:
    meta_params: Φ_S is read.
    backbone_vars: Θ.
    pool: uint8 images [n, H, W, C].
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    batch_size: images per forward pass.

  Returns:
    The same pool with features float32 [n, d] in place of images.
  """
  params = scale_shift.modulate(backbone_vars.params, meta_params.scale_shift)
  modulated = backbone_vars._replace(params=params)

  def one_batch(images):
    return backbone.features(modulated, augment.normalize(images, mean, std), batch_stats_mode='running')

  total = pool.images.shape[0]
  whole = total // batch_size * batch_size
  batches = pool.images[:whole].reshape(-1, batch_size, *pool.images.shape[1:])
  parts = [jax.lax.map(one_batch, batches).reshape(whole, backbone.feature_dim)] if whole else []
  parts += [one_batch(pool.images[whole:])] if whole < total else []
  return pool._replace(images=jnp.concatenate(parts))


def task_accuracy(theta: base_learner.BaseLearner, task: Episode, *, config: MetaTestConfig) -> jax.Array:
  """Adapts θ to one task given as features and scores its query set.

  Args:
    theta: θ, meta-learned.
    task: an Episode with features [n, d] in place of images.
    config: settings.

  Returns:
    Accuracy in [0, 1], a scalar.
  """
  adapted = base_learner.adapt(theta, task.support_images, task.support_labels, task.query_images,
                               inner_lr=config.inner_lr, num_steps=config.inner_steps)
  return jnp.mean(jnp.argmax(adapted.query_logits, axis=1) == task.query_labels)


def accuracies_encoded(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
                       std: jax.Array, keys: jax.Array, *, backbone: Backbone, config: MetaTestConfig) -> jax.Array:
  """Scores tasks with every image encoded once: exact where features depend on one image alone.

  Args:
    meta_params: Φ_S and θ.
    backbone_vars: Θ.
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings, of running statistics and support not flipped.

  Returns:
    float32 [num_tasks].
  """
  features = encode_pool(meta_params, backbone_vars, pool, mean, std, backbone=backbone)

  def one_task(key):
    task = episodes.sample(key, features, way=config.way, shot=config.shot, query=config.query)
    return task_accuracy(meta_params.base_learner, task, config=config)

  return jax.lax.map(one_task, keys, batch_size=100)


def accuracies_per_task(meta_params: MetaParams, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array,
                        std: jax.Array, keys: jax.Array, *, backbone: Backbone, config: MetaTestConfig) -> jax.Array:
  """Scores tasks one by one from their images: works under every protocol.

  Args:
    meta_params: Φ_S and θ.
    backbone_vars: Θ.
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings.

  Returns:
    float32 [num_tasks].
  """
  params = scale_shift.modulate(backbone_vars.params, meta_params.scale_shift)

  def encode(images):
    return backbone.features(backbone_vars._replace(params=params), augment.normalize(images, mean, std),
                             batch_stats_mode=config.batch_stats_mode)

  def one_task(key):
    task = episodes.sample(key, pool, way=config.way, shot=config.shot, query=config.query)
    images, labels = task.support_images, task.support_labels
    if config.flip_support:
      images, labels = jnp.concatenate([images, images[:, :, ::-1]]), jnp.concatenate([labels, labels])
    task = task._replace(support_images=encode(images), support_labels=labels, query_images=encode(task.query_images))
    return task_accuracy(meta_params.base_learner, task, config=config)

  return jax.lax.map(one_task, keys)


def accuracies(*arguments, backbone: Backbone, config: MetaTestConfig) -> jax.Array:
  """Scores tasks by the faster of the two ways that is exact under `config`; arguments as `accuracies_encoded`.

  Args:
    *arguments: meta_params, backbone_vars, pool, mean, std, keys.
    backbone: the network.
    config: settings.

  Returns:
    float32 [num_tasks].
  """
  each_image_alone = config.batch_stats_mode == 'running' and not config.flip_support
  score = accuracies_encoded if each_image_alone else accuracies_per_task
  return score(*arguments, backbone=backbone, config=config)


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
