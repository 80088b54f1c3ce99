"""Entries of the cache: written whole, read back equal, rebuilt when damaged."""
import json
import os
import resource
import shutil
import threading
import warnings
import weakref

import filelock
import numpy as np
import pytest

from mtl_jax.data import cache, pools

KEY = {'version': 1}


def make_dataset(seed=0):
  rng = np.random.default_rng(seed)
  splits = {split: [(f'{split}_{n}', rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8))
                    for n in (2, 3)] for split in pools.SPLITS}
  return pools.from_classes('tiny', splits, flip=True)


def load(root, key=KEY, build=make_dataset):
  return cache.load_or_build('tiny', key, build, root)


def not_called():
  raise AssertionError('built although an entry exists')


def assert_equal(a, b):
  for split in pools.SPLITS:
    *pool, normalization = getattr(a, split)
    *other_pool, other_normalization = getattr(b, split)
    for x, y in zip((*pool, *normalization), (*other_pool, *other_normalization), strict=True):
      np.testing.assert_array_equal(x, y)
      assert x.dtype == y.dtype
  assert (a.name, a.class_names, a.flip) == (b.name, b.class_names, b.flip)


def test_second_load_reads_the_entry(tmp_path):
  built = load(tmp_path)
  read = load(tmp_path, build=not_called)
  assert_equal(built, read)
  assert read.train.normalization.mean.dtype == np.float32


def test_another_key_is_another_entry(tmp_path):
  load(tmp_path)
  other = load(tmp_path, {'version': 2}, lambda: make_dataset(1))
  assert_equal(other, make_dataset(1))
  assert_equal(load(tmp_path, build=not_called), make_dataset())


@pytest.mark.parametrize('name', ['train.npy', 'test.npy', 'entry.json'])
@pytest.mark.parametrize('damage', ['truncated', 'empty', 'missing', 'garbage'])
def test_damaged_entry_is_built_again(tmp_path, name, damage):
  load(tmp_path)
  path = next(tmp_path.glob(f'tiny-*/{name}'))
  content = path.read_bytes()
  if damage == 'missing':
    path.unlink()
  else:
    path.write_bytes({'truncated': content[:-5], 'empty': b'',
                      'garbage': b'\x80\x04junk' * 50}[damage])
  with pytest.warns(UserWarning, match='is damaged .*building it again'):
    assert_equal(load(tmp_path), make_dataset())
  assert_equal(load(tmp_path, build=not_called), make_dataset())


def test_any_damage_is_found(tmp_path, monkeypatch):
  """A bit in any byte of an entry, its headers included; in parts that do not end with a class."""
  monkeypatch.setattr(cache.checksums, 'PART', 100)
  whole = load(tmp_path)
  files = [next(tmp_path.glob(f'tiny-*/{name}')) for name in ('train.npy', 'entry.json')]
  for path in files:
    content = path.read_bytes()
    places = range(0, len(content), 1 if len(content) < 1000 else 7)
    for damaged in [*(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
                      for place in places), b'[' * 100_000, content.replace(b')', b'(', 1)]:
      path.write_bytes(damaged)
      with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        read = cache._read(path.parent, 'tiny')
      assert (read is None) == (len(said) == 1)
      if read is not None:  # what was damaged says nothing, such as the spaces of a header
        assert_equal(read, whole)
    path.write_bytes(content)
  load(tmp_path, build=not_called)


def test_streamed_entries_have_the_same_checksums(tmp_path, monkeypatch):
  monkeypatch.setattr(cache.checksums, 'PART', 100)
  built = make_dataset()
  streams = {}
  for split in pools.SPLITS:
    pool = getattr(built, split)
    ends = np.cumsum(pool.class_sizes)
    streams[split] = [(name, pool.images[end - size:end]) for name, size, end in zip(
        built.class_names[split], pool.class_sizes, ends, strict=True)]
  assert_equal(cache.load_or_stream('tiny', KEY, lambda: streams, True, tmp_path), built)
  path = next(tmp_path.glob('tiny-*/val.npy'))
  path.write_bytes(path.read_bytes()[:-1] + b'?')
  with pytest.warns(UserWarning, match='val.npy: its checksum differs.*building it again'):
    cache.load_or_stream('tiny', KEY, lambda: streams, True, tmp_path)


