"""CIFAR-100's binary layout, from tiny archives with all 100 classes."""
import io
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from mtl_jax import data
from mtl_jax.data import archived, cifar

SUPER = [s for split in cifar.FC100_SUPER_CLASSES.values() for s in split]
FINE = sorted(c for split in cifar.CIFAR_FS_CLASSES.values() for c in split)
COARSE = sorted(SUPER)
MODES = {'tar.gz': 'w:gz', 'tar.xz': 'w:xz'}


def super_class(fine):
  return fine % 20


def make_records(per_class, seed):
  rng = np.random.default_rng(seed)
  fine = rng.permutation(np.repeat(np.arange(100, dtype=np.uint8), per_class))
  planes = rng.integers(0, 256, (len(fine), 3 * 32 * 32), dtype=np.uint8)
  labels = np.stack([super_class(fine), fine], axis=1)
  return np.concatenate([labels, planes], axis=1).astype(np.uint8)


def make_members(**changed):
  members = {
      'train.bin': make_records(2, 0).tobytes(),
      'test.bin': make_records(1, 1).tobytes(),
      'fine_label_names.txt': '\n'.join([*FINE, '']).encode(),
      'coarse_label_names.txt': '\n'.join([*COARSE, '']).encode(),
  }
  return {**members, **{f'{name}.bin': content for name, content in changed.items()}}


def write_archive(folder, members, ending='tar.gz'):
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'cifar-100-binary.{ending}'
  with tarfile.open(path, MODES[ending]) as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(f'cifar-100-binary/{name}')
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


def load(name, tmp_path, **options):
  return data.load(name, data_dir=tmp_path / 'data', cache_dir=tmp_path / 'cache', **options)


def test_splits_have_all_100_classes_once():
  assert [len(cifar.CIFAR_FS_CLASSES[s]) for s in ('train', 'val', 'test')] == [64, 16, 20]
  assert len(set(FINE)) == 100
  assert [len(cifar.FC100_SUPER_CLASSES[s]) for s in ('train', 'val', 'test')] == [12, 4, 4]
  assert len(set(SUPER)) == 20


@pytest.mark.parametrize('ending', ['tar.gz', 'tar.xz'])
def test_fc100_splits_by_super_class(tmp_path, ending):
  write_archive(tmp_path / 'data', make_members(), ending)
  dataset = load('fc100', tmp_path)
  assert dataset.flip
  for split, count in (('train', 60), ('val', 20), ('test', 20)):
    pool = getattr(dataset, split)
    wanted = [c for i, c in enumerate(FINE)
              if COARSE[super_class(i)] in cifar.FC100_SUPER_CLASSES[split]]
    assert list(dataset.class_names[split]) == wanted and len(wanted) == count
    assert pool.class_sizes.tolist() == [3] * count
    assert pool.class_offsets.tolist() == list(range(0, 3 * count, 3))
    assert pool.images.shape == (3 * count, 32, 32, 3) and pool.images.dtype == np.uint8


def test_pixels_are_those_of_the_records(tmp_path):
  write_archive(tmp_path / 'data', make_members())
  dataset = load('cifar_fs', tmp_path)
  records = np.concatenate([make_records(2, 0), make_records(1, 1)])
  for split in ('train', 'val', 'test'):
    pool = getattr(dataset, split)
    assert list(dataset.class_names[split]) == cifar.CIFAR_FS_CLASSES[split]
    for c, name in enumerate(dataset.class_names[split]):
      rows = records[records[:, 1] == FINE.index(name)][:, 2:]
      expected = np.stack([rows[:, :1024], rows[:, 1024:2048], rows[:, 2048:]], axis=-1)
      found = pool.images[pool.class_offsets[c]:][:pool.class_sizes[c]]
      assert sorted(i.tobytes() for i in found) == sorted(i.tobytes() for i in expected)


