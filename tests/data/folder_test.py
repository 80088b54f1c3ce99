"""Trees of images: their splits, what belongs to them, and every kind of damage."""
import json

import numpy as np
import pytest

from mtl_jax import data
from tests.data.images_on_disk import save


def make_tree(root, splits=('train', 'val', 'test')):
  for s, split in enumerate(splits):
    for c in range(2):
      for i in range(3):
        save(root / split / f'{split}_{c}' / f'{i}.png',
             np.full((10, 10, 3), 40 * s + 20 * c + i, np.uint8))
  return root


def load(tmp_path, **options):
  return data.load('folder', data_dir=tmp_path / 'tree', cache_dir=tmp_path / 'cache',
                   **{'image_size': 8, **options})


def one_line(error):
  assert '\n' not in str(error.value)
  return str(error.value)


def test_tree_of_splits(tmp_path):
  make_tree(tmp_path / 'tree')
  dataset = load(tmp_path)
  assert dataset.flip and dataset.name == 'folder'
  for s, split in enumerate(('train', 'val', 'test')):
    pool = getattr(dataset, split)
    assert dataset.class_names[split] == (f'{split}_0', f'{split}_1')
    assert pool.class_offsets.tolist() == [0, 3] and pool.class_sizes.tolist() == [3, 3]
    assert pool.images.shape == (6, 8, 8, 3)
    assert pool.images[:, 4, 4, 1].tolist() == [
        40 * s + 20 * c + i for c in range(2) for i in range(3)]


def test_default_size_is_84(tmp_path):
  make_tree(tmp_path / 'tree')
  assert load(tmp_path, image_size=None).test.images.shape == (6, 84, 84, 3)


def test_split_file_chooses_and_orders_classes(tmp_path):
  for name in 'abcd':
    save(tmp_path / 'tree' / name / '0.png', np.zeros((9, 9, 3), np.uint8))
  split_file = tmp_path / 'split.json'
  split_file.write_text(json.dumps({'train': ['d', 'a'], 'val': ['c'], 'test': ['b']}))
  dataset = load(tmp_path, split_file=split_file)
  assert dataset.class_names == {'train': ('d', 'a'), 'val': ('c',), 'test': ('b',)}


@pytest.mark.parametrize(('content', 'message'), [
    ({'train': ['a', 'b'], 'val': ['b'], 'test': ['c']}, 'found more than once: b'),
    ({'train': ['a', 'zebra'], 'val': ['b'], 'test': ['c']}, "train class 'zebra' not found"),
    ({'train': ['a'], 'val': ['../tree/b'], 'test': ['c']}, "val class '../tree/b' not found"),
    ({'train': ['a'], 'val': [], 'test': ['c']}, 'expected at least one class in val, found none'),
    ({'train': ['a'], 'val': ['b']}, 'expected {"train": [classes]'),
    ([1], 'expected {"train": [classes]'),
])
def test_wrong_split_file_is_explained(tmp_path, content, message):
  for name in 'abc':
    save(tmp_path / 'tree' / name / '0.png', np.zeros((9, 9, 3), np.uint8))
  split_file = tmp_path / 'split.json'
  split_file.write_text(json.dumps(content))
  with pytest.raises(ValueError) as e:
    load(tmp_path, split_file=split_file)
  assert message in one_line(e) and str(split_file) in str(e.value)


def test_split_file_that_is_not_json(tmp_path):
  (tmp_path / 'tree').mkdir()
  for name, content in (('missing.json', None), ('broken.json', '{train')):
    if content:
      (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f'{name}: cannot be read as JSON') as e:
      load(tmp_path, split_file=tmp_path / name)
    one_line(e)


def test_other_files_are_ignored(tmp_path):
  make_tree(tmp_path / 'tree')
  (tmp_path / 'tree/train/train_0/notes.txt').write_text('no image')
  (tmp_path / 'tree/train/train_0/._0.png').write_bytes(b'left by a copy')
  (tmp_path / 'tree/train/.cache').mkdir()
  assert load(tmp_path).train.class_sizes.tolist() == [3, 3]


@pytest.mark.parametrize(('content', 'message'), [
    (b'', r'bad\.png: empty file \(0 bytes\)'),
    (b'not an image at all', r'bad\.png: broken image \(cannot identify image file'),
    ('truncated', r'bad\.png: broken image \('),
])
def test_broken_image_is_named_or_skipped(tmp_path, content, message):
  make_tree(tmp_path / 'tree')
  if content == 'truncated':
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = save(tmp_path / 'whole.png', noise).read_bytes()[:2000]
  (tmp_path / 'tree/val/val_1/bad.png').write_bytes(content)
  hint = '.*pass --skip_broken_images to leave such images out'
  with pytest.raises(ValueError, match=message + hint) as e:
    load(tmp_path)
  one_line(e)
  with pytest.warns(UserWarning, match=r'left out 1 broken images, the first: .*bad\.png'):
    dataset = load(tmp_path, skip_broken=True)
  assert dataset.val.class_sizes.tolist() == [3, 3]


def test_class_of_broken_images_only_is_refused(tmp_path):
  make_tree(tmp_path / 'tree')
  for path in (tmp_path / 'tree/test/test_0').iterdir():
    path.write_bytes(b'')
  with pytest.raises(ValueError, match='test_0: all of its 3 images are broken'):
    load(tmp_path, skip_broken=True)


def test_class_folder_without_images_is_named(tmp_path):
  make_tree(tmp_path / 'tree')
  (tmp_path / 'tree/train/empty').mkdir()
  with pytest.raises(ValueError, match=r'class folder .*empty: expected images .*, found none'):
    load(tmp_path)


def test_missing_split_is_named(tmp_path):
  make_tree(tmp_path / 'tree', ('train', 'test'))
  with pytest.raises(ValueError, match='missing val'):
    load(tmp_path)
  (tmp_path / 'tree/val').mkdir()
  with pytest.raises(ValueError, match='expected at least one class in val, found none'):
    load(tmp_path)


def test_class_in_two_splits_is_refused(tmp_path):
  make_tree(tmp_path / 'tree')
  save(tmp_path / 'tree/test/train_0/0.png', np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match='found more than once: train_0'):
    load(tmp_path)


def test_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'expected data_dir to be a folder of images, got .*tree'):
    load(tmp_path)
  with pytest.raises(ValueError, match='got None'):
    data.load('folder', cache_dir=tmp_path / 'cache')


def test_changed_image_is_seen(tmp_path):
  make_tree(tmp_path / 'tree')
  before = load(tmp_path).train.images[0].copy()
  save(tmp_path / 'tree/train/train_0/0.png', np.full((11, 11, 3), 200, np.uint8))
  assert np.all(before == 0)
  assert np.all(load(tmp_path).train.images[0] == 200)


def test_split_file_for_another_set_is_refused(tmp_path):
  with pytest.raises(ValueError, match='fc100 is split already; only folder takes one'):
    data.load('fc100', split_file=tmp_path / 'split.json')
