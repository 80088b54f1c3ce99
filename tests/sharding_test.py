"""Pieces that spread work over devices, in NumPy; `execution/many_devices_test` goes on."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import episodes, sharding
from mtl_jax.execution import placement
from mtl_jax.phases import meta_train
from tests.phases import toy_pool

POOL = toy_pool([6, 9, 7, 5, 8, 6, 7, 7])  # 55 images: the parts of 8 devices do not go even
SHAPE = {'way': 3, 'shot': 1, 'query': 3}
LAYOUTS = [(2, 'replicated'), (8, 'replicated'), (8, 'sharded')]


def root():
  """The key of the tests, anew for each use: to split a key consumes it."""
  return jax.random.key(9)


@pytest.mark.parametrize('num, pool', LAYOUTS)
def test_the_same_key_draws_the_same_images(num, pool):
  layout = sharding.make_layout(num, pool)
  no_failures = np.zeros(8, np.int32)
  drawn = episodes.draw_meta_batch(episodes.split_task_keys(root(), 8), POOL, no_failures, False,
                                   **SHAPE)

  def own_tasks(pool, key, layout):
    keys = episodes.split_task_keys(key, 8)
    drawn = episodes.draw_meta_batch(keys, pool, no_failures, False, **SHAPE)
    fetch = functools.partial(sharding.take, pool.images, layout=layout)
    own = jax.vmap(lambda task: episodes.gather(fetch, task, shot=1))(
        sharding.local_shard(drawn, layout))
    assert own.query.shape[0] == 8 // num
    return jax.tree.map(lambda x: sharding.all_gather_rows(x, 8, layout), own)

  found = jax.jit(sharding.per_device(own_tasks, layout, pools=(0,)))(
      placement.place_pool(POOL, layout), placement.replicate(root(), layout))
  np.testing.assert_array_equal(found.class_ids, drawn.class_ids)
  support, query = np.split(np.asarray(drawn.indices), [1], axis=2)
  for images, places in ((found.support, support), (found.query, query)):
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, POOL.images[places.reshape(8, -1)])


def test_rows_and_means_meet():
  layout = sharding.make_layout(8)
  values = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
  numbers = np.arange(16, dtype=np.int32) ** 2

  def work(values, numbers, layout):
    own = sharding.local_shard((values, numbers), layout)
    return sharding.pmean_and_gather({'mean': own[0].mean(0)}, own[1], layout)

  means, rows = jax.jit(sharding.per_device(work, layout))(values, numbers)
  np.testing.assert_allclose(means['mean'], values.mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(rows, numbers)
  assert rows.dtype == np.int32


def test_keys_of_tasks_are_divided_like_their_tasks():
  layout = sharding.make_layout(8)
  config = meta_train.MetaTrainConfig(meta_batch=8)

  def own_bits(root_key, layout):
    own = sharding.local_shard(meta_train.task_keys(root_key, 3, config), layout)
    assert own.classes.shape == (1,)
    bits = jnp.stack([jax.random.key_data(keys) for keys in own], axis=1)
    return sharding.all_gather_rows(bits, 8, layout)

  found = jax.jit(sharding.per_device(own_bits, layout))(placement.replicate(root(), layout))
  keys = meta_train.task_keys(root(), 3, config)
  expected = np.stack([jax.random.key_data(part) for part in keys], axis=1)
  np.testing.assert_array_equal(found, expected)


def test_what_cannot_be_spread():
  make = sharding.make_layout
  assert make(1) is None and make(None) is None and make('all').size == 8
  message = ('expected meta_batch to be a multiple of the number of devices, 8, got 2; choose '
             'another --meta_batch or --devices')
  with pytest.raises(ValueError, match=message):
    sharding.check_divisible('meta_batch', 2, make(8))
  sharding.check_divisible('meta_batch', 16, make(8))
  for num in (9, 0, 'two', '-1'):
    with pytest.raises(ValueError, match="expected devices to be 'all' or from 1 to 8, .* got"):
      make(str(num))
  message = 'expected pool to be one of replicated, sharded, got .mirrored'
  with pytest.raises(ValueError, match=message):
    make(8, 'mirrored')
