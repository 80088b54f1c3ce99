"""Parts of the base classes: together they are all of them, and none is in two."""
import numpy as np
import pytest

from mtl_jax.data import folds, pools


def dataset(num_classes=7):
  splits = {split: [(f'{split}{i}', np.full((2 + i, 4, 4, 3), 10 * i + len(split), np.uint8))
                    for i in range(num_classes if split == 'train' else 2)] for split in pools.SPLITS}
  return pools.from_classes('toy', splits, flip=True)


def test_folds_share_no_class_and_are_all_of_them():
  original = dataset()
  parts = [folds.choose(original, f'fold:{k}/3') for k in (1, 2, 3)]
  assert [part.class_names['train'] for part in parts] == [
      ('train0', 'train3', 'train6'), ('train1', 'train4'), ('train2', 'train5')]
  for k, part in enumerate(parts):
    rest = folds.choose(original, f'rest:{k + 1}/3')
    assert not set(part.class_names['train']) & set(rest.class_names['train'])
    assert sorted(part.class_names['train'] + rest.class_names['train']) == sorted(original.class_names['train'])


@pytest.mark.parametrize('part', ['fold:2/3', 'rest:2/3'])
def test_each_class_keeps_its_images(part):
  original = dataset()
  chosen = folds.choose(original, part)
  for name, start, size in zip(chosen.class_names['train'], chosen.train.class_offsets, chosen.train.class_sizes,
                               strict=True):
    number = int(name.removeprefix('train'))
    assert size == 2 + number
    assert (chosen.train.images[start:start + size] == 10 * number + 5).all()
  assert len(chosen.train.images) == chosen.train.class_sizes.sum()
  np.testing.assert_array_equal(chosen.mean, original.mean)
  assert chosen.val is original.val and chosen.test is original.test


def test_all_changes_nothing():
  original = dataset()
  assert folds.choose(original, 'all') is original


@pytest.mark.parametrize('part, message', [
    ('half', "got 'half'"), ('fold:0/3', "got 'fold:0/3'"), ('fold:4/3', "K from 1 to N, got 'fold:4/3'"),
    ('rest:1/1', 'leave some of 7 classes of toy, got none'), ('fold:8/9', 'leave some of 7 classes of toy, got none')])
def test_what_is_refused(part, message):
  with pytest.raises(ValueError, match=message):
    folds.choose(dataset(), part)
