"""Pickles by every protocol and by Python 2, cut off, damaged, and hostile."""
import collections
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from mtl_jax.untrusted import numpy_pickles

CONTENT = {
    'images': np.arange(6000, dtype=np.uint8).reshape(10, 20, 10, 3),
    'labels': [np.int64(3), 4, 2**70, True, None, -1.5],
    'big_endian': np.arange(7, dtype='>i4'),
    'columns': np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    'empty': np.zeros((0, 3), np.uint8),
    'texts': np.array(['nématode', 'crab']),
    'names': ('a', b'b', 'é', b''),
    'nested': [{'n01532829': [0, 1]}, [np.float32(0.5)]],
}


def write(tmp_path, content):
  path = tmp_path / 'file.pkl'
  path.write_bytes(content)
  return path


def refused(path):
  with pytest.raises(ValueError) as e:
    numpy_pickles.load(path)
  assert '\n' not in str(e.value) and str(path) in str(e.value)
  return str(e.value)


def python2_array(array, dtype_seen=False):
  """An array of bytes as NumPy 1.x wrote it under Python 2, protocol 2."""
  dtype = b'h\x07' if dtype_seen else (
      b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN' + b'J\xff\xff\xff\xff' * 2 +
      b'K\x00tb')
  shape = b'(' + b''.join(b'J' + struct.pack('<i', n) for n in array.shape) + b't'
  return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01' +
          shape + dtype + b'\x89T' + struct.pack('<i', array.size) + array.tobytes() + b'tb')


@pytest.mark.parametrize('protocol', range(6))
def test_every_protocol(tmp_path, protocol):
  found = numpy_pickles.load(write(tmp_path, pickle.dumps(CONTENT, protocol)))
  assert list(found) == list(CONTENT)
  for name, value in CONTENT.items():
    if isinstance(value, np.ndarray):
      np.testing.assert_array_equal(found[name], value)
      assert found[name].dtype == value.dtype and not found[name].flags.writeable
    else:
      assert found[name] == value and type(found[name]) is type(value)


@pytest.mark.parametrize('count', [5, 1200])  # below and above what is mapped
def test_python_2(tmp_path, count):
  first = np.arange(count, dtype=np.uint8)
  second = np.arange(2 * count, dtype=np.uint8).reshape(2, count)
  found = numpy_pickles.load(write(
      tmp_path, b'\x80\x02}(U\x06imagesU\x03\xe9abU\x04list](' + python2_array(first) +
      python2_array(second, dtype_seen=True) + b'eu.'))
  assert list(found) == ['images', 'list'] and found['images'] == 'éab'
  np.testing.assert_array_equal(found['list'][0], first)
  np.testing.assert_array_equal(found['list'][1], second)


def test_array_that_is_named_twice_is_one(tmp_path):
  found = numpy_pickles.load(write(tmp_path, pickle.dumps([CONTENT['images']] * 2)))
  assert found[0] is found[1]


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_arrays_are_mapped_not_read(tmp_path, protocol):
  images = np.random.default_rng(0).integers(0, 256, (200, 84, 84, 3), dtype=np.uint8)  # 4.2 MB
  path = write(tmp_path, pickle.dumps({'image_data': images}, protocol))
  tracemalloc.start()
  found = numpy_pickles.load(path)['image_data']
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < images.nbytes / 20
  np.testing.assert_array_equal(found[150], images[150])


