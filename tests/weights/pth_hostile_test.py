"""`.pth` files that harm or are damaged: refused in one line, never run, in little memory."""
import functools
import struct
import tracemalloc
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from mtl_jax.weights import pth
from tests.weights.pth_files import (
  GOLDEN,
  NETWORK,
  SOUND,
  named,
  tensor,
  write_legacy,
  write_zip,
)
from tests.weights.pth_hostile_pickles import MANY, hostile


def refused(path):
  with pytest.raises(ValueError) as e:
    pth.read(path)
  message = str(e.value)
  assert '\n' not in message and message.startswith(f'{path}: expected a ') and len(message) < 700
  return message


@pytest.mark.parametrize('kind', hostile(''))
def test_hostile_pickle_is_refused_and_not_run(tmp_path, kind):
  marker = tmp_path / 'was_run'
  pickled, expected = hostile(marker)[kind]
  pickled = pickled.encode('latin1') if isinstance(pickled, str) else pickled
  size = MANY if kind == 'one_storage_many_times' else 6
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
    (dict(pickled=named(w=tensor(key='../../etc/passwd'))),
     "no bytes for the storage '../../etc/passwd'"),
])
def test_hostile_archive(tmp_path, change, expected):
  assert expected in refused(write_zip(tmp_path, **{'pickled': SOUND, **change}))


@pytest.mark.parametrize('change, expected', [
    (dict(keys=()), 'other storages than'),
    (dict(keys=('0', '1')), 'other storages than'),
    (dict(keys=('0', '0')), 'other storages than'),
    (dict(keys=(0,)), 'other storages than'),
    (dict(counts=(7,)), "another size of the storage '0'"),
    (dict(counts=(-6,)), "another size of the storage '0'"),
    (dict(counts=(2**62,)), "another size of the storage '0'"),
    (dict(content=bytes(23)), 'where its storages end at'),
    (dict(content=bytes(25)), 'where its storages end at'),
    (dict(version=1000), 'another version of the format'),
    (dict(pickled=named(w=tensor(size=2**60))), "another size of the storage '0'"),
    (dict(pickled=named(w=tensor(size=2**60)), counts=(2**60,)), 'where its storages end at'),
])
def test_hostile_legacy_file(tmp_path, change, expected):
  assert expected in refused(write_legacy(tmp_path, **{'pickled': SOUND, **change}))


def test_archive_with_two_entries_of_one_name(tmp_path):
  path = write_zip(tmp_path, SOUND)
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
    archive.writestr('archive/data.pkl', SOUND)
  assert "two entries named 'archive/data.pkl'" in refused(path)


def test_archive_with_entries_that_overlap(tmp_path):
  path = write_zip(tmp_path, SOUND, {str(i): bytes(1000) for i in range(50)})
  content = path.read_bytes()
  entries = content.index(b'PK\1\2')
  first = content.index(b'archive/data/0') - 30
  end = struct.pack('<IH', first + 1500, 0)
  path.write_bytes(content[:first + 1500] + content[entries:-6] + end)
  message = refused(path)
  assert 'more than' in message and 'entries that announce' in message


@pytest.mark.parametrize('content', [
    b'', b'P', b'PK\3\4', b'PK\3\4' + bytes(200), b'\x93NUMPY\1\0', bytes(100),
    b'<html>404</html>' * 10, b'ustar' * 100])
def test_no_file_of_pytorch(tmp_path, content):
  path = tmp_path / 'file.pth'
  path.write_bytes(content)
  refused(path)


@pytest.mark.parametrize('name', ['types_zip', 'types_legacy', 'protocol4_zip', 'protocol4_legacy'])
def test_cut_off_anywhere(tmp_path, name):
  content = golden_bytes(name)
  path = tmp_path / 'file.pth'
  for length in [*range(0, len(content), 23), len(content) - 1]:
    path.write_bytes(content[:length])
    refused(path)


def test_cut_off_before_an_empty_storage(tmp_path):
  """The number of its elements, 0, is missing, and no bytes would follow it."""
  pickled = named(w=tensor(shape=(0,), stride=(1,), size=0))
  whole = write_legacy(tmp_path, pickled, counts=(0,), content=b'')
  assert pth.read(whole)['w'].shape == (0,)
  refused(write_legacy(tmp_path, pickled, counts=(), content=b''))


@pytest.mark.parametrize('name', ['parallel_zip', 'parallel_legacy'])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path, name):
  content = golden_bytes(name)
  path = tmp_path / 'file.pth'
  for place in range(0, len(content), 3):
    flipped = bytes([content[place] ^ 1 << place % 8])
    path.write_bytes(content[:place] + flipped + content[place + 1:])
    try:
      found = pth.read(path)
    except ValueError as e:
      assert '\n' not in str(e)
    else:  # The older format has no checksums: there a number may differ.
      assert name == 'parallel_legacy' or all(
          np.array_equal(found[key], NETWORK[key]) for key in NETWORK)


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
  if pickled == 'zip':
    write_zip(tmp_path, bytes(content))
  else:
    path.write_bytes(content)
  try:
    assert all(isinstance(value, np.ndarray) for value in pth.read(path).values())
  except ValueError as e:
    assert '\n' not in str(e)


@pytest.mark.parametrize('opcodes', [
    b'Nr' + struct.pack('<I', 2**31), b'\x8e' + struct.pack('<Q', 2**36),
    b'\x8b' + struct.pack('<I', 2**31 - 1), b'p4000000000\n'])
def test_a_few_bytes_take_no_memory(tmp_path, opcodes):
  path = write_zip(tmp_path, b'\x80\x02' + opcodes + b'.')
  tracemalloc.start()
  refused(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**20
