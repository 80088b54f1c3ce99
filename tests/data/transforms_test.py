"""Other classes, sizes and normalisations of a data set."""
import numpy as np
import pytest

from mtl_jax.data import pools, transforms


def numbered(num_classes=7):
  """A data set whose images tell of which class they are; class i has 2 + i images."""
  splits = {split: [(f'{split}{i}', np.full((2 + i, 4, 4, 3), 10 * i + len(split), np.uint8))
                    for i in range(num_classes if split == 'train' else 2)]
            for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def noise(height=6, width=6, channels=3, num_classes=1):
  rng = np.random.default_rng(0)
  shape = height, width, channels
  splits = {split: [(f'{split}{i}', rng.integers(0, 256, (2 + i, *shape), dtype=np.uint8))
                    for i in range(num_classes)] for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def assert_normalised_alike(dataset, normalization):
  for split in pools.SPLITS:
    for found, expected in zip(getattr(dataset, split).normalization, normalization, strict=True):
      np.testing.assert_array_equal(found, expected)
      assert found.dtype == np.float32


def test_folds_share_no_class_and_are_all_of_them():
  original = numbered()
  parts = [transforms.choose_classes(original, f'fold:{k}/3') for k in (1, 2, 3)]
  assert [part.class_names['train'] for part in parts] == [
      ('train0', 'train3', 'train6'), ('train1', 'train4'), ('train2', 'train5')]
  for k, part in enumerate(parts):
    rest = transforms.choose_classes(original, f'rest:{k + 1}/3')
    chosen, others = part.class_names['train'], rest.class_names['train']
    assert not set(chosen) & set(others)
    assert sorted(chosen + others) == sorted(original.class_names['train'])


@pytest.mark.parametrize('part', ['fold:2/3', 'rest:2/3'])
def test_each_chosen_class_keeps_its_images(part):
  original = numbered()
  chosen = transforms.choose_classes(original, part)
  pool = chosen.train
  for name, start, size in zip(chosen.class_names['train'], pool.class_offsets, pool.class_sizes,
                               strict=True):
    number = int(name.removeprefix('train'))
    assert size == 2 + number
    assert (pool.images[start:start + size] == 10 * number + 5).all()
  assert len(pool.images) == pool.class_sizes.sum()
  assert pool.class_sizes.dtype == pool.class_offsets.dtype == np.int32
  assert_normalised_alike(chosen, original.train.normalization)
  assert chosen.val is original.val and chosen.test is original.test


def test_all_classes_change_nothing():
  original = numbered()
  assert transforms.choose_classes(original, 'all') is original


@pytest.mark.parametrize('part, message', [
    ('half', "got 'half'"), ('fold:0/3', "got 'fold:0/3'"),
    ('fold:4/3', "K from 1 to N, got 'fold:4/3'"),
    ('rest:1/1', 'leave some of 7 classes of toy, got none'),
    ('fold:8/9', 'leave some of 7 classes of toy, got none')])
def test_parts_that_are_refused(part, message):
  with pytest.raises(ValueError, match=message):
    transforms.choose_classes(numbered(), part)


def test_each_turned_class_is_there_four_times():
  original = noise(3, 3, 1, num_classes=2)
  turned = transforms.rotate_train_classes(original)
  assert turned.class_names['train'] == tuple(f'train{i}{end}' for i in range(2)
                                              for end in ('', '/rot90', '/rot180', '/rot270'))
  np.testing.assert_array_equal(turned.train.class_sizes, [2] * 4 + [3] * 4)
  np.testing.assert_array_equal(turned.train.class_offsets, [0, 2, 4, 6, 8, 11, 14, 17])
  assert turned.train.class_sizes.dtype == turned.train.class_offsets.dtype == np.int32
  assert_normalised_alike(turned, original.train.normalization)
  assert turned.val is original.val and turned.test is original.test


def test_pixels_turn_counter_clockwise():
  original = noise(3, 3, 1, num_classes=2)
  images = transforms.rotate_train_classes(original).train.images
  upright = original.train.images[:2]
  np.testing.assert_array_equal(images[:2], upright)
  # First the right column comes to the top, at last the bottom row to the left.
  np.testing.assert_array_equal(images[2:4, 0, :], upright[:, :, -1])
  np.testing.assert_array_equal(images[4:6], upright[:, ::-1, ::-1])
  np.testing.assert_array_equal(images[6:8, :, 0], upright[:, -1])


def test_turns_that_are_refused():
  with pytest.raises(ValueError, match='the training classes of toy are turned already'):
    transforms.rotate_train_classes(transforms.rotate_train_classes(noise()))
  with pytest.raises(ValueError, match=r'expected square images, got \(3, 4\)'):
    transforms.rotate_train_classes(noise(3, 4))


@pytest.mark.parametrize('size, first, last', [(6, 0, 6), (4, 1, 5), (3, 1, 4), (2, 2, 4)])
def test_center_crop(size, first, last):
  original = noise()
  cropped = transforms.center_crop(original, size)
  for split in pools.SPLITS:
    np.testing.assert_array_equal(getattr(cropped, split).images,
                                  getattr(original, split).images[:, first:last, first:last])
  assert_normalised_alike(cropped, original.train.normalization)


def test_center_crop_keeps_images_on_disk(tmp_path):
  original = noise()
  np.save(tmp_path / 'images.npy', original.train.images)
  mapped = original.train._replace(images=np.load(tmp_path / 'images.npy', mmap_mode='r'))
  cropped = transforms.center_crop(original._replace(train=mapped), 4)
  assert isinstance(cropped.train.images, np.memmap)


def test_center_crop_refuses_more_than_there_is():
  with pytest.raises(ValueError, match='center_crop of at most 6 pixels, .* got 7'):
    transforms.center_crop(noise(), 7)


def test_resized_images_are_normalised_by_their_own_moments():
  original = noise()
  resized = transforms.resize(original, 3)
  assert [getattr(resized, split).images.shape for split in pools.SPLITS] == [(2, 3, 3, 3)] * 3
  values = resized.train.images.astype(np.float64) / 255
  np.testing.assert_allclose(resized.train.normalization.mean, values.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(resized.train.normalization.std, values.std((0, 1, 2)), rtol=1e-6)
  assert_normalised_alike(resized, resized.train.normalization)
  assert (resized.train.normalization.std < original.train.normalization.std).all()
  assert (resized.class_names, resized.flip) == (original.class_names, original.flip)


def test_normalized():
  original = noise()
  assert transforms.normalized(original, 'dataset') is original
  assert_normalised_alike(transforms.normalized(original, 'unit'), (np.zeros(3), np.ones(3)))
  authors = transforms.normalized(original, 'authors')
  mean, std = authors.train.normalization
  np.testing.assert_allclose(255 * mean, [125.3, 123.0, 113.9], rtol=1e-6)
  np.testing.assert_allclose(255 * std, [63.0, 62.1, 66.7], rtol=1e-6)
  assert_normalised_alike(authors, (mean, std))


def test_normalized_refuses():
  with pytest.raises(ValueError, match='one of dataset, unit, authors, imagenet, .*, got .x.'):
    transforms.normalized(noise(), 'x')
  with pytest.raises(ValueError, match='3 channels, got 1 in toy'):
    transforms.normalized(noise(channels=1), 'authors')