def test_large_files_are_read_once_and_again_after_any_change(tmp_path, monkeypatch):
  monkeypatch.setattr(cache.checksums, 'WHOLE', 100)
  whole, read = load(tmp_path), []
  entire = cache.checksums.of
  monkeypatch.setattr(cache.checksums, 'of', lambda array: read.append(1) or entire(array))
  load(tmp_path, build=not_called)
  load(tmp_path, build=not_called)
  assert len(read) == 3
  path = next(tmp_path.glob('tiny-*/val.npy'))
  content = path.read_bytes()
  path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.warns(UserWarning, match='val.npy: its checksum differs.*building it again'):
    assert_equal(load(tmp_path), whole)
  for damaged in (b'', b'[' * 100_000, b'{"val.npy": 1}'):  # notes that say nothing
    next(tmp_path.glob('tiny-*')).joinpath('checked.json').write_bytes(damaged)
    read.clear()
    load(tmp_path, build=not_called)
    assert len(read) == 3


def test_a_cache_that_is_deleted_while_it_is_written(tmp_path):
  root, built = tmp_path / 'cache', make_dataset()
  root.mkdir()

  def classes(split):
    pool = getattr(built, split)
    for name, start, size in zip(built.class_names[split], pool.class_offsets, pool.class_sizes,
                                 strict=True):
      yield name, pool.images[start:start + size]
      shutil.rmtree(root, ignore_errors=True)

  def streams():
    return {split: classes(split) for split in pools.SPLITS}

  with pytest.raises(ValueError, match='cannot be written to .*; make room there') as raised:
    cache.load_or_stream('tiny', KEY, streams, True, root)
  assert len(str(raised.value).splitlines()) == 1 and not root.exists()
  with pytest.warns(UserWarning, match='decoded images not cached'):
    assert_equal(load(tmp_path / 'nowhere'), built)


def test_array_of_another_shape_is_damage(tmp_path):
  load(tmp_path)
  np.save(next(tmp_path.glob('tiny-*/val.npy')), np.zeros((3, 4, 4, 3), np.uint8))
  with pytest.warns(UserWarning, match='is damaged'):
    assert_equal(load(tmp_path), make_dataset())


def test_pickled_array_is_not_loaded(tmp_path):
  load(tmp_path)
  np.save(next(tmp_path.glob('tiny-*/val.npy')), np.array([{}], object), allow_pickle=True)
  with pytest.warns(UserWarning, match='is damaged'):
    assert_equal(load(tmp_path), make_dataset())


def test_failed_build_leaves_nothing(tmp_path):
  def fail():
    raise ValueError('no data')
  with pytest.raises(ValueError, match='no data'):
    load(tmp_path, build=fail)
  assert list(tmp_path.iterdir()) == []


def test_failed_write_costs_a_warning_only(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError('No space left on device')
  monkeypatch.setattr(np, 'save', full)
  with pytest.warns(UserWarning, match='not cached .* No space left'):
    assert_equal(load(tmp_path), make_dataset())
  assert list(tmp_path.iterdir()) == []


def test_cache_dir_that_is_a_file_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match=r'cache_dir .*file: cannot be made'):
    cache.directory(tmp_path / 'file')


def test_default_directory_is_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setattr(cache.platformdirs, 'user_cache_dir', lambda name: str(tmp_path / name))
  assert cache.directory(None) == tmp_path / 'mtl_jax'


def test_fingerprint_follows_size_and_time(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'one')
  before = cache.fingerprint([path])
  assert cache.fingerprint([path]) == before
  os.utime(path, ns=(1, 1))
  assert cache.fingerprint([path]) != before


def stream(root, classes, key=KEY):
  return cache.load_or_stream('tiny', key, lambda: classes, True, root)


def classes_of(dataset):
  """The same classes, one at a time."""
  def of_split(split):
    pool = getattr(dataset, split)
    for name, first, count in zip(dataset.class_names[split], pool.class_offsets,
                                  pool.class_sizes, strict=True):
      yield name, pool.images[first:first + count]
  return {split: of_split(split) for split in pools.SPLITS}