class Runs:
  """Pickles as a call."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def hostile(marker):
  command = f'touch {marker}'
  return {
      'reduce': (pickle.dumps({'image_data': Runs(os.system, command)}), 'posix.system'),
      'old_reduce': (pickle.dumps(Runs(os.system, command), 0), 'posix.system'),
      'eval': (pickle.dumps([Runs(eval, '1')]), 'builtins.eval'),
      'inst': (f"(S'{command}'\nios\nsystem\n.".encode(), 'os.system'),
      'obj': (b'(cos\nsystem\nU' + bytes([len(command)]) + command.encode() + b'o.', 'os.system'),
      'newobj': (pickle.dumps(collections.Counter('a')), 'collections.Counter'),
      'object_array': (pickle.dumps(np.array([Runs(os.system, command)], object)), "'O8'"),
      'harmless_object_array': (pickle.dumps(np.array([1, 'a'], object)), "'O8'"),
      'nested_in_object_array': (
          pickle.dumps([np.array([[Runs(os.system, command)], {}], object)]), "'O8'"),
      'structured_array': (pickle.dumps(np.zeros(2, [('a', 'O')])), "'V8'"),
      'structure_by_state': (
          b'cnumpy\ndtype\nU\x02u8\x85R(K\x03U\x01|N(U\x01atNJ\xff\xff\xff\xffK\x01K\x00tb.',
          'structured dtype'),
      'other_codec': (b'c_codecs\nencode\nU\x01aU\x05rot13\x86R.', "'rot13'"),
      'other_kind_of_array': (
          b'cnumpy.core.multiarray\n_reconstruct\nc_codecs\nencode\n\x85R.', 'unknown class'),
      'state_of_a_function': (b'c_codecs\nencode\n}b.', 'state for a function'),
      'state_of_a_whole_array': (
          b'\x80\x02' + python2_array(np.zeros(3, np.uint8)) + b'}b.', 'state for a ndarray'),
      'persistent_id': (b'Pname\n.', 'persistent id'),
      'extension': (b'\x80\x02\x82\x01.', 'a registered extension'),
      'key_too_deep_to_hash': (
          b'\x80\x02})' + b'\x85' * 100_000 + b'K\x01s.', 'a dict with a tuple for a key'),
      'keys_too_deep_to_hash': (
          b'(}(' + b')' + b'\x85' * 100_000 + b'K\x01us.', 'a dict with a tuple for a key'),
      'boxed_dict': (pickle.dumps(np.array({'a': 1}, object)), "'O8'"),
      'set': (pickle.dumps({1, 2}), 'a set'),
      'numpy_load': (b'cnumpy\nload\nU\x01a\x85R.', 'numpy.load'),
      'attribute_path': (
          b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.', 'numpy.ndarray.tofile'),
      'lines_in_a_name': (b'\x80\x04\x8c\x03a\nb\x8c\x03c\nd\x93.', r'a\nb.c\nd'),
  }


@pytest.mark.parametrize('kind', hostile(''))
def test_hostile_pickle_is_refused_and_not_run(tmp_path, kind):
  marker = tmp_path / 'was_run'
  content, named = hostile(marker)[kind]
  message = refused(write(tmp_path, content))
  assert named in message and 'nothing of it was run' in message
  assert 'expected a pickle of arrays, dicts, lists, strings and numbers only' in message
  assert not marker.exists()


@pytest.mark.parametrize('protocol', [2, 4])
def test_cut_off_anywhere(tmp_path, protocol):
  content = pickle.dumps(CONTENT, protocol)
  for length in [*range(0, 200, 7), *range(200, len(content), 211), len(content) - 1]:
    message = refused(write(tmp_path, content[:length]))
    assert f'found {length} bytes, cut off or damaged' in message and 'copy it again' in message


def test_damaged_bytes_end_in_one_line_or_in_data(tmp_path):
  rng = np.random.default_rng(0)
  names = 'labels', 'columns', 'names', 'nested'
  content = pickle.dumps({name: CONTENT[name] for name in names}, 4)
  outcomes = collections.Counter()
  for _ in range(300):
    damaged = bytearray(content)
    for i in rng.integers(0, len(content), 3):
      damaged[i] = rng.integers(0, 256)
    path = write(tmp_path, bytes(damaged))
    try:
      numpy_pickles.load(path)
      outcomes['read'] += 1
    except ValueError as e:
      assert '\n' not in str(e)
      outcomes['refused'] += 1
  assert outcomes['refused'] > 100


def test_shape_beyond_the_content(tmp_path):
  array = python2_array(np.zeros(3, np.uint8))
  array = array.replace(struct.pack('<i', 3), struct.pack('<i', 1000), 1)
  assert 'cut off or damaged' in refused(write(tmp_path, b'\x80\x02' + array + b'.'))


def test_length_beyond_the_file(tmp_path):
  content = b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'abc.'
  assert 'cut off or damaged' in refused(write(tmp_path, content))
