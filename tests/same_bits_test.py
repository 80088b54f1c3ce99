"""What a key draws, pinned: a run that is resumed or repeated sees the images that it saw.

Checksums are those of version 0.1.0. Of numbers that are rounded, `golden/meta_step` pins values.
"""
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import augment, episodes
from mtl_jax.configs import MetaTrainConfig, PretrainConfig
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import ImagePool

ROOT = jax.random.key(42)
SIZES = np.array([6, 9, 7, 12, 6, 8], np.int32)
OFFSETS = (np.cumsum(SIZES) - SIZES).astype(np.int32)
FAILURES = np.array([0, 3, 0, 1, 1, 2], np.int32)
TASK = {'way': 3, 'shot': 2, 'query': 3}
CONFIG = MetaTrainConfig(**TASK, meta_batch=2, crop_padding=2)


def pool():
  """Images of 6x6 pixels in colour, all different."""
  values = np.arange(SIZES.sum() * 6 * 6 * 3) * 37 % 251
  images = values.astype(np.uint8).reshape(-1, 6, 6, 3)
  return ImagePool(jnp.asarray(images), jnp.asarray(OFFSETS), jnp.asarray(SIZES))


def checksum(array):
  return zlib.crc32(np.ascontiguousarray(array).tobytes())


@pytest.mark.parametrize('hard, indices, class_ids, first', [
    (False, 2804295502, 3788709903, [[5, 1, 2], [3, 0, 1]]),
    (True, 1848386801, 1422724855, [[5, 4, 3], [3, 5, 4]])])
def test_tasks_of_four_outer_steps(hard, indices, class_ids, first):
  drawn = [episodes.draw_meta_batch(meta_train.task_keys(ROOT, step, CONFIG), pool(), FAILURES,
                                    hard, **TASK) for step in range(4)]
  drawn = jax.tree.map(lambda *steps: np.stack(steps), *drawn)
  np.testing.assert_array_equal(drawn.class_ids[0], first)
  assert drawn.indices.dtype == drawn.class_ids.dtype == np.int32
  assert (checksum(drawn.indices), checksum(drawn.class_ids)) == (indices, class_ids)


def test_images_of_an_outer_step_with_their_crops_and_flips():
  # A pool without a normalisation keeps its bytes.
  tasks = meta_train.draw_tasks(jax.random.fold_in(ROOT, 0), pool(), FAILURES, False,
                                config=CONFIG)
  assert tasks.support.dtype == np.uint8 and tasks.support.shape == (2, 6, 6, 6, 3)
  assert (checksum(tasks.support), checksum(tasks.query)) == (3828886003, 237046970)
  keys = meta_train.task_keys(ROOT, 0, CONFIG)
  drawn = episodes.draw_meta_batch(keys, pool(), FAILURES, False, **TASK)
  plain = [np.asarray(pool().images)[task[:, :2].ravel()] for task in np.asarray(drawn.indices)]
  assert checksum(plain) == 2563747875
  augmented = augment.augment_tasks(keys, tasks._replace(support=np.stack(plain)), None,
                                    padding=2, flip=True)
  np.testing.assert_array_equal(augmented.support, tasks.support)


def test_a_batch_of_pre_training_with_its_crops_and_flips():
  keys = pretrain.batch_keys(ROOT, 7)
  indices, labels = episodes.draw_batch(keys.indices, pool(), 16)
  np.testing.assert_array_equal(
      indices, [9, 31, 41, 14, 47, 24, 20, 8, 37, 46, 36, 47, 46, 35, 16, 27])
  assert indices.dtype == labels.dtype == np.int32
  images = augment.crop_and_flip(keys.augment, pool().images[indices], padding=2, flip=True)
  assert (checksum(labels), checksum(images)) == (3298658652, 3795832165)
  # Colours are rounded, perhaps otherwise on another machine, so only their mean is pinned.
  jittered = augment.color_jitter(keys.color, images, 0.4)
  np.testing.assert_allclose(np.mean(jittered, dtype=float), 75.21064814814815, atol=0.01)


def test_tasks_of_a_meta_test():
  keys = meta_test.task_keys(ROOT, 5)
  assert checksum(jax.random.key_data(keys)) == 3601940732
  drawn = jax.vmap(lambda key: episodes.draw(key, pool(), **TASK))(keys)
  assert (checksum(drawn.indices), checksum(drawn.class_ids)) == (2462927899, 1849739881)


def test_the_start_of_pre_training():
  keys = []

  def init(key):
    keys.append(key)
    return types.SimpleNamespace(params={})

  backbone = types.SimpleNamespace(init=init, feature_dim=4)
  hidden, _ = pretrain.init(ROOT, backbone, 3, PretrainConfig(hidden_units=2)).head
  np.testing.assert_array_equal(jax.random.key_data(keys[0]), [1832780943, 270669613])
  np.testing.assert_allclose(hidden.kernel, [
      [0.4621104, 0.60663956], [-0.68759632, -0.48430914], [-0.91142261, -0.6312198],
      [-0.36257121, -0.93054962]], rtol=1e-6)
