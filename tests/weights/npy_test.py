"""Dictionaries of arrays by every NumPy, archives of arrays, and files that harm."""
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

from mtl_jax.weights import npy

PYTHON2 = pathlib.Path(__file__).parents[1] / 'golden' / 'weights' / 'python2.npy'
ARRAYS = {
    'block1_conv1': (np.arange(48, dtype=np.float32) / 8).reshape(2, 2, 3, 4),
    'block1_bias1': np.arange(4, dtype=np.float32) - 1,
    'w5': np.asfortranarray(np.arange(20, dtype=np.float64).reshape(4, 5)),
    'big': np.arange(600, dtype=np.float32),  # longer than what is read rather than mapped
}
FILE = np.array([7, -8, 9], '>i2')  # takes a name that np.savez cannot


def assert_holds(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype.newbyteorder('=') and found[name].shape == value.shape
    assert found[name].flags.owndata and found[name].flags.writeable and found[name].flags.c_contiguous


def refused(path):
  with pytest.raises(ValueError) as e:
    npy.read(path)
  assert '\n' not in str(e.value) and str(e.value).startswith(f'{path}: expected a ') and len(str(e.value)) < 700
  return str(e.value)


def saved(tmp_path, content):
  """As np.save writes any object."""
  np.save(tmp_path / 'file.npy', np.array(content, object), allow_pickle=True)
  return tmp_path / 'file.npy'


def boxed(tmp_path, pickled, header="{'descr': '|O', 'fortran_order': False, 'shape': ()}"):
  path = tmp_path / 'file.npy'
  path.write_bytes(b'\x93NUMPY\1\0' + struct.pack('<H', len(header) + 1) + header.encode() + b'\n' + pickled)
  return path


def test_what_python_2_and_numpy_1_wrote():
  expected = {**ARRAYS, 'b5': np.array(0.5), 'steps': np.array(3), 'rates': np.array([0.5, 0.25])}
  assert_holds(npy.read(PYTHON2), expected)


@pytest.mark.parametrize('protocol', range(6))
def test_what_this_numpy_writes(tmp_path, protocol):
  assert_holds(npy.read(saved(tmp_path, {**ARRAYS, 'file': FILE})), {**ARRAYS, 'file': FILE})
  pickled = pickle.dumps(np.array(ARRAYS, object), protocol)
  assert_holds(npy.read(boxed(tmp_path, pickled)), ARRAYS)
  if protocol in (2, 3):
    assert b'numpy._core.multiarray' in pickled
    assert_holds(npy.read(boxed(tmp_path, pickled.replace(b'numpy._core.', b'numpy.core.'))), ARRAYS)


def test_bytes_for_names_and_numbers_for_arrays(tmp_path):
  content = {b'block1_conv1': ARRAYS['big'], 'step': 3, 'rate': np.float32(0.5), 'sizes': [1, 2],
             'flags': (True, False), 'none': []}
  expected = {'block1_conv1': ARRAYS['big'], 'step': np.array(3), 'rate': np.array(0.5), 'sizes': np.array([1, 2]),
              'flags': np.array([True, False]), 'none': np.zeros(0)}
  assert_holds(npy.read(saved(tmp_path, content)), expected)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_archives(tmp_path, save):
  ones = np.ones((64, 64, 9), np.float32)  # shrinks to a two-hundredth
  save(tmp_path / 'file.npz', **ARRAYS, ones=ones)
  assert_holds(npy.read(tmp_path / 'file.npz'), {**ARRAYS, 'ones': ones})


@pytest.mark.parametrize('ending', ['.npy', '.npz'])
def test_what_is_written_is_read_here_and_by_numpy(tmp_path, ending):
  path = str(tmp_path / f'file{ending}')
  tensors = {**ARRAYS, 'file': FILE, 'a/b': np.array(5), 'empty': np.zeros((0, 3), np.float16)}
  npy.write(path, tensors)
  assert_holds(npy.read(path), tensors)
  loaded = np.load(path, allow_pickle=ending == '.npy')
  loaded = loaded.item() if ending == '.npy' else loaded
  assert list(loaded) == list(tensors)
  for name, value in tensors.items():
    np.testing.assert_array_equal(loaded[name], value)
    assert loaded[name].dtype == value.dtype.newbyteorder('=') and loaded[name].shape == value.shape
  assert os.listdir(tmp_path) == [f'file{ending}']


def test_a_written_dictionary_names_nothing_that_numpy_1_lacks(tmp_path):
  npy.write(tmp_path / 'file.npy', ARRAYS)
  content = (tmp_path / 'file.npy').read_bytes()
  assert b'numpy._core' not in content and content.count(b'cnumpy.core.multiarray\n_reconstruct\n') == 1
  assert content.split(b'\n', 1)[1].startswith(b'\x80\x02')  # a protocol that Python 2 has


def test_write_refuses(tmp_path):
  path = tmp_path / 'file.npz'
  for bad, tensors, expected in [
      (path, {}, 'expected tensors to write, got none'), (path, {'': FILE}, "expected names of tensors, got ''"),
      (path, {'a\0b': FILE}, 'expected names'), (path, {'a': np.array([{}])}, 'expected a to hold numbers, got object'),
      (tmp_path / 'file.bin', ARRAYS, r'ends in .npz or .npy, got .bin'), (tmp_path / 'file', ARRAYS, 'got no ending')]:
    with pytest.raises(ValueError, match=expected):
      npy.write(bad, tensors)
  assert not os.listdir(tmp_path)
  with pytest.raises(OSError, match='could not write'):
    npy.write(tmp_path / 'none' / 'file.npz', ARRAYS)
  path.write_bytes(b'precious')
  with pytest.raises(ValueError, match='expected a file that does not exist yet, found one'):
    npy.write(path, ARRAYS)
  assert path.read_bytes() == b'precious'


class Runs:
  """Pickles as a call."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def test_hostile_dictionary_is_refused_and_not_run(tmp_path):
  marker = tmp_path / 'was_run'
  touch = Runs(os.system, f'touch {marker}')
  for content in (touch, {'a': touch}, {'a': [touch]}, {'a': np.array([touch], object)}):
    assert "found the global 'posix.system'" in refused(saved(tmp_path, content))
  assert "found the global 'posix.system'" in refused(boxed(tmp_path, pickle.dumps(touch, 2)))
  assert not marker.exists()


@pytest.mark.parametrize('content, expected', [
    ({'a': 'text'}, "a str where numbers were expected, 'a'"), ({'a': None}, 'a NoneType where'),
    ({'a': {'b': ARRAYS['big']}}, 'a dict where'), ({'a': [[1, 2], [3, 4]]}, 'a list where'),
    ({'a': [1, 'x']}, 'a list where'), ({'a': np.array(['x'])}, 'a <U1 where'), ({'a': 2**70}, 'a object where'),
    ({'a': np.zeros(2, complex)}, "an array of dtype 'c16'"),
    ({'a': np.array([1, 'x'], object)}, 'an array of objects of shape (2,)'),
    ({3: ARRAYS['big']}, "the name '3'"), ({b'a': ARRAYS['big'], 'a': ARRAYS['big']}, "the name 'a'"),
    ({}, 'a dict where a dict with arrays was expected'), ([ARRAYS['big']], 'of dtype object and shape (1, 600)'),
    ({'a': {1, 2}}, 'a set'), ({('a', 'b'): ARRAYS['big']}, 'a dict with a tuple for a key'),
    ({f'a{i}': ARRAYS['big'] for i in range(200)}, 'arrays of 480000 bytes in a file of'),
])
def test_other_content_is_refused(tmp_path, content, expected):
  message = refused(saved(tmp_path, content))
  assert expected in message and 'nothing of it was run' in message


@pytest.mark.parametrize('header, expected', [
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 'one array of dtype float32 and shape (2,)'),
    ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 'one array of dtype object and shape (2,)'),
    ("{'descr': '|O'}", 'cut off or damaged'), ('(' * 5000, 'cut off or damaged'), ('', 'cut off or damaged'),
    ("__import__('os').system('true')", 'cut off or damaged')])
def test_other_header_is_refused(tmp_path, header, expected):
  assert expected in refused(boxed(tmp_path, pickle.dumps(np.array(ARRAYS, object), 2), header))


def test_cut_off_anywhere(tmp_path):
  np.savez_compressed(tmp_path / 'whole.npz', **ARRAYS)
  for content in (PYTHON2.read_bytes(), (tmp_path / 'whole.npz').read_bytes()):
    path = tmp_path / 'file'
    for length in [*range(0, len(content), 19), len(content) - 1]:
      path.write_bytes(content[:length])
      refused(path)


def array_file(header, content=b''):
  header = header.encode() + b'\n'
  return b'\x93NUMPY\1\0' + struct.pack('<H', len(header)) + header + content


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize('entries, expected', [
    ({}, 'no arrays'), ({'a.txt': b''}, "the entry 'a.txt', which is no array"),
    ({'a.npy': b''}, 'cut off or damaged'), ({'a.npy': array_file(PLAIN % '(3,)', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % f'({2**50},)', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % f'({2**62}, {2**62})', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % '(-1, -2)', bytes(8))}, 'cut off or damaged'),
    ({'a.npy': array_file(PLAIN % '()', bytes(4)).replace(b'<f4', b'|O8')}, 'an array of dtype object'),
    ({'a.npy': array_file(PLAIN % '()', bytes(4)).replace(b'<f4', b'|S4')}, 'an array of dtype |S4'),
    ({'a.npy': b'\x93NUMPY\3\0' + bytes(20)}, 'version (3, 0)'),
])
def test_hostile_archive(tmp_path, entries, expected):
  path = tmp_path / 'file.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in entries.items():
      archive.writestr(name, content)
  assert expected in refused(path)


def test_archive_that_grows_without_end(tmp_path):
  path = tmp_path / 'file.npz'
  content = array_file(PLAIN % '(1000000,)', bytes(4_000_000))
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.npy', content)
  honest, size = path.read_bytes(), struct.pack('<I', len(content))
  assert honest.count(size) == 2
  path.write_bytes(honest.replace(size, struct.pack('<I', 2**32 - 2)))
  assert 'entries that announce 4294967294 bytes in all' in refused(path)
  announced = content[:128 + 400]  # and a checksum of what is announced
  path.write_bytes(honest.replace(size, struct.pack('<I', len(announced))).replace(
      struct.pack('<I', zlib.crc32(content)), struct.pack('<I', zlib.crc32(announced))))
  assert 'bytes for an array of shape (1000000,)' in refused(path)


def test_archive_packed_otherwise(tmp_path):
  path = tmp_path / 'file.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
    archive.writestr('a.npy', array_file(PLAIN % '()', bytes(4)))
  assert "a compressed entry, 'a.npy'" in refused(path)


@pytest.mark.parametrize('content', [b'', b'PK', b'PK\3\4', b'\x93NUMPY', b'\x93NUMPY\1\0\xff\xff',
                                     b'\x89HDF\r\n\x1a\n'])
def test_no_file_of_numpy(tmp_path, content):
  path = tmp_path / 'file.npy'
  path.write_bytes(content)
  refused(path)