def test_streamed_entry_equals_one_built_in_memory(tmp_path):
  (tmp_path / 'built').mkdir()
  built = load(tmp_path / 'built')
  streamed = stream(tmp_path, classes_of(make_dataset()))
  assert_equal(streamed, built)
  assert_equal(stream(tmp_path, None), built)
  assert not streamed.train.images.flags.writeable
  for split in pools.SPLITS:
    files = [next(root.glob(f'tiny-*/{split}.npy')) for root in (tmp_path, tmp_path / 'built')]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_one_class_is_held_at_a_time(tmp_path):
  alive = []

  def classes():
    for c in range(20):
      images = np.full((5, 4, 4, 3), c, np.uint8)
      alive.append(weakref.ref(images))
      assert sum(ref() is not None for ref in alive) <= 2  # this one, and the one before
      yield f'class_{c}', images
      del images

  dataset = stream(tmp_path, {split: classes() for split in pools.SPLITS})
  assert dataset.test.images[:, 0, 0, 0].tolist() == np.repeat(np.arange(20), 5).tolist()


def test_error_while_streaming_leaves_nothing(tmp_path):
  def classes():
    yield 'a', np.zeros((2, 4, 4, 3), np.uint8)
    raise ValueError('broken.png: broken image')

  with pytest.raises(ValueError, match='broken.png'):
    stream(tmp_path, {split: classes() for split in pools.SPLITS})
  assert [path.name for path in tmp_path.iterdir() if not path.name.endswith('.lock')] == []


def test_split_without_classes_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'val\.npy: expected at least one class, got none'):
    stream(tmp_path, {**classes_of(make_dataset()), 'val': iter(())})


def test_mean_and_deviation_stand_in_the_entry_once(tmp_path):
  built = load(tmp_path)
  meta = json.loads(next(tmp_path.glob('tiny-*/entry.json')).read_text())
  assert sorted(meta) == ['checksum', 'flip', 'key', 'mean', 'std', 'test', 'train', 'val']
  assert meta['mean'] == built.train.normalization.mean.tolist()
  assert meta['std'] == built.train.normalization.std.tolist()


def test_classes_of_different_shapes_are_refused(tmp_path):
  def classes():
    yield 'a', np.zeros((2, 4, 4, 3), np.uint8)
    yield 'b', np.zeros((2, 5, 5, 3), np.uint8)

  with pytest.raises(ValueError, match='class b: expected uint8 images of shape'):
    stream(tmp_path, {split: classes() for split in pools.SPLITS})


def test_what_a_killed_process_left_is_removed(tmp_path):
  stream(tmp_path, classes_of(make_dataset()))
  entry = next(tmp_path.glob('tiny-*'))
  left = tmp_path / f'.{entry.name}.partial'
  entry.rename(left)
  assert_equal(stream(tmp_path, classes_of(make_dataset())), make_dataset())
  assert not left.exists()


def test_damaged_streamed_entry_is_written_again(tmp_path):
  stream(tmp_path, classes_of(make_dataset()))
  next(tmp_path.glob('tiny-*/val.npy')).write_bytes(b'')
  with pytest.warns(UserWarning, match='is damaged .*building it again'):
    assert_equal(stream(tmp_path, classes_of(make_dataset())), make_dataset())


def test_full_disk_while_streaming_is_explained(tmp_path):
  """Files of more than 20 kB fail to be written, much as on a full disk."""
  classes = {split: [('a', np.zeros((100, 16, 16, 3), np.uint8))] for split in pools.SPLITS}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
  try:
    with pytest.raises(ValueError, match='tiny: decoded images cannot be written to .*pass another '
                                         'cache_dir') as e:
      stream(tmp_path, classes)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(tmp_path) in str(e.value)
  assert not list(tmp_path.glob('.tiny-*.partial')) and not list(tmp_path.glob('tiny-*'))


def test_another_process_that_wrote_it_meanwhile_is_waited_for(tmp_path):
  stream(tmp_path, classes_of(make_dataset()))
  entry = next(tmp_path.glob('tiny-*'))
  hidden = entry.rename(tmp_path / 'hidden')
  found = []
  with filelock.FileLock(tmp_path / f'.{entry.name}.lock'):
    thread = threading.Thread(target=lambda: found.append(stream(tmp_path, None)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    hidden.rename(entry)
  thread.join(30)
  assert_equal(found[0], make_dataset())
