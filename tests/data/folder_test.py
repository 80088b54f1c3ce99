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
  assert dataset.flip and dataset.name == 'tree'  # that of the folder
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
    ({'train': ['a'], 'val': ['../tree/b'], 'test': ['c']},
     "expected names of classes, got val class '../tree/b'"),
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
  with pytest.raises(ValueError, match='fc100 is split already; only images of your own'):
    data.load('fc100', split_file=tmp_path / 'split.json')


def make_classes(root, names, images=2):
  for c, name in enumerate(names):
    for i in range(images):
      save(root / name / f'{i}.png', np.full((9, 9, 3), 10 * c + i, np.uint8))
  return root


def classes_of(dataset):
  return {split: list(names) for split, names in dataset.class_names.items()}


def test_classes_are_divided_by_fractions_and_a_seed(tmp_path):
  make_classes(tmp_path / 'tree', 'abcdefghij')
  dataset = load(tmp_path, split=(0.6, 0.2, 0.2))
  assert [len(names) for names in dataset.class_names.values()] == [6, 2, 2]
  assert sorted(sum(classes_of(dataset).values(), [])) == list('abcdefghij')
  for split in ('train', 'val', 'test'):  # each class has its own images still
    pool = getattr(dataset, split)
    assert pool.images[::2, 4, 4, 1].tolist() == [
        10 * (ord(name) - ord('a')) for name in dataset.class_names[split]]
  assert classes_of(load(tmp_path, split=(0.6, 0.2, 0.2))) == classes_of(dataset)
  assert classes_of(load(tmp_path, split=(0.6, 0.2, 0.2), split_seed=1)) != classes_of(dataset)
  assert len(load(tmp_path, split=(0.4, 0.3, 0.3)).class_names['val']) == 3
  assert dataset.origin == {'dataset': 'folder', 'data_dir': str(tmp_path / 'tree'),
                            'split': [0.6, 0.2, 0.2], 'split_seed': 0}


def test_classes_without_splits_say_what_divides_them(tmp_path):
  make_classes(tmp_path / 'tree', 'abc')
  with pytest.raises(ValueError, match=r'found 3 classes, .*--split=0\.6,0\.2,0\.2.*--split_file'):
    load(tmp_path)
  with pytest.raises(ValueError, match=r'leave a class in each .* of 3 classes'):
    load(tmp_path, split=(0.8, 0.1, 0.1))
  with pytest.raises(ValueError, match='three fractions above 0 that sum to 1'):
    load(tmp_path, split=(0.6, 0.2, 0.1))


def test_folders_of_images_in_class_folders_and_nested_classes(tmp_path):
  make_classes(tmp_path / 'tree', ['n01/images', 'n02/images', 'Fruit/Apple/Golden', 'Fruit/Pear'])
  dataset = load(tmp_path, split=(0.5, 0.25, 0.25))
  assert sorted(sum(classes_of(dataset).values(), [])) == [
      'Fruit/Apple/Golden', 'Fruit/Pear', 'n01', 'n02']


def test_nested_classes_in_splits(tmp_path):
  make_classes(tmp_path / 'tree', ['train/Fruit/Apple', 'val/Fruit/Pear', 'test/Nut/images'])
  assert classes_of(load(tmp_path)) == {'train': ['Fruit/Apple'], 'val': ['Fruit/Pear'],
                                        'test': ['Nut']}


def test_a_class_within_a_class_is_refused(tmp_path):
  make_classes(tmp_path / 'tree', ['Fruit', 'Fruit/Apple', 'Nut', 'Bean'])
  with pytest.raises(ValueError, match='in Fruit or in folders below it, found both, .*Fruit/Appl'):
    load(tmp_path, split=(0.4, 0.3, 0.3))


def test_splits_with_the_same_classes_are_pooled_when_asked(tmp_path):
  make_classes(tmp_path / 'tree', [f'{split}/{c}' for split in ('train', 'valid', 'test')
                                   for c in 'abc'])
  with pytest.raises(ValueError, match='more than once: a, b, c; --split=.* pools the splits'):
    load(tmp_path)
  dataset = load(tmp_path, split=(0.4, 0.3, 0.3))
  assert sorted(sum(classes_of(dataset).values(), [])) == ['a', 'b', 'c']
  assert dataset.train.class_sizes.tolist() == [6]


def test_classes_may_be_called_as_splits_are(tmp_path):
  make_classes(tmp_path / 'tree', ['bus', 'train', 'plane'])
  dataset = load(tmp_path, split=(0.4, 0.3, 0.3))
  assert sorted(sum(classes_of(dataset).values(), [])) == ['bus', 'plane', 'train']


def test_what_is_left_out_is_said(tmp_path, caplog):
  tree = make_classes(tmp_path / 'tree', 'abc')
  for path in ('a/x.txt', 'b/y.TXT', 'b/z.pdf', 'c/README', '.DS_Store'):
    (tree / path).write_text('no image')
  (tree / 'docs').mkdir()
  save(tree / 'cover.png', np.zeros((9, 9, 3), np.uint8))
  caplog.set_level('INFO', 'absl')
  load(tmp_path, split=(0.4, 0.3, 0.3))
  assert [record.getMessage() for record in caplog.records] == [
      'left out: 2 .txt, 1 .pdf, 1 without ending, 1 images in no class folder, folders without '
      'images (docs)']


def test_links_in_a_circle_end(tmp_path):
  tree = make_classes(tmp_path / 'tree', 'abc')
  (tree / 'a' / 'up').symlink_to(tree)
  assert load(tmp_path, split=(0.4, 0.3, 0.3)).train.class_sizes.tolist() == [2]


def test_a_folder_has_the_name_it_is_given(tmp_path):
  make_classes(tmp_path / 'tree', 'abc')
  assert load(tmp_path, split=(0.4, 0.3, 0.3), called='Étoiles 2').name == 'Étoiles 2'
  for name in ('', ' ', 'a\nb', 'x' * 101):
    with pytest.raises(ValueError, match='expected --name to be a printable name'):
      load(tmp_path, split=(0.4, 0.3, 0.3), called=name)


def test_images_without_a_class_folder_are_explained(tmp_path):
  for i in range(3):
    save(tmp_path / 'tree' / f'{i}.png', np.zeros((9, 9, 3), np.uint8))
  with pytest.raises(ValueError, match='one for each class, found 3 in no folder of a class'):
    load(tmp_path, split=(0.4, 0.3, 0.3))
