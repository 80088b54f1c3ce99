"""The middle of images, and what they are normalised by."""
import numpy as np
import pytest

from mtl_jax.data import pools


def dataset(side=6, channels=3):
  rng = np.random.default_rng(0)
  splits = {split: [(split, rng.integers(0, 256, (4, side, side, channels), dtype=np.uint8))] for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


@pytest.mark.parametrize('size, first, last', [(6, 0, 6), (4, 1, 5), (3, 1, 4), (2, 2, 4)])
def test_center_crop(size, first, last):
  original = dataset()
  cropped = pools.center_crop(original, size)
  for split in pools.SPLITS:
    np.testing.assert_array_equal(getattr(cropped, split).images,
                                  getattr(original, split).images[:, first:last, first:last])
  np.testing.assert_array_equal(cropped.mean, original.mean)


def test_center_crop_refuses_more_than_there_is():
  with pytest.raises(ValueError, match='center_crop of at most 6 pixels, .* got 7'):
    pools.center_crop(dataset(), 7)


def test_normalized():
  original = dataset()
  assert pools.normalized(original, 'dataset') is original
  unit, authors = (pools.normalized(original, name) for name in ('unit', 'authors'))
  np.testing.assert_array_equal(unit.mean, 0)
  np.testing.assert_array_equal(unit.std, 1)
  np.testing.assert_allclose(255 * authors.mean, [125.3, 123.0, 113.9], rtol=1e-6)
  np.testing.assert_allclose(255 * authors.std, [63.0, 62.1, 66.7], rtol=1e-6)


def test_normalized_refuses():
  with pytest.raises(ValueError, match="one of dataset, unit, authors, got 'imagenet'"):
    pools.normalized(dataset(), 'imagenet')
  with pytest.raises(ValueError, match='3 channels, got 1 in toy'):
    pools.normalized(dataset(channels=1), 'authors')
