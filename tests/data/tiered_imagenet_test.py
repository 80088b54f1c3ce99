"""tieredImageNet in each of its layouts: whole, incomplete, damaged and hostile."""
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from mtl_jax.data import imagenet_classes
from tests.data import shared_layouts as layouts


def write_arrays(root, classes=layouts.CLASSES, **options):
  layouts.write_npz(root, classes)
  layouts.write_labels(root, classes, **options)


def write_pngs(root, classes=layouts.CLASSES, **options):
  layouts.write_pngs(root, classes)
  layouts.write_labels(root, classes, **options)


WRITERS = {'folders': layouts.write_folders, 'arrays': write_arrays, 'pngs': write_pngs}


@pytest.fixture(autouse=True)
def small_split(monkeypatch):
  layouts.shrink(monkeypatch, 'tiered_imagenet')


def load(tmp_path, **options):
  return layouts.load(tmp_path, 'tiered_imagenet', **options)


def refused(tmp_path, **options):
  return layouts.refused(tmp_path, 'tiered_imagenet', **options)


@pytest.mark.parametrize('layout', WRITERS)
def test_every_layout_gives_the_same_images(tmp_path, layout):
  WRITERS[layout](tmp_path / 'data')
  if layout == 'folders':
    layouts.assert_holds(load(tmp_path))
  else:  # Their labels know descriptions only, in the order of the labels.
    layouts.assert_holds(load(tmp_path), sort=False, describe=lambda name: f'thing {name}')


