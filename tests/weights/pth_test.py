"""Files that PyTorch wrote, and files that harm, against arrays that are known by a formula."""
import functools
import os
import pathlib
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from mtl_jax.weights import pth
from tests.weights.pth_files import NUMBERS, SOUND, named, op, tensor, write_legacy, write_zip

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'weights'
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
NETWORK = {  # each counts up from its place in the network
    'conv.weight': np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2),
    'norm.weight': np.arange(1, 4, dtype=np.float32),
    'norm.bias': np.arange(2, 5, dtype=np.float32),
    'norm.running_mean': np.arange(3, 6, dtype=np.float32),
    'norm.running_var': np.arange(4, 7, dtype=np.float32),
    'norm.num_batches_tracked': np.array(5, np.int64),
}
NESTED = {**{f'net.{name}': value for name, value in NETWORK.items()},
          'optimizer.state.0.momentum': np.array([2, 4, 6], np.float32)}


def assert_holds(path, expected):
  found = pth.read(path)
  assert list(found) == list(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
    assert found[name].dtype.isnative and found[name].flags.owndata and found[name].flags.writeable


def refused(path):
  with pytest.raises(ValueError) as e:
    pth.read(path)
  assert '\n' not in str(e.value) and str(e.value).startswith(f'{path}: expected a ') and len(str(e.value)) < 700
  return str(e.value)


@pytest.mark.parametrize('layout', ['zip', 'legacy'])
@pytest.mark.parametrize('name, expected', [('types', TYPES), ('parallel', NETWORK), ('nested', NESTED),
                                            ('protocol4', NETWORK)])
def test_what_pytorch_wrote(name, expected, layout):
  assert_holds(GOLDEN / f'{name}_{layout}.pth', expected)


def test_written_on_a_big_endian_machine(tmp_path):
  sizes = {'double': 8, 'float': 4, 'half': 2, 'bfloat16': 2, 'long': 8, 'int': 4, 'short': 2, 'char': 1, 'byte': 1,
           'bool': 1, 'empty': 1, 'rows': 4, 'parameter': 4}  # storages, in the order of their keys
  sizes = [sizes[name] for name in TYPES if name in sizes]
  path = tmp_path / 'big.pth'
  with zipfile.ZipFile(GOLDEN / 'types_zip.pth') as source, zipfile.ZipFile(path, 'w') as target:
    for info in source.infolist():
      content = source.read(info)
      if '/data/' in info.filename:
        size = sizes[int(info.filename.split('/')[-1])]
        content = b''.join(content[i:i + size][::-1] for i in range(0, len(content), size))
      target.writestr(info.filename, b'big' if info.filename.endswith('/byteorder') else content)
  assert_holds(path, TYPES)


def test_files_of_our_own_making_are_sound(tmp_path):
  expected = {'w': NUMBERS.reshape(2, 3)}
  assert_holds(write_zip(tmp_path, SOUND), expected)
  assert_holds(write_legacy(tmp_path, named(w=tensor(view=b'N')), content=NUMBERS.tobytes()), expected)
  twice = named(params=named(a=tensor(), b=tensor(1, (2, 2), (1, 2)))[2:-1], epoch=op(3))
  assert_holds(write_zip(tmp_path, twice), {'a': expected['w'], 'b': np.array([[1, 3], [2, 4]], np.float32)})
  beside = named(params=named(a=tensor())[2:-1], w=tensor())
  assert_holds(write_zip(tmp_path, beside), {'params.a': expected['w'], 'w': expected['w']})


def hostile(marker):
  command = f'touch {marker}'
  return {
      'reduce': (f'cos\nsystem\n(S{command!r}\ntR.', 'os.system'),
      'inst': (f'(S{command!r}\nios\nsystem\n.', 'os.system'),
      'obj': (f'(cos\nsystem\nS{command!r}\no.', 'os.system'),
      'eval': ("cbuiltins\neval\n(S'1'\ntR.", 'builtins.eval'),
      'attribute_path': (b'\x80\x04\x8c\x05torch\x8c\x08Size.mro\x93.', 'torch.Size.mro'),
      'other_rebuild': ('ctorch._utils\n_rebuild_from_type_v2\n.', '_rebuild_from_type_v2'),
      'numpy_scalar': (pickle.dumps({'best': np.float64(1)}, 2), 'multiarray.scalar'),
      'whole_module': ("(S'module'\nN(tN(ttQ.", 'persistent id of something else'),
      'text_persistent_id': ('Pname\n.', 'a persistent id'),
      'storage_view': (named(w=tensor(view=op(('1', 0, 6)))), 'persistent id of something else'),
      'storage_of_text': (named(w=tensor(kind='Size')), 'a storage without a type'),
      'storage_of_unknown_type': (named(w=tensor(kind='ComplexFloatStorage')), 'torch.ComplexFloatStorage'),
      'storage_of_negative_size': (named(w=tensor(size=-6)), 'a storage without a type, a key or a size'),
      'storage_named_by_a_number': (named(w=tensor(key=0)), 'a storage without a type, a key or a size'),
      'storage_of_two_sizes': (named(v=tensor(), w=tensor(size=7)), 'two types or sizes'),
      'storage_of_two_types': (named(v=tensor(), w=tensor(kind='IntStorage')), 'two types or sizes'),
      'storage_alone': (named(w=tensor().split(b'(', 1)[1].split(b'Q')[0] + b'Q'), 'a Storage under'),
      'type_alone': ('ctorch\nFloatStorage\n.', 'a _Kind where a dict'),
      'state_of_a_type': ('ctorch\nFloatStorage\n}b.', 'state for a _Kind'),
      'state_of_a_tensor': (named(w=tensor() + b'}b'), 'state for a Tensor'),
      'state_of_a_function': ('ctorch._utils\n_rebuild_parameter\n}b.', 'state for a function'),
      'items_for_a_function': ('ctorch._utils\n_rebuild_parameter\nK\x01K\x02s.', 'items for a function'),
      'parameter_of_text': ("ctorch._utils\n_rebuild_parameter\n(S'a'\nI01\nNtR.", 'a parameter that is no tensor'),
      'tensor_of_text': ("ctorch._utils\n_rebuild_tensor_v2\n(S'a'\nK\x00))I00\nNtR.", 'a tensor without storage'),
      'key_too_deep_to_hash': (b'})' + b'\x85' * 100_000 + b'K\x01s.', 'a tuple for a key'),
      'pair_too_deep_to_hash': (b'ccollections\nOrderedDict\n(](]()' + b'\x85' * 100_000 + b'K\x01eetR.', 'a tuple'),
      'offset_outside': (named(w=tensor(offset=1)), 'offset 1, in a storage of 6'),
      'offset_negative': (named(w=tensor(offset=-1)), 'at -1'),
      'offset_huge': (named(w=tensor(offset=2**63)), 'a tensor of 2 dimensions'),
      'offset_fraction': (named(w=tensor(offset=0.0)), 'a tensor of 2 dimensions'),
      'stride_outside': (named(w=tensor(stride=(4, 1))), 'strides (4, 1)'),
      'stride_negative': (named(w=tensor(5, (6,), (-1,))), 'a tensor without storage, shape or strides'),
      'stride_zero_grows': (named(w=tensor(0, (10**12,), (0,))), 'shape (1000000000000,)'),
      'strides_missing': (named(w=tensor(stride=(1,))), '2 dimensions and 1 strides'),
      'shape_negative': (named(w=tensor(shape=(-2, -3))), 'a tensor without storage, shape or strides'),
      'shape_huge': (named(w=tensor(shape=(2**62, 2**62), stride=(0, 0))), 'in a storage of 6'),
      'shape_of_lists': (named(w=tensor(shape=([], 3))), 'a tensor without storage, shape or strides'),
      'shape_of_truth': (named(w=tensor(shape=(True, 3))), 'a tensor without storage, shape or strides'),
      'too_many_dimensions': (named(w=tensor(shape=(1,) * 65, stride=(1,) * 65)), 'a tensor without storage'),
      'no_tensors': (named(epoch=op(3)), 'no tensors'),
      'no_dict': (tensor() + b'.', 'a Tensor where a dict'),
      'two_of_one_name': (named(**{'a.b': tensor(), 'a': named(b=tensor())[2:-1]}), "two tensors named 'a.b'"),
      'name_of_bytes': (b'}C\x01a' + tensor() + b's.', 'a bytes for a name'),
      'name_too_long': (named(**{'a' * 2000: tensor()}), 'a name of 2000 characters'),
      'dict_in_itself': (b'}q\x09' + op('a') + b'h\x09s.', 'deeper than 8'),
      'list_in_itself': (b'}' + op('a') + b']q\x00(h\x00h\x00h\x00es.', 'deeper than 8'),
      'many_times_the_same': (named(a=b'](' + b']q\x00(' + b']q\x01(' + b'K\x00' * 1000 + b'e' + b'h\x01' * 1000 +
                                    b'e' + b'h\x00' * 1000 + b'e'), 'more than 300000 values'),
      'one_storage_many_times': (named(**{f'w{i}': tensor(0, (4000,), (1,), 4000) for i in range(1500)}), 'bytes in'),
  }


@pytest.mark.parametrize('kind', hostile(''))
def test_hostile_pickle_is_refused_and_not_run(tmp_path, kind):
  marker = tmp_path / 'was_run'
  pickled, expected = hostile(marker)[kind]
  pickled = pickled.encode('latin1') if isinstance(pickled, str) else pickled
  size = 4000 if kind == 'one_storage_many_times' else 6
  message = refused(write_zip(tmp_path, pickled, {'0': bytes(4 * size)}))
  assert expected in message and 'nothing of it was run' in message
  message = refused(write_legacy(tmp_path, pickled, counts=[size], content=bytes(4 * size)))
  assert expected in message or 'other storages than its tensors name' in message
  assert not marker.exists()


@pytest.mark.parametrize('change, expected', [
    (dict(compression=zipfile.ZIP_DEFLATED), "a compressed entry, 'archive/data.pkl'"),
    (dict(storages={}), "no bytes for the storage '0' of 24"),
    (dict(storages={'0': bytes(23)}), "23 bytes for the storage '0' of 24"),
    (dict(storages={'0': bytes(25)}), "25 bytes for the storage '0' of 24"),
    (dict(storages={'../0': bytes(24)}), "no bytes for the storage '0'"),
    (dict(folder='../a'), '0 pickles named data.pkl'),
    (dict(folder=''), '0 pickles named data.pkl'),
    (dict(byteorder=b'middle'), "the byte order b'middle'"),
    (dict(pickled=SOUND[:-1]), 'cut off or damaged'),
    (dict(pickled=b''), 'cut off or damaged'),
    (dict(pickled=SOUND + bytes(pth.MAX_PICKLE)), 'a pickle of 16777'),
    (dict(pickled=named(w=tensor(key='../../etc/passwd'))), "no bytes for the storage '../../etc/passwd'"),
])
def test_hostile_archive(tmp_path, change, expected):
  assert expected in refused(write_zip(tmp_path, **{'pickled': SOUND, **change}))


@pytest.mark.parametrize('change, expected', [
    (dict(keys=()), 'other storages than'), (dict(keys=('0', '1')), 'other storages than'),
    (dict(keys=('0', '0')), 'other storages than'), (dict(keys=(0,)), 'other storages than'),
    (dict(counts=(7,)), "another size of the storage '0'"), (dict(counts=(-6,)), "another size of the storage '0'"),
    (dict(counts=(2**62,)), "another size of the storage '0'"), (dict(content=bytes(23)), 'where its storages end at'),
    (dict(content=bytes(25)), 'where its storages end at'), (dict(version=1000), 'another version of the format'),
    (dict(pickled=named(w=tensor(size=2**60))), "another size of the storage '0'"),
    (dict(pickled=named(w=tensor(size=2**60)), counts=(2**60,)), 'where its storages end at'),
])
def test_hostile_legacy_file(tmp_path, change, expected):
  assert expected in refused(write_legacy(tmp_path, **{'pickled': SOUND, **change}))


def test_archive_with_entries_that_overlap_or_share_a_name(tmp_path):
  path = write_zip(tmp_path, SOUND)
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
    archive.writestr('archive/data.pkl', SOUND)
  assert "two entries named 'archive/data.pkl'" in refused(path)

  path = write_zip(tmp_path, SOUND, {str(i): bytes(1000) for i in range(50)})
  content = path.read_bytes()
  entries = content.index(b'PK\1\2')
  first = content.index(b'archive/data/0') - 30
  path.write_bytes(content[:first + 1500] + content[entries:-6] + struct.pack('<IH', first + 1500, 0))
  message = refused(path)
  assert 'more than' in message and 'entries that announce' in message


@pytest.mark.parametrize('content', [b'', b'P', b'PK\3\4', b'PK\3\4' + bytes(200), b'\x93NUMPY\1\0', bytes(100),
                                     b'<html>404</html>' * 10, b'ustar' * 100])
def test_no_file_of_pytorch(tmp_path, content):
  path = tmp_path / 'file.pth'
  path.write_bytes(content)
  refused(path)


@pytest.mark.parametrize('name', ['types_zip', 'types_legacy', 'protocol4_zip', 'protocol4_legacy'])
def test_cut_off_anywhere(tmp_path, name):
  content = (GOLDEN / f'{name}.pth').read_bytes()
  path = tmp_path / 'file.pth'
  for length in [*range(0, len(content), 23), len(content) - 1]:
    path.write_bytes(content[:length])
    refused(path)


@pytest.mark.parametrize('name', ['parallel_zip', 'parallel_legacy'])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path, name):
  content = (GOLDEN / f'{name}.pth').read_bytes()
  path = tmp_path / 'file.pth'
  for place in range(0, len(content), 3):
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:])
    try:
      found = pth.read(path)
    except ValueError as e:
      assert '\n' not in str(e)
    else:  # The older format has no checksums: there a number may differ.
      assert name == 'parallel_legacy' or all(np.array_equal(found[key], NETWORK[key]) for key in NETWORK)


