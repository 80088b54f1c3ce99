"""Files that PyTorch wrote, against arrays that are known by a formula, and files written by us."""
import os
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from mtl_jax.weights import pth
from tests.weights.pth_files import (
  GOLDEN,
  NETWORK,
  NUMBERS,
  SOUND,
  named,
  nested,
  op,
  tensor,
  write_legacy,
  write_zip,
)

BASE = np.arange(60, dtype=np.float32).reshape(6, 10) / 4
TYPES = {
    'float': np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8,
    'double': np.arange(5) / 3,
    'half': np.arange(7, dtype=np.float16) / 2,
    'bfloat16': (np.arange(9, dtype=np.float32) * 1.5 - 4).reshape(3, 3),
    'long': np.array(2**40 + 1, np.int64),
    'int': np.arange(-3, 3, dtype=np.int32),
    'short': np.arange(-3, 3, dtype=np.int16),
    'char': np.arange(-3, 3, dtype=np.int8),
    'byte': np.arange(250, 256, dtype=np.uint8),
    'bool': np.array([True, False, True]),
    'empty': np.zeros((0, 3), np.float32),
    'rows': BASE[2:4],
    'columns': BASE[:, 1::3],
    'transposed': BASE.reshape(3, 4, 5).transpose(2, 0, 1),
    'number': BASE[5, 9],
    'parameter': np.arange(4, dtype=np.float32) + 0.5,
}
NESTED = {**{f'net.{name}': value for name, value in NETWORK.items()},
          'optimizer.state.0.momentum': np.array([2, 4, 6], np.float32)}


def assert_holds(path, expected):
  found = pth.read(path)
  assert list(found) == list(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
    flags = found[name].flags
    assert found[name].dtype.isnative and flags.owndata and flags.writeable


@pytest.mark.parametrize('layout', ['zip', 'legacy'])
@pytest.mark.parametrize('name, expected', [('types', TYPES), ('parallel', NETWORK),
                                            ('nested', NESTED), ('protocol4', NETWORK)])
def test_what_pytorch_wrote(name, expected, layout):
  assert_holds(GOLDEN / f'{name}_{layout}.pth', expected)


def test_written_on_a_big_endian_machine(tmp_path):
  sizes = {'double': 8, 'float': 4, 'half': 2, 'bfloat16': 2, 'long': 8, 'int': 4, 'short': 2,
           'char': 1, 'byte': 1, 'bool': 1, 'empty': 1, 'rows': 4, 'parameter': 4}
  sizes = [sizes[name] for name in TYPES if name in sizes]  # of storages, in order of their keys
  path = tmp_path / 'big.pth'
  with (zipfile.ZipFile(GOLDEN / 'types_zip.pth') as source,
        zipfile.ZipFile(path, 'w') as target):
    for info in source.infolist():
      content = source.read(info)
      if '/data/' in info.filename:
        size = sizes[int(info.filename.split('/')[-1])]
        content = b''.join(content[i:i + size][::-1] for i in range(0, len(content), size))
      is_order = info.filename.endswith('/byteorder')
      target.writestr(info.filename, b'big' if is_order else content)
  assert_holds(path, TYPES)


def test_files_of_our_own_making_are_sound(tmp_path):
  expected = {'w': NUMBERS.reshape(2, 3)}
  assert_holds(write_zip(tmp_path, SOUND), expected)
  legacy = named(w=tensor(view=b'N'))
  assert_holds(write_legacy(tmp_path, legacy, content=NUMBERS.tobytes()), expected)
  twice = named(params=nested(a=tensor(), b=tensor(1, (2, 2), (1, 2))), epoch=op(3))
  assert_holds(write_zip(tmp_path, twice),
               {'a': expected['w'], 'b': np.array([[1, 3], [2, 4]], np.float32)})
  beside = named(params=nested(a=tensor()), w=tensor())
  assert_holds(write_zip(tmp_path, beside), {'params.a': expected['w'], 'w': expected['w']})


def test_missing_file_stays_an_oserror(tmp_path):
  with pytest.raises(FileNotFoundError):
    pth.read(tmp_path / 'none.pth')


def stand_in_for_torch(saved):
  def save(content, file):
    saved.append(content)
    file.write(b'written')
  return types.SimpleNamespace(from_numpy=lambda array: array, save=save)


def test_write(tmp_path, monkeypatch):
  saved, path = [], tmp_path / 'file.pth'
  monkeypatch.setitem(sys.modules, 'torch', stand_in_for_torch(saved))
  pth.write(path, {'b': np.arange(3, dtype='>f4'), 'a': np.asfortranarray(BASE),
                   'n': np.array(3)})
  (content,) = saved
  assert list(content) == ['params'] and type(content['params']) is OrderedDict
  params = content['params']
  assert list(params) == ['b', 'a', 'n'] and params['n'].shape == ()
  np.testing.assert_array_equal(params['b'], [0, 1, 2])
  np.testing.assert_array_equal(params['a'], BASE)
  assert all(array.dtype.isnative and array.flags.c_contiguous for array in params.values())
  assert path.read_bytes() == b'written' and os.listdir(tmp_path) == ['file.pth']

  with pytest.raises(ValueError, match='expected a file that does not exist yet'):
    pth.write(path, {'a': BASE})
  assert path.read_bytes() == b'written' and len(saved) == 1


def test_write_refuses_what_it_cannot(tmp_path, monkeypatch):
  path = tmp_path / 'file.pth'
  for tensors, expected in [
      ({}, 'got none'), ({'a': np.array('x')}, 'a to hold numbers'), ({1: BASE}, 'got 1'),
      ({'a': np.arange(3, dtype=np.uint32)}, 'a of a type that PyTorch has, got uint32')]:
    with pytest.raises(ValueError, match=expected):
      pth.write(path, tensors)
  monkeypatch.setitem(sys.modules, 'torch', None)
  without = 'expected PyTorch to be installed to write .pth.*write .npz instead'
  with pytest.raises(ValueError, match=without):
    pth.write(path, {'a': BASE})
  assert not os.listdir(tmp_path)
