"""miniImageNet in each of its layouts: whole, incomplete, damaged and hostile."""
import os
import pickle

import numpy as np
import pytest

from mtl_jax import data
from mtl_jax.data import imagenet_classes
from tests.data import shared_layouts as layouts

WRITERS = {
    'folders': layouts.write_folders,
    'csv': layouts.write_csv,
    'cache': layouts.write_cache,
    'labelled': layouts.write_labelled,
    'labelled_lists': lambda root: layouts.write_labelled(root, as_list=True),
}


@pytest.fixture(autouse=True)
def small_split(monkeypatch):
  layouts.shrink(monkeypatch, 'mini_imagenet')


def load(tmp_path, **options):
  return layouts.load(tmp_path, 'mini_imagenet', **options)


def refused(tmp_path, **options):
  return layouts.refused(tmp_path, 'mini_imagenet', **options)


@pytest.mark.parametrize('layout', WRITERS)
def test_every_layout_gives_the_same_images(tmp_path, layout):
  WRITERS[layout](tmp_path / 'data')
  before = sorted((tmp_path / 'data').rglob('*'))
  dataset = load(tmp_path)
  layouts.assert_holds(dataset)
  assert dataset.name == 'mini_imagenet' and not dataset.train.images.flags.writeable
  assert sorted((tmp_path / 'data').rglob('*')) == before


@pytest.mark.parametrize('layout', ['folders', 'csv', 'cache'])
@pytest.mark.parametrize('name', ['validation', 'valid'])
def test_validation_by_other_names(tmp_path, layout, name):
  """As learn2learn has it."""
  WRITERS[layout](tmp_path / 'data')
  for path in list((tmp_path / 'data').iterdir()):
    path.rename(path.with_name(path.name.replace('val', name)))
  layouts.assert_holds(load(tmp_path))


@pytest.mark.parametrize(('header', 'row'), [
    ('class_name,image_name', '{label},{file}'),  # easyfsl's
    ('image;category', '{file};{label}'), ('"Filename"\tLabel', '{file}\t{label}'),
    (',filename,label', '7,{file}, {label} '),
])
def test_tables_as_others_write_them(tmp_path, header, row):
  layouts.write_csv(tmp_path / 'data')
  for split in layouts.SPLITS:
    path = tmp_path / 'data' / f'{split}.csv'
    _, *lines = path.read_text().splitlines()
    rows = [row.format(file=file, label=label) for file, label in (
        line.split(',') for line in lines)]
    path.write_text('\n'.join([header, *rows]) + '\n', encoding='utf-8-sig')
  layouts.assert_holds(load(tmp_path))


