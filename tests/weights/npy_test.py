"""Dictionaries of arrays by every NumPy, archives of arrays, and what is written."""
import os
import pickle

import numpy as np
import pytest

from mtl_jax.weights import npy
from tests.weights.npy_files import ARRAYS, PYTHON2, boxed, save

FILE = np.array([7, -8, 9], '>i2')  # takes a name that np.savez cannot


def assert_holds(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype.newbyteorder('=') and found[name].shape == value.shape
    flags = found[name].flags
    assert flags.owndata and flags.writeable and flags.c_contiguous


def test_what_python_2_and_numpy_1_wrote():
  expected = {**ARRAYS, 'b5': np.array(0.5), 'steps': np.array(3), 'rates': np.array([0.5, 0.25])}
  assert_holds(npy.read(PYTHON2), expected)


@pytest.mark.parametrize('protocol', range(6))
def test_what_this_numpy_writes(tmp_path, protocol):
  with_file = {**ARRAYS, 'file': FILE}
  assert_holds(npy.read(save(tmp_path / 'file.npy', with_file)), with_file)
  pickled = pickle.dumps(np.array(ARRAYS, object), protocol)
  assert_holds(npy.read(boxed(tmp_path, pickled)), ARRAYS)
  if protocol in (2, 3):
    assert b'numpy._core.multiarray' in pickled
    older = pickled.replace(b'numpy._core.', b'numpy.core.')
    assert_holds(npy.read(boxed(tmp_path, older)), ARRAYS)


def test_bytes_for_names_and_numbers_for_arrays(tmp_path):
  content = {b'block1_conv1': ARRAYS['big'], 'step': 3, 'rate': np.float32(0.5), 'sizes': [1, 2],
             'flags': (True, False), 'none': []}
  expected = {'block1_conv1': ARRAYS['big'], 'step': np.array(3), 'rate': np.array(0.5),
              'sizes': np.array([1, 2]), 'flags': np.array([True, False]), 'none': np.zeros(0)}
  assert_holds(npy.read(save(tmp_path / 'file.npy', content)), expected)


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
    assert loaded[name].dtype == value.dtype.newbyteorder('=')
    assert loaded[name].shape == value.shape
  assert os.listdir(tmp_path) == [f'file{ending}']


def test_a_written_dictionary_names_nothing_that_numpy_1_lacks(tmp_path):
  npy.write(tmp_path / 'file.npy', ARRAYS)
  content = (tmp_path / 'file.npy').read_bytes()
  assert b'numpy._core' not in content
  assert content.count(b'cnumpy.core.multiarray\n_reconstruct\n') == 1
  assert content.split(b'\n', 1)[1].startswith(b'\x80\x02')  # a protocol that Python 2 has


def test_write_refuses(tmp_path):
  path = tmp_path / 'file.npz'
  for bad, tensors, expected in [
      (path, {}, 'expected tensors to write, got none'),
      (path, {'': FILE}, "expected names of tensors, got ''"),
      (path, {'a\0b': FILE}, 'expected names'),
      (path, {'a': np.array([{}])}, 'expected a to hold numbers, got object'),
      (tmp_path / 'file.bin', ARRAYS, r'ends in .npz or .npy, got .bin'),
      (tmp_path / 'file', ARRAYS, 'got no ending')]:
    with pytest.raises(ValueError, match=expected):
      npy.write(bad, tensors)
  assert not os.listdir(tmp_path)
  with pytest.raises(OSError, match='could not write'):
    npy.write(tmp_path / 'none' / 'file.npz', ARRAYS)
  path.write_bytes(b'precious')
  with pytest.raises(ValueError, match='expected a file that does not exist yet, found one'):
    npy.write(path, ARRAYS)
  assert path.read_bytes() == b'precious'