def test_mean_and_std_are_those_of_train(tmp_path):
  write_archive(tmp_path / 'data', make_members())
  dataset = load('fc100', tmp_path)
  images = dataset.train.images.astype(np.float64) / 255
  for split in ('train', 'val', 'test'):
    mean, std = getattr(dataset, split).normalization
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, images.std((0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_order_of_records_does_not_matter(tmp_path):
  records = make_records(2, 0)
  write_archive(tmp_path / 'a' / 'data', make_members(train=records.tobytes()))
  write_archive(tmp_path / 'b' / 'data', make_members(train=records[::-1].tobytes()))
  a, b = (load('fc100', tmp_path / side) for side in 'ab')
  np.testing.assert_array_equal(a.train.images, b.train.images)
  np.testing.assert_array_equal(a.test.images, b.test.images)


def test_extracted_folder_equals_archive(tmp_path):
  write_archive(tmp_path / 'a' / 'data', make_members())
  folder = tmp_path / 'b' / 'data' / 'cifar-100-binary'
  folder.mkdir(parents=True)
  for name, content in make_members().items():
    (folder / name).write_bytes(content)
  a, b = (load('fc100', tmp_path / side) for side in 'ab')
  np.testing.assert_array_equal(a.train.images, b.train.images)


def test_image_size_resizes(tmp_path):
  members = make_members(train=np.concatenate(
      [make_records(2, 0)[:, :2], np.full((200, 3072), 77, np.uint8)], axis=1).tobytes())
  write_archive(tmp_path / 'data', members)
  pool = load('fc100', tmp_path, image_size=16).val
  assert pool.images.shape == (60, 16, 16, 3)
  flat = [i for i in pool.images if np.all(i == 77)]
  assert len(flat) == 40  # A flat image stays flat.


def test_data_dir_is_not_written_to(tmp_path):
  write_archive(tmp_path / 'data', make_members())
  load('fc100', tmp_path)
  assert [p.name for p in (tmp_path / 'data').iterdir()] == ['cifar-100-binary.tar.gz']


def test_half_a_record_is_named(tmp_path):
  path = write_archive(tmp_path / 'data', make_members(test=make_records(1, 1).tobytes()[:-7]))
  with pytest.raises(ValueError, match=r'test.bin: expected whole records of 3074 bytes, found '
                                       '307393') as e:
    load('fc100', tmp_path)
  assert str(path) in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('ending', ['tar.gz', 'tar.xz'])
def test_truncated_archive_is_named_and_nothing_cached(tmp_path, ending):
  path = write_archive(tmp_path / 'data', make_members(), ending)
  path.write_bytes(path.read_bytes()[:200_000])
  with pytest.raises(ValueError, match='expected a whole archive, found 200000 bytes') as e:
    load('fc100', tmp_path)
  assert str(path) in str(e.value) and '\n' not in str(e.value)
  assert not [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()]


def test_missing_member_is_named(tmp_path):
  members = make_members()
  del members['coarse_label_names.txt']
  write_archive(tmp_path / 'data', members)
  with pytest.raises(ValueError, match='not found: coarse_label_names.txt'):
    load('fc100', tmp_path)


def test_missing_class_is_refused(tmp_path):
  records = make_records(2, 0)
  write_archive(tmp_path / 'data', make_members(train=records[records[:, 1] != 5].tobytes(),
                                                test=records[records[:, 1] == 7].tobytes()))
  with pytest.raises(ValueError, match='expected 100 classes, each in one super-class; found 99'):
    load('fc100', tmp_path)


def test_offline_without_archive_says_what_to_do(tmp_path, monkeypatch):
  def unreachable(url):
    raise ConnectionError(f'{url} cannot be reached (no answer)')
  monkeypatch.setattr(archived, 'check_reachable', unreachable)
  (tmp_path / 'data').mkdir()
  with pytest.raises(ValueError, match=r'cifar-100-binary.tar.gz cannot be reached .* put it in a '
                                       'folder'):
    load('fc100', tmp_path)


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match="unknown data set 'cifar'; expected one of cifar_fs, fc100, "
                                       'folder'):
    data.load('cifar')


def write_pickles(folder, protocol=2, **changed):
  """torchvision's copy, of the same images as `make_members`."""
  place = folder / 'cifar-100-python'
  place.mkdir(parents=True)
  contents = {'meta': {'fine_label_names': FINE, 'coarse_label_names': COARSE}}
  for name, (count, seed) in {'train': (2, 0), 'test': (1, 1)}.items():
    records = make_records(count, seed)
    contents[name] = {'data': records[:, 2:], 'coarse_labels': records[:, 0].tolist(),
                      'fine_labels': records[:, 1].tolist(), 'filenames': ['x.png'] * len(records)}
  for name, content in (contents | changed).items():
    (place / name).write_bytes(pickle.dumps(content, protocol))
  return place


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('as_archive', [False, True])
def test_torchvisions_pickles_hold_the_same(tmp_path, protocol, as_archive):
  binary = write_archive(tmp_path / 'binary', make_members())
  place = write_pickles(tmp_path / 'data', protocol)
  if as_archive:
    with tarfile.open(tmp_path / 'data' / 'cifar-100-python.tar.gz', 'w:gz') as tar:
      tar.add(place, place.name)
    shutil.rmtree(place)
    place = tmp_path / 'data' / 'cifar-100-python.tar.gz'
  found, expected = cifar.read(place), cifar.read(binary)
  assert found[1] == expected[1] and list(found[0]) == list(expected[0])
  for name, images in expected[0].items():
    np.testing.assert_array_equal(found[0][name], images)


@pytest.mark.parametrize(('name', 'content', 'says'), [
    ('train', {'data': np.zeros((3, 3072), np.uint8)}, "expected 'coarse_labels' in it"),
    ('train', {'data': np.zeros((3, 3), np.uint8), 'coarse_labels': [0] * 3,
               'fine_labels': [0] * 3}, 'expected two labels and 3072 bytes'),
    ('train', {'data': np.zeros((1, 3072), np.uint8), 'coarse_labels': [300],
               'fine_labels': [0]}, 'expected two labels'),
    ('meta', [1], 'found a list'), ('meta', {'coarse_label_names': [1], 'fine_label_names': []},
                                    'expected names'),
])
def test_pickles_that_hold_something_else(tmp_path, name, content, says):
  place = write_pickles(tmp_path / 'data', **{name: content})
  with pytest.raises(ValueError, match=says) as raised:
    cifar.read(place)
  assert len(str(raised.value).splitlines()) == 1