@pytest.mark.parametrize('layout', WRITERS)
def test_second_load_reads_the_cache_until_a_file_changes(tmp_path, layout, monkeypatch):
  WRITERS[layout](tmp_path / 'data')
  load(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(pickle._Unpickler, 'load', None)
    patch.setattr('PIL.Image.open', None)
    layouts.assert_holds(load(tmp_path))
  assert len(list((tmp_path / 'cache').glob('mini_imagenet-*'))) == 1
  path = next(p for p in sorted((tmp_path / 'data').rglob('*'))
              if p.is_file() and p.suffix != '.csv')
  os.utime(path, ns=(1, 1))
  load(tmp_path)
  assert len(list((tmp_path / 'cache').glob('mini_imagenet-*'))) == 2


@pytest.mark.parametrize('layout', ['folders', 'cache'])
def test_image_size_resizes(tmp_path, layout):
  WRITERS[layout](tmp_path / 'data')
  assert load(tmp_path, image_size=20).test.images.shape == (6, 20, 20, 3)


def test_labels_without_names_are_counted(tmp_path):
  layouts.write_labelled(tmp_path / 'data', named=False)
  dataset = load(tmp_path)
  assert dataset.class_names == {'train': ('label_00', 'label_01'), 'val': ('label_02',),
                                 'test': ('label_03', 'label_04')}
  np.testing.assert_array_equal(dataset.train.images[:3], layouts.images_of('n00000003'))


def test_all_100_classes_in_folders(tmp_path, monkeypatch):
  monkeypatch.undo()
  image = layouts.png(np.full((16, 16, 3), 9, np.uint8))
  for split, names in imagenet_classes.CLASSES['mini_imagenet'].items():
    for name in names:
      (tmp_path / 'data' / split / name).mkdir(parents=True)
      (tmp_path / 'data' / split / name / '0.jpg').write_bytes(image)
  with pytest.warns(UserWarning) as warned:
    dataset = load(tmp_path, image_size=16)
  assert [w for w in warned
          if 'expected 38400 images in train, found 64; accuracies will not' in str(w.message)]
  for split, count in (('train', 64), ('val', 16), ('test', 20)):
    assert getattr(dataset, split).images.shape == (count, 16, 16, 3)
  (tmp_path / 'data' / 'train' / 'n01532829').rename(tmp_path / 'data' / 'val' / 'n01532829')
  with pytest.raises(ValueError, match=r"wrong split: 'n01532829' \(in val, belongs to train\)$"):
    load(tmp_path, image_size=16)


@pytest.mark.parametrize('layout', ['folders', 'csv', 'cache', 'labelled'])
@pytest.mark.parametrize(('classes', 'says'), [
    ({**layouts.CLASSES, 'val': ['n00000005', 'n00000001']},
     "in more than one split: 'n00000001' (train and val)"),
    ({**layouts.CLASSES, 'val': ['n00000002'], 'test': ['n00000005', 'n00000004']},
     "in the wrong split: 'n00000002' (in val, belongs to test), 'n00000005' (in test, belongs to "
     'val)'),
    ({**layouts.CLASSES, 'train': ['n00000001']}, "missing: 'n00000003' (train)"),
    ({**layouts.CLASSES, 'test': ['n00000002', 'n00000004', 'n00000009']},
     "unknown: 'n00000009' (test)"),
])
def test_wrong_split_is_explained(tmp_path, layout, classes, says):
  if layout == 'csv' and 'more than one' in says:
    classes = {**classes, 'val': ['n00000005']}
    layouts.write_csv(tmp_path / 'data', classes)
    with (tmp_path / 'data' / 'val.csv').open('a') as file:
      file.write('n000000010.jpg,n00000001\n')
  else:
    WRITERS[layout](tmp_path / 'data', classes)
  message = refused(tmp_path)
  assert says in message and 'expected the 2/1/2 classes of mini_imagenet' in message
  assert str(tmp_path / 'data') in message


def test_labels_in_two_splits_are_refused(tmp_path):
  layouts.write_labelled(tmp_path / 'data', named=False)
  layouts.write_pickle(tmp_path / 'data' / 'miniImageNet_category_split_val.pickle',
                       {'data': layouts.images_of('n00000005'), 'labels': [1, 1, 1]})
  assert "found in more than one: 'label_01'" in refused(tmp_path)


@pytest.mark.parametrize(('layout', 'file'), [
    ('folders', 'val'), ('csv', 'test.csv'), ('csv', 'images'),
    ('cache', 'mini-imagenet-cache-val.pkl'),
    ('labelled', 'miniImageNet_category_split_test.pickle'),
])
def test_missing_part_is_named(tmp_path, layout, file):
  WRITERS[layout](tmp_path / 'data')
  (tmp_path / 'data' / file).rename(tmp_path / 'elsewhere')
  message = refused(tmp_path)
  assert message.endswith(f'missing {file}')
  assert f"data_dir {tmp_path / 'data'}: expected" in message


def test_nothing_of_it_lists_the_layouts(tmp_path):
  (tmp_path / 'data').mkdir()
  message = refused(tmp_path)
  for layout in ('train/WORDNET_ID/*.jpg', 'train.csv', 'mini-imagenet-cache-{train,val,test}.pkl',
                 '.pickle'):
    assert layout in message
  assert 'found none of them' in message
  assert f"got {tmp_path / 'nowhere'}" in refused(tmp_path, data_dir=tmp_path / 'nowhere')
  listed = message.split('expected')[1].split('found')[0].strip(' ,')
  assert listed in refused(tmp_path, data_dir=None)


def test_split_file_is_refused(tmp_path):
  assert 'mini_imagenet is split already' in refused(tmp_path, split_file=tmp_path / 'split.json')
  assert 'at least 1 pixel, got 0' in refused(tmp_path, image_size=0)


@pytest.mark.parametrize(('content', 'says'), [
    ('filename,thing\na.jpg,n1\n', "expected the header filename,label, found 'filename,thing'"),
    ('', 'expected the header filename,label, found nothing'),
    ('filename,label\na.jpg\n', "line 2: expected filename,label, found 'a.jpg'"),
    ('filename,label\nabsent.jpg,n00000005\n', "missing 1, the first: 'absent.jpg'"),
    ('filename,label\n../../secret.jpg,n00000005\n', "missing 1, the first: '../../secret.jpg'"),
    ('filename,label\nn000000010.jpg,n00000005\n', "found 2 times: 'n000000010.jpg'"),
    ('filename,label' + '\nn000000051.jpg,n00000005' * 2, "found 2 times: 'n000000051.jpg'"),
    (b'\xff\xfe\x00', 'cannot be read as a csv file'),
])
def test_wrong_csv_is_explained(tmp_path, content, says):
  layouts.write_csv(tmp_path / 'data')
  content = content.encode() if isinstance(content, str) else content
  (tmp_path / 'data' / 'val.csv').write_bytes(content)
  assert says in refused(tmp_path)


@pytest.mark.parametrize('layout', ['folders', 'csv'])
@pytest.mark.parametrize('content', [b'', b'no image'], ids=['empty', 'broken'])
def test_broken_image_is_named_or_skipped(tmp_path, layout, content):
  WRITERS[layout](tmp_path / 'data')
  bad = next((tmp_path / 'data').rglob('n00000004*1.*g'))
  bad.write_bytes(content)
  message = refused(tmp_path)
  assert str(bad) in message and '--skip_broken_images' in message
  with pytest.warns(UserWarning) as warned:
    dataset = load(tmp_path, skip_broken=True)
  assert dataset.test.class_sizes.tolist() == [3, 2]
  said = [str(w.message) for w in warned]
  assert [s for s in said if 'left out 1 broken images' in s and str(bad) in s]
  assert [s for s in said if 'expected 6 images in test, found 5' in s]


def test_class_folder_without_images(tmp_path):
  layouts.write_folders(tmp_path / 'data')
  for path in (tmp_path / 'data' / 'test' / 'n00000004').iterdir():
    path.unlink()
  assert 'n00000004: expected images (.png' in refused(tmp_path)


@pytest.mark.parametrize(('changes', 'says'), [
    ({'image_data': np.zeros((6, 84, 84), np.uint8)},
     'expected images uint8 [n, height, width, 3], found uint8'),
    ({'image_data': np.zeros((6, 8, 8, 3), np.float32)}, 'found float32'),
    ({'image_data': [1, 2]}, "expected a dict with 'image_data', found a list for it"),
    ({'class_dict': {'n00000001': [0, 1, 6]}}, 'expected indices of 6 images'),
    ({'class_dict': {'n00000001': [0, -1]}}, 'found -1 to 0'),
    ({'class_dict': {'n00000001': [0, 1], 'n00000003': [1, 2]}}, '1 of them twice'),
    ({'class_dict': {'n00000001': []}}, "found none for 'n00000001'"),
    ({'class_dict': {'n00000001': '01'}}, "found none for 'n00000001'"),
    ({'class_dict': {'n00000001': [[0, 1], [2]]}}, "found none for 'n00000001'"),
    ({'class_dict': {}}, "missing: 'n00000003' (train)"),
])
def test_wrong_content_of_a_pickle(tmp_path, changes, says):
  layouts.write_cache(tmp_path / 'data', **changes)
  assert says in refused(tmp_path)


@pytest.mark.parametrize(('content', 'says'), [
    ([1, 2], "expected a dict with 'data', found a list"),
    ({'images': 1}, "expected a dict with 'data', found only ['images']"),
    ({'data': layouts.images_of('n00000005'), 'labels': [2, 2]},
     'one integer label for each of 3 images, found 2'),
    ({'data': layouts.images_of('n00000005'), 'labels': ['a'] * 3},
     'one integer label for each of 3 images, found 0'),
    ({'data': [np.zeros((84, 84, 3), np.uint8), 5], 'labels': [2, 2]},
     'expected a list of images of one shape'),
    ({'data': [], 'labels': []}, 'expected a list of images of one shape, found 0'),
    ({'data': layouts.images_of('n00000005'), 'labels': [2, 2, 2], 'catname2label': 7},
     'found a int for it'),
])
def test_wrong_content_of_a_labelled_pickle(tmp_path, content, says):
  layouts.write_labelled(tmp_path / 'data')
  layouts.write_pickle(tmp_path / 'data' / 'miniImageNet_category_split_val.pickle', content)
  message = refused(tmp_path)
  assert says in message and 'category_split_val.pickle' in message


class Runs:
  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


def test_hostile_pickle_is_named_and_not_run(tmp_path):
  layouts.write_cache(tmp_path / 'data')
  path = tmp_path / 'data' / 'mini-imagenet-cache-test.pkl'
  layouts.write_pickle(path, {'image_data': Runs(f"touch {tmp_path / 'was_run'}"),
                              'class_dict': {}})
  message = refused(tmp_path)
  assert str(path) in message and "'posix.system'" in message
  assert not (tmp_path / 'was_run').exists()


def test_cut_off_pickle_is_named(tmp_path):
  layouts.write_cache(tmp_path / 'data')
  path = tmp_path / 'data' / 'mini-imagenet-cache-val.pkl'
  path.write_bytes(path.read_bytes()[:50_000])
  assert f'{path}: expected a whole pickle, found 50000 bytes' in refused(tmp_path)


def test_unknown_name_lists_it():
  with pytest.raises(ValueError, match='mini_imagenet, omniglot, tiered_imagenet'):
    data.load('imagenet')
