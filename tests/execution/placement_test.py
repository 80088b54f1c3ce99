"""Where arrays of the host lie once they are copied to devices."""
import jax
import numpy as np

from mtl_jax import sharding
from mtl_jax.execution import placement
from tests.phases import NORMALIZATION, toy_pool

POOL = toy_pool([6, 9, 7, 5, 8, 6, 7, 7])  # 55 images: the parts of 8 devices do not go even


def test_a_sharded_pool_lies_in_equal_parts():
  placed = placement.place_pool(POOL, sharding.make_layout(8, 'sharded'))
  assert placed.images.shape == (56, 16, 16, 3)
  assert {shard.data.shape[0] for shard in placed.images.addressable_shards} == {7}
  black = np.zeros_like(POOL.images[:1])
  np.testing.assert_array_equal(placed.images, np.concatenate([POOL.images, black]))
  jax.tree.map(np.testing.assert_array_equal, placed.normalization, NORMALIZATION)


def test_what_lies_where_it_should_is_not_copied():
  # Of several processes, each holds a part of such an array and could not even read all of it.
  for layout in (sharding.make_layout(8), sharding.make_layout(8, 'sharded')):
    placed = placement.place_pool(POOL, layout)
    with jax.transfer_guard('disallow_explicit'):
      again = placement.place_pool(placed, layout)
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(placed), strict=True)
    assert all(a is b for a, b in pairs)
