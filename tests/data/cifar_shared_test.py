"""FC100 and CIFAR-FS in every form in which they are shared: the same images as of the archive."""
import functools
import io
import os
import pickle
import tempfile

import numpy as np
import pytest
from PIL import Image

from mtl_jax.data import cifar, cifar_classes, cifar_shared
from tests.data import cifar_test

NAMES = list(cifar_classes.SUPER_CLASSES)  # by number
ABOVE = sorted(set(cifar_classes.SUPER_CLASSES.values()))
SETS = ('fc100', 'cifar_fs')


def records(per_class, seed):
  """As of the archive, with true super-classes."""
  found = cifar_test.make_records(per_class, seed)
  found[:, 0] = [ABOVE.index(cifar_classes.SUPER_CLASSES[NAMES[c]]) for c in found[:, 1]]
  return found


@functools.cache
def archived():
  """The images of each class in the order of records, and what is read of the archive by set."""
  train, test = records(2, 0), records(1, 1)
  members = cifar_test.make_members(train=train.tobytes(), test=test.tobytes())
  with tempfile.TemporaryDirectory() as folder:
    for name, content in members.items():
      with open(os.path.join(folder, name), 'wb') as file:
        file.write(content)
    place = cifar.pathlib.Path(folder)
    read = {'fc100': cifar.read_fc100(place), 'cifar_fs': cifar.read_cifar_fs(place)}
  every = np.concatenate([train, test])
  images = every[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return {name: images[every[:, 1] == c] for c, name in enumerate(NAMES)}, read


def write_pickles(folder, name, called, number=NAMES.index, protocol=4, **others):
  """The pickles of each split, whose classes are mixed."""
  images, _ = archived()
  folder.mkdir(parents=True, exist_ok=True)
  for split, classes in cifar.split_of(name).items():
    labels = np.repeat([number(c) for c in classes], 3)
    order = np.random.default_rng(0).permutation(len(labels))
    data = np.ascontiguousarray(np.concatenate([images[c] for c in classes])[order])
    content = {'data': data, 'labels': labels[order].tolist(), **others}
    (folder / called.format(split)).write_bytes(pickle.dumps(content, protocol))


def write_folders(folder, splits, called=str):
  images, _ = archived()
  for split, classes in splits.items():
    for c in classes:
      place = folder / split / called(c)
      place.mkdir(parents=True)
      for i, image in enumerate(images[c]):
        content = io.BytesIO()
        Image.fromarray(image).save(content, 'PNG', compress_level=0)
        (place / f'{i}.png').write_bytes(content.getvalue())


def assert_same(name, root):
  found, expected = cifar_shared.find(name, root).read(), archived()[1][name]
  assert list(found) == list(expected)
  for split, classes in expected.items():
    assert [c for c, _ in found[split]] == [c for c, _ in classes]
    for (_, images), (_, wanted) in zip(found[split], classes, strict=True):
      assert images.dtype == np.uint8
      np.testing.assert_array_equal(images, wanted)


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('called', ['{set}_{split}.pickle', '{split}.pickle',
                                    '{lower}_{split}.pkl'])
def test_pickles_by_split(tmp_path, name, called):
  start = {'fc100': 'FC100', 'cifar_fs': 'CIFAR_FS'}[name]
  called = called.format(set=start, lower=start.lower(), split='{}')
  write_pickles(tmp_path / start.replace('_', '-'), name, called)
  assert_same(name, tmp_path)


@pytest.mark.parametrize('protocol', [0, 2])
def test_pickles_whose_arrays_are_texts(tmp_path, protocol):
  write_pickles(tmp_path, 'cifar_fs', 'CIFAR_FS_{}.pickle', protocol=protocol)
  assert_same('cifar_fs', tmp_path)


def test_names_count_more_than_numbers(tmp_path):
  backwards = NAMES[::-1]
  write_pickles(tmp_path, 'fc100', 'FC100_{}.pickle', backwards.index,
                catname2label={c: backwards.index(c) for c in NAMES})
  assert_same('fc100', tmp_path)


def test_classes_of_other_numbers_are_known_by_their_images(tmp_path, monkeypatch):
  images, _ = archived()
  digests = {cifar_classes.digest(cifar_shared.hashes(found)): c for c, found in images.items()}
  assert len(digests) == 100
  monkeypatch.setattr(cifar_classes, 'DIGESTS', digests)
  order = [c for classes in cifar.split_of('cifar_fs').values() for c in reversed(classes)]
  write_pickles(tmp_path, 'cifar_fs', 'CIFAR_FS_{}.pickle', order.index)  # 0-63, 64-79, 80-99
  assert_same('cifar_fs', tmp_path)


@pytest.mark.parametrize('inner', ['CIFAR-FS', 'cifarfs/processed'])
def test_class_folders_by_split(tmp_path, inner):
  write_folders(tmp_path / inner, cifar.split_of('cifar_fs'))
  assert_same('cifar_fs', tmp_path)


def test_class_folders_by_number(tmp_path):
  write_folders(tmp_path, cifar.split_of('fc100'), lambda c: str(NAMES.index(c)))
  (tmp_path / 'val').rename(tmp_path / 'validation')
  assert_same('fc100', tmp_path)


@pytest.mark.parametrize('name', SETS)
def test_all_class_folders_in_one(tmp_path, name):
  write_folders(tmp_path / 'cifar100', {'data': NAMES})  # as CIFAR-FS was published
  (tmp_path / 'cifar100' / 'splits').mkdir()
  assert_same(name, tmp_path)


def refused(tmp_path, name='fc100'):
  with pytest.raises(ValueError) as raised:
    found = cifar_shared.find(name, tmp_path)
    assert found is not None
    found.read()
  assert len(str(raised.value).splitlines()) == 1 and str(tmp_path) in str(raised.value)
  return str(raised.value)


def test_what_is_not_the_set_is_refused(tmp_path):
  write_pickles(tmp_path, 'cifar_fs', 'FC100_{}.pickle')
  assert ('expected the 60 classes of fc100 in train, found 64; missing: bed, ' in
          refused(tmp_path))
  (tmp_path / 'FC100_val.pickle').unlink()
  assert 'found FC100_train.pickle, FC100_test.pickle, missing val' in refused(tmp_path)


@pytest.mark.parametrize(('content', 'says'), [
    (b'cos\nsystem\n.', "'os.system'"), (b'\x80\x02', 'cut off or damaged'),
    (pickle.dumps([1]), "expected a dict with 'data'"),
    (pickle.dumps({'data': np.zeros((1, 3072), np.uint8), 'labels': [0]}), 'uint8 [n, height'),
    (pickle.dumps({'data': np.zeros((1, 84, 84, 3), np.uint8), 'labels': [0]}), '[32, 32, 3]'),
    (pickle.dumps({'data': np.zeros((2, 32, 32, 3), np.uint8), 'labels': [0]}), 'for each of 2'),
])
def test_pickles_of_something_else(tmp_path, content, says):
  for split in cifar.CIFAR_FS_CLASSES:
    (tmp_path / f'FC100_{split}.pickle').write_bytes(content)
  assert says in refused(tmp_path)


def test_images_of_another_size_and_torchmetas_file(tmp_path):
  (tmp_path / 'cifar100').mkdir()
  (tmp_path / 'cifar100' / 'data.hdf5').write_bytes(b'')
  assert "data.hdf5: torchmeta's HDF5 files are not read" in refused(tmp_path)
  for split in ('train', 'val', 'test'):
    (tmp_path / split / 'x').mkdir(parents=True)
    Image.new('RGB', (84, 84)).save(tmp_path / split / 'x' / '0.png')
  assert '0.png: expected an image of 32x32 pixels, found 84x84' in refused(tmp_path)


def test_a_folder_of_nothing(tmp_path):
  (tmp_path / 'data').symlink_to('.')
  assert cifar_shared.find('fc100', tmp_path) is None


def test_loading_looks_there_before_the_download(tmp_path):
  write_pickles(tmp_path / 'data', 'fc100', 'FC100_{}.pickle')
  found = cifar_test.load('fc100', tmp_path)
  again = cifar_test.load('fc100', tmp_path)
  for dataset in (found, again):
    np.testing.assert_array_equal(dataset.test.images, np.concatenate(
        [images for _, images in archived()[1]['fc100']['test']]))


def test_data_dir_may_be_the_extracted_folder_itself(tmp_path):
  place = cifar_test.write_pickles(tmp_path / 'data')
  expected = cifar_test.load('cifar_fs', tmp_path)
  found = cifar_test.data.load('cifar_fs', data_dir=place, cache_dir=tmp_path / 'other')
  np.testing.assert_array_equal(found.train.images, expected.train.images)
