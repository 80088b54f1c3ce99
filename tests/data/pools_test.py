"""Pools of images: their order, what they are normalised by, and how they are shown."""
import numpy as np
import pytest

from mtl_jax import types
from mtl_jax.data import pools


def dataset(side=6, channels=3):
  rng = np.random.default_rng(0)
  splits = {split: [(f'{split}{i}', rng.integers(0, 256, (4, side, side, channels), dtype=np.uint8))
                    for i in range(2)] for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def test_build_sorts_by_class_and_keeps_the_order_within():
  images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
  pool = pools.build(images, np.array([2, 0, 1, 0, 2]), 3)
  assert pool.images.ravel().tolist() == [1, 3, 2, 0, 4]
  assert pool.class_offsets.tolist() == [0, 2, 3] and pool.class_sizes.tolist() == [2, 1, 2]
  assert pool.class_offsets.dtype == pool.class_sizes.dtype == np.int32
  assert pool.normalization is None


@pytest.mark.parametrize('images, labels, message', [
    (np.zeros((2, 1, 1, 1), np.uint8), [0, 2], r'of each of 3 classes, got counts \[1, 0, 1\]'),
    (np.zeros((2, 1, 1, 1), np.uint8), [0, 3], 'of each of 3 classes'),
    (np.zeros((2, 1, 1, 1)), [0, 1], 'expected uint8 images'),
    (np.zeros((2, 1, 1), np.uint8), [0, 1], 'expected uint8 images'),
    (np.zeros((2, 1, 1, 1), np.uint8), [0], 'and 1 labels'),
])
def test_build_refuses(images, labels, message):
  with pytest.raises(ValueError, match=message):
    pools.build(images, np.array(labels), 3)


def test_every_pool_is_normalised_by_the_training_images():
  made = dataset()
  values = made.train.images.astype(np.float64) / 255
  for split in pools.SPLITS:
    mean, std = getattr(made, split).normalization
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-6)


def test_counts_of_parts_add_up():
  images = dataset().train.images
  parts = sum(pools.count_values(images[i:i + 3]) for i in range(0, len(images), 3))
  np.testing.assert_array_equal(parts, pools.count_values(images))


def test_equal_pixels_are_not_divided_by_zero():
  mean, std = pools.normalization_of(pools.count_values(np.full((2, 3, 3, 1), 51, np.uint8)))
  np.testing.assert_allclose(mean, [0.2], rtol=1e-6)
  np.testing.assert_allclose(std, [1 / 255], rtol=1e-6)


def test_resize_keeps_what_has_the_size_already():
  images = dataset().train.images
  assert pools.resize(images, 6) is images
  assert pools.resize(images[..., :1], 3).shape == (8, 3, 3, 1)


def test_pools_and_data_sets_are_shown_in_a_line():
  made = dataset()
  assert repr(made.train) == 'ImagePool(8 images of 6x6x3 in 2 classes)'
  pool = repr(made.train)
  assert repr(made) == f'Dataset(toy, train={pool}, val={pool}, test={pool})'
  encoded = types.ImagePool(np.zeros((8, 5), np.float32), *made.train[1:3])
  assert repr(encoded) == 'ImagePool(8 images of 5 in 2 classes)'


@pytest.mark.parametrize('placeholder', [None, object()])
def test_pools_without_images_are_shown_too(placeholder):
  """While jax maps over a tree, its leaves may be anything."""
  shown = repr(types.ImagePool(*[placeholder] * 4))
  assert shown == 'ImagePool(? images of no images in ? classes)'
