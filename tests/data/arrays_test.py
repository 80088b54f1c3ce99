"""Data sets of arrays: their pools against a plain selection, and what is refused."""
import numpy as np
import pytest

from mtl_jax import data

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = RANDOM.permutation(np.repeat(np.arange(10), 4))


@pytest.mark.parametrize('labels', [LABELS, LABELS.tolist(), LABELS.astype(np.uint8),
                                    np.array([f'c{label}' for label in LABELS]),
                                    np.array([f'c{label}' for label in LABELS], object)])
def test_pools_hold_the_images_of_their_classes(labels):
  dataset = data.from_arrays('toy', IMAGES, labels, split=(0.6, 0.2, 0.2), seed=3)
  assert [len(dataset.class_names[split]) for split in ('train', 'val', 'test')] == [6, 2, 2]
  assert dataset.name == 'toy' and dataset.origin is None
  for split in ('train', 'val', 'test'):
    pool = getattr(dataset, split)
    expected = [IMAGES[np.array([str(label) == name for label in labels])]
                for name in dataset.class_names[split]]
    np.testing.assert_array_equal(pool.images, np.concatenate(expected))
    assert pool.class_sizes.tolist() == [4] * len(expected)
  train = dataset.train.images / 255
  np.testing.assert_allclose(dataset.train.normalization.mean, train.mean((0, 1, 2)), rtol=1e-5)


def test_seed_and_explicit_classes():
  first, again, other = (data.from_arrays('toy', IMAGES, LABELS, seed=seed).class_names
                         for seed in (0, 0, 1))
  assert first == again != other
  dataset = data.from_arrays('toy', IMAGES, LABELS,
                             classes={'train': [7, 2], 'val': (0,), 'test': np.array([9])})
  assert dataset.class_names == {'train': ('7', '2'), 'val': ('0',), 'test': ('9',)}
  np.testing.assert_array_equal(dataset.train.images[:4], IMAGES[LABELS == 7])


@pytest.mark.parametrize(('changes', 'says'), [
    ({'images': IMAGES / 255}, 'expected images uint8, .* got float64; where they lie in 0 to 1'),
    ({'images': np.full(IMAGES.shape, np.nan, np.float32)}, 'some of them NaN or infinite'),
    ({'images': IMAGES.astype(np.int32)}, 'got int32'),
    ({'images': IMAGES[..., 0]}, r'got shape \(40, 6, 5\)'),
    ({'images': IMAGES.transpose(0, 3, 1, 2)}, r'1 or 3 channels\], got shape \(40, 3, 6, 5\)'),
    ({'images': IMAGES[:0], 'labels': []}, r'got shape \(0, 6, 5, 3\)'),
    ({'labels': LABELS[:39]}, 'one label for each of 40 images, got 39'),
    ({'labels': LABELS[:, None]}, r'labels \[n\] of integers or strings, got int64 \[40, 1\]'),
    ({'labels': np.where(LABELS == 3, np.nan, LABELS)}, 'got float64 .*some of them NaN'),
    ({'labels': [1, [2]]}, 'nested lists'),
    ({'labels': [None] * 40}, 'got object'),
    ({'split': (0.6, 0.2, 0.1)}, 'three fractions above 0 that sum to 1'),
    ({'split': (0.9, 0.05, 0.05)}, 'of 10 classes'),
    ({'labels': np.zeros(40, int)}, 'of 1 class'),
    ({'classes': {'train': [1], 'val': [2]}}, 'labels for train, val and test'),
    ({'classes': {'train': [1], 'val': [2], 'test': []}}, 'at least one class in test'),
    ({'classes': {'train': [1], 'val': [2], 'test': [1]}}, 'found more than once: 1'),
    ({'classes': {'train': [1], 'val': [2], 'test': [77]}}, "test class '77' has no image"),
])
def test_refused_in_one_line(changes, says):
  arguments = {'images': IMAGES, 'labels': LABELS} | changes
  with pytest.raises(ValueError, match=says) as e:
    data.from_arrays('toy', **arguments)
  assert '\n' not in str(e.value)
