"""Turned training classes: names, images and sizes, and what is refused."""
import numpy as np
import pytest

from mtl_jax.data import pools, rotations


def dataset(side=3):
  rng = np.random.default_rng(0)
  splits = {split: [(f'{split}{i}', rng.integers(0, 256, (2 + i, 3, side, 1), np.uint8)) for i in range(2)]
            for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def test_each_class_is_there_four_times():
  original = dataset()
  turned = rotations.of_train(original)
  assert turned.class_names['train'] == tuple(f'train{i}{end}' for i in range(2)
                                              for end in ('', '/rot90', '/rot180', '/rot270'))
  np.testing.assert_array_equal(turned.train.class_sizes, [2] * 4 + [3] * 4)
  np.testing.assert_array_equal(turned.train.class_offsets, [0, 2, 4, 6, 8, 11, 14, 17])
  np.testing.assert_array_equal(turned.mean, original.mean)
  assert turned.val is original.val and turned.test is original.test


def test_pixels_turn_counter_clockwise():
  original = dataset()
  images = rotations.of_train(original).train.images
  upright = original.train.images[:2]
  np.testing.assert_array_equal(images[:2], upright)
  np.testing.assert_array_equal(images[2:4, 0, :], upright[:, :, -1])         # the right column is on top
  np.testing.assert_array_equal(images[4:6], upright[:, ::-1, ::-1])
  np.testing.assert_array_equal(images[6:8, :, 0], upright[:, -1])            # the bottom row is on the left


def test_what_is_refused():
  with pytest.raises(ValueError, match='the training classes of toy are turned already'):
    rotations.of_train(rotations.of_train(dataset()))
  with pytest.raises(ValueError, match=r'expected square images, got \(3, 4\)'):
    rotations.of_train(dataset(side=4))