@functools.cache
def golden_bytes(name):
  return (GOLDEN / f'{name}.pth').read_bytes()


@hypothesis.settings(derandomize=True, max_examples=100, deadline=None, database=None,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(strategies.data())
def test_random_damage_never_raises_anything_else(tmp_path, data):
  pickled = data.draw(strategies.sampled_from(['nested_legacy', 'types_legacy', 'zip']))
  content = bytearray(SOUND if pickled == 'zip' else golden_bytes(pickled))
  for _ in range(data.draw(strategies.integers(1, 4))):
    start = data.draw(strategies.integers(0, len(content) - 1))
    end = start + data.draw(strategies.integers(0, 3))
    content[start:end] = data.draw(strategies.binary(max_size=4))
  path = tmp_path / 'file.pth'
  path.write_bytes(content) if pickled != 'zip' else write_zip(tmp_path, bytes(content))
  try:
    assert all(isinstance(value, np.ndarray) for value in pth.read(path).values())
  except ValueError as e:
    assert '\n' not in str(e)


@pytest.mark.parametrize('opcodes', [b'Nr' + struct.pack('<I', 2**31), b'\x8e' + struct.pack('<Q', 2**36),
                                     b'\x8b' + struct.pack('<I', 2**31 - 1), b'p4000000000\n'])
def test_a_few_bytes_take_no_memory(tmp_path, opcodes):
  path = write_zip(tmp_path, b'\x80\x02' + opcodes + b'.')
  tracemalloc.start()
  refused(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**20


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
  pth.write(path, {'b': np.arange(3, dtype='>f4'), 'a': np.asfortranarray(BASE), 'n': np.array(3)})
  (content,) = saved
  assert list(content) == ['params'] and type(content['params']) is OrderedDict
  assert list(content['params']) == ['b', 'a', 'n'] and content['params']['n'].shape == ()
  np.testing.assert_array_equal(content['params']['b'], [0, 1, 2])
  np.testing.assert_array_equal(content['params']['a'], BASE)
  assert all(array.dtype.isnative and array.flags.c_contiguous for array in content['params'].values())
  assert path.read_bytes() == b'written' and os.listdir(tmp_path) == ['file.pth']

  with pytest.raises(ValueError, match='expected a file that does not exist yet'):
    pth.write(path, {'a': BASE})
  assert path.read_bytes() == b'written' and len(saved) == 1


def test_write_refuses_what_it_cannot(tmp_path, monkeypatch):
  path = tmp_path / 'file.pth'
  for tensors, expected in [({}, 'got none'), ({'a': np.array('x')}, 'a to hold numbers'), ({1: BASE}, 'got 1'),
                            ({'a': np.arange(3, dtype=np.uint32)}, 'a of a type that PyTorch has, got uint32')]:
    with pytest.raises(ValueError, match=expected):
      pth.write(path, tensors)
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(ValueError, match='expected PyTorch to be installed to write .pth.*write .npz instead'):
    pth.write(path, {'a': BASE})
  assert not os.listdir(tmp_path)