@pytest.mark.parametrize('layout', WRITERS)
def test_second_load_reads_the_cache_until_a_file_changes(tmp_path, layout, monkeypatch):
  WRITERS[layout](tmp_path / 'data')
  first = load(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(pickle._Unpickler, 'load', None)
    patch.setattr('PIL.Image.open', None)
    patch.setattr('zipfile.ZipFile', None)
    np.testing.assert_array_equal(load(tmp_path).val.images, first.val.images)
  os.utime(next(p for p in (tmp_path / 'data').rglob('*') if p.is_file()), ns=(1, 1))
  load(tmp_path)
  assert len(list((tmp_path / 'cache').glob('tiered_imagenet-*'))) == 2


@pytest.mark.parametrize('layout', WRITERS)
def test_image_size_resizes(tmp_path, layout):
  WRITERS[layout](tmp_path / 'data')
  assert load(tmp_path, image_size=20).test.images.shape == (6, 20, 20, 3)


def test_labels_in_one_list_without_names(tmp_path):
  """As MetaOptNet's authors share them."""
  write_arrays(tmp_path / 'data')
  for split, first in (('train', 0), ('val', 2), ('test', 3)):
    labels = [first] * 3 if split == 'val' else [first, first + 1] * 3
    layouts.write_pickle(tmp_path / 'data' / f'{split}_labels.pkl', {'labels': labels})
  dataset = load(tmp_path)
  assert dataset.class_names == {'train': ('train_000', 'train_001'), 'val': ('val_002',),
                                 'test': ('test_003', 'test_004')}
  every = np.concatenate([layouts.images_of(name) for name in layouts.CLASSES['train']])
  np.testing.assert_array_equal(dataset.train.images, every[[0, 2, 4, 1, 3, 5]])


def test_labels_with_wordnet_ids_are_checked_against_the_known_split(tmp_path):
  write_arrays(tmp_path / 'data', describe=lambda name: name)
  assert load(tmp_path).class_names['train'] == ('n00000003', 'n00000001')
  layouts.write_labels(tmp_path / 'data', {**layouts.CLASSES, 'val': ['n00000002']},
                       describe=lambda name: name)
  with pytest.raises(ValueError) as e:
    load(tmp_path)
  assert ("in more than one split: 'n00000002' (val and test); missing: 'n00000005' (val)"
          in str(e.value))


def test_all_608_classes_in_folders(tmp_path, monkeypatch):
  monkeypatch.undo()
  image = layouts.png(np.full((16, 16, 3), 9, np.uint8))
  for split, names in imagenet_classes.CLASSES['tiered_imagenet'].items():
    for name in names:
      (tmp_path / 'data' / split / name).mkdir(parents=True)
      (tmp_path / 'data' / split / name / '0.JPEG').write_bytes(image)
  with pytest.warns(UserWarning) as warned:
    dataset = load(tmp_path, image_size=16)
  assert [w for w in warned
          if 'expected 124261 images in val, found 97; accuracies will not' in str(w.message)]
  assert [len(getattr(dataset, split).images) for split in layouts.SPLITS] == [351, 97, 160]


@pytest.mark.parametrize('layout', ['arrays', 'pngs'])
@pytest.mark.parametrize(('classes', 'says'), [
    ({**layouts.CLASSES, 'train': ['n00000001']}, 'found 1/1/2'),
    ({**layouts.CLASSES, 'val': ['n00000001']}, "found in more than one: 'thing n00000001'"),
])
def test_wrong_split_is_explained(tmp_path, layout, classes, says):
  WRITERS[layout](tmp_path / 'data', classes)
  message = refused(tmp_path)
  assert says in message and str(tmp_path / 'data') in message


def test_folder_in_the_wrong_split_is_named(tmp_path):
  layouts.write_folders(tmp_path / 'data', {'train': ['n00000001', 'n00000003'],
                                            'test': ['n00000002', 'n00000004', 'n00000005']})
  (tmp_path / 'data' / 'val').mkdir()
  assert "in the wrong split: 'n00000005' (in test, belongs to val)" in refused(tmp_path)


@pytest.mark.parametrize(('layout', 'file'), [
    ('folders', 'val'), ('arrays', 'test_images.npz'), ('arrays', 'train_labels.pkl'),
    ('pngs', 'val_images_png.pkl'),
])
def test_missing_part_is_named(tmp_path, layout, file):
  WRITERS[layout](tmp_path / 'data')
  (tmp_path / 'data' / file).rename(tmp_path / 'elsewhere')
  assert refused(tmp_path).endswith(f'missing {file}')


@pytest.mark.parametrize(('changes', 'says'), [
    ({'label_specific': np.zeros(4, np.int32)},
     'expected one integer label for each of 6 images, found 4'),
    ({'label_specific': [0.5] * 6}, 'found 0'),
    ({'label_specific': 'abc'}, "expected a dict with 'label_specific', found a str for it"),
    ({'label_specific': [0, 1, 2, 0, 1, 2]},
     "expected labels below the number of 'label_specific_str', 2"),
    ({'label_specific_str': 5}, 'found a int for it'),
])
def test_wrong_labels_are_explained(tmp_path, changes, says):
  write_arrays(tmp_path / 'data', **changes)
  message = refused(tmp_path)
  assert says in message and str(tmp_path / 'data' / 'train_labels.pkl') in message


def damage(content):
  return {'compressed': None, 'cut off': content[:len(content) // 2], 'other': b'no archive',
          'empty': b''}


@pytest.mark.parametrize('kind', damage(b''))
def test_damaged_npz_is_named(tmp_path, kind):
  write_arrays(tmp_path / 'data')
  path = tmp_path / 'data' / 'val_images.npz'
  content = damage(path.read_bytes())[kind]
  if content is None:
    layouts.write_npz(tmp_path / 'data', save=np.savez_compressed)
    path = tmp_path / 'data' / 'train_images.npz'
  else:
    path.write_bytes(content)
  message = refused(tmp_path)
  assert f"{path}: expected a whole .npz file with an uncompressed array 'images'" in message
  assert ('numpy.savez does not do' in message) == (kind == 'compressed')


@pytest.mark.parametrize(('arrays', 'says'), [
    ({'pictures': np.zeros((3, 84, 84, 3), np.uint8)}, "no item named 'images.npy'"),
    ({'images': np.array([{}, 1], object)}, 'an array of Python objects'),
    ({'images': np.zeros((3, 84, 84, 3))},
     'expected images uint8 [n, height, width, 3], found float64'),
])
def test_npz_with_something_else(tmp_path, arrays, says):
  write_arrays(tmp_path / 'data')
  np.savez(tmp_path / 'data' / 'val_images.npz', **arrays)
  message = refused(tmp_path)
  assert says in message and 'val_images.npz' in message


@pytest.mark.parametrize('bad', [np.frombuffer(b'no image', np.uint8), b'', 7],
                         ids=['broken', 'empty', 'number'])
def test_broken_png_is_named_or_skipped(tmp_path, bad):
  write_pngs(tmp_path / 'data')
  path = tmp_path / 'data' / 'test_images_png.pkl'
  content = [layouts.png(image)
             for name in layouts.CLASSES['test'] for image in layouts.images_of(name)]
  layouts.write_pickle(path, [*content[:4], bad, content[5]])
  assert f'{path}: image 4: broken image' in refused(tmp_path)
  with pytest.warns(UserWarning) as warned:
    assert load(tmp_path, skip_broken=True).test.class_sizes.tolist() == [3, 2]
  assert {str(w.message)[17:].split(';')[0].split(': broken')[0] for w in warned} == {
      f'left out 1 broken images, the first: {path}: image 4', 'expected 6 images in test, found 5'}


class Runs:
  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


@pytest.mark.parametrize('file', ['val_images_png.pkl', 'test_labels.pkl'])
def test_hostile_pickle_is_named_and_not_run(tmp_path, file):
  write_pngs(tmp_path / 'data')
  layouts.write_pickle(tmp_path / 'data' / file, [Runs(f"touch {tmp_path / 'was_run'}")])
  message = refused(tmp_path)
  assert str(tmp_path / 'data' / file) in message and "'posix.system'" in message
  assert not (tmp_path / 'was_run').exists()


@pytest.mark.parametrize('layout', WRITERS)
def test_memory_is_that_of_few_classes(tmp_path, layout, monkeypatch):
  """30 classes of a quarter of a megabyte each."""
  classes = {'train': [f'n{c:08d}' for c in range(30)], 'val': ['n00000030'], 'test': ['n00000031']}
  monkeypatch.setattr(layouts, 'COUNT', 12)
  layouts.shrink(monkeypatch, 'tiered_imagenet', classes)
  WRITERS[layout](tmp_path / 'data', classes)
  tracemalloc.start()
  dataset = load(tmp_path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < dataset.train.images.nbytes / 3
  for c in (0, 29):
    np.testing.assert_array_equal(dataset.train.images[12 * c:12 * (c + 1)],
                                  layouts.images_of(classes['train'][c]))
