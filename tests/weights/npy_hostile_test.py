"""`.npy` and `.npz` files that harm, are damaged or hold something else: refused, and not run."""
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

from mtl_jax.weights import npy
from tests.weights.npy_files import ARRAYS, PLAIN, PYTHON2, array_file, boxed, save


def refused(path):
  with pytest.raises(ValueError) as e:
    npy.read(path)
  message = str(e.value)
  assert '\n' not in message and message.startswith(f'{path}: expected a ') and len(message) < 700
  return message


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
    assert "found the global 'posix.system'" in refused(save(tmp_path / 'file.npy', content))
  assert "found the global 'posix.system'" in refused(boxed(tmp_path, pickle.dumps(touch, 2)))
  assert not marker.exists()


@pytest.mark.parametrize('content, expected', [
    ({'a': 'text'}, "a str where numbers were expected, 'a'"),
    ({'a': None}, 'a NoneType where'),
    ({'a': {'b': ARRAYS['big']}}, 'a dict where'),
    ({'a': [[1, 2], [3, 4]]}, 'a list where'),
    ({'a': [1, 'x']}, 'a list where'),
    ({'a': np.array(['x'])}, 'a <U1 where'),
    ({'a': 2**70}, 'a object where'),
    ({'a': np.zeros(2, complex)}, "an array of dtype 'c16'"),
    ({'a': np.array([1, 'x'], object)}, 'an array of objects of shape (2,)'),
    ({3: ARRAYS['big']}, "the name '3'"),
    ({b'a': ARRAYS['big'], 'a': ARRAYS['big']}, "the name 'a'"),
    ({}, 'a dict where a dict with arrays was expected'),
    ([ARRAYS['big']], 'of dtype object and shape (1, 600)'),
    ({'a': {1, 2}}, 'a set'),
    ({('a', 'b'): ARRAYS['big']}, 'a dict with a tuple for a key'),
    ({f'a{i}': ARRAYS['big'] for i in range(200)}, 'arrays of 480000 bytes in a file of'),
])
def test_other_content_is_refused(tmp_path, content, expected):
  message = refused(save(tmp_path / 'file.npy', content))
  assert expected in message and 'nothing of it was run' in message


@pytest.mark.parametrize('header, expected', [
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
     'one array of dtype float32 and shape (2,)'),
    ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
     'one array of dtype object and shape (2,)'),
    ("{'descr': '|O'}", 'cut off or damaged'),
    ('(' * 5000, 'cut off or damaged'),
    ('', 'cut off or damaged'),
    ("__import__('os').system('true')", 'cut off or damaged')])
def test_other_header_is_refused(tmp_path, header, expected):
  pickled = pickle.dumps(np.array(ARRAYS, object), 2)
  assert expected in refused(boxed(tmp_path, pickled, header))


def test_cut_off_anywhere(tmp_path):
  np.savez_compressed(tmp_path / 'whole.npz', **ARRAYS)
  for content in (PYTHON2.read_bytes(), (tmp_path / 'whole.npz').read_bytes()):
    path = tmp_path / 'file'
    for length in [*range(0, len(content), 19), len(content) - 1]:
      path.write_bytes(content[:length])
      refused(path)


SCALAR = array_file(PLAIN % '()', bytes(4))


@pytest.mark.parametrize('entries, expected', [
    ({}, 'no arrays'),
    ({'a.txt': b''}, "the entry 'a.txt', which is no array"),
    ({'a.npy': b''}, 'cut off or damaged'),
    ({'a.npy': array_file(PLAIN % '(3,)', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % f'({2**50},)', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % f'({2**62}, {2**62})', bytes(8))}, '8 bytes for an array'),
    ({'a.npy': array_file(PLAIN % '(-1, -2)', bytes(8))}, 'cut off or damaged'),
    ({'a.npy': SCALAR.replace(b'<f4', b'|O8')}, 'an array of dtype object'),
    ({'a.npy': SCALAR.replace(b'<f4', b'|S4')}, 'an array of dtype |S4'),
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
  checksum, false_checksum = (struct.pack('<I', zlib.crc32(part)) for part in (content, announced))
  path.write_bytes(honest.replace(size, struct.pack('<I', len(announced)))
                   .replace(checksum, false_checksum))
  assert 'bytes for an array of shape (1000000,)' in refused(path)


def test_archive_packed_otherwise(tmp_path):
  path = tmp_path / 'file.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
    archive.writestr('a.npy', SCALAR)
  assert "a compressed entry, 'a.npy'" in refused(path)


@pytest.mark.parametrize('content', [
    b'', b'PK', b'PK\3\4', b'\x93NUMPY', b'\x93NUMPY\1\0\xff\xff', b'\x89HDF\r\n\x1a\n'])
def test_no_file_of_numpy(tmp_path, content):
  path = tmp_path / 'file.npy'
  path.write_bytes(content)
  refused(path)
