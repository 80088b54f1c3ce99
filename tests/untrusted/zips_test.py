"""Entries of zip archives that are not what they seem."""
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from mtl_jax.untrusted import zips
from mtl_jax.untrusted.unpickler import Refused


def write(path, compression=zipfile.ZIP_STORED, **contents):
  with zipfile.ZipFile(path, 'w', compression) as archive:
    for name, content in contents.items():
      archive.writestr(name, content)
  return path


def replace(path, old, new):
  """Changes four bytes that stand before an entry and in the directory of the archive."""
  content, old, new = path.read_bytes(), struct.pack('<I', old), struct.pack('<I', new)
  assert content.count(old) == 2
  path.write_bytes(content.replace(old, new))


def test_entries_come_in_the_order_of_the_archive(tmp_path):
  with zipfile.ZipFile(write(tmp_path / 'in.zip', b=b'12', a=b'3')) as archive:
    found = zips.entries(archive, most=3, deflated=False)
    assert {name: zips.content(archive, info) for name, info in found.items()} == {
        'b': b'12', 'a': b'3'}
    assert list(found) == ['b', 'a']


def test_entries_larger_than_allowed(tmp_path):
  with zipfile.ZipFile(write(tmp_path / 'in.zip', b=b'12', a=b'3')) as archive:
    with pytest.raises(Refused, match='announce 3 bytes in all, more than 2'):
      zips.entries(archive, most=2, deflated=False)


@pytest.mark.parametrize('compression, deflated, allowed', [
    (zipfile.ZIP_STORED, False, True), (zipfile.ZIP_STORED, True, True),
    (zipfile.ZIP_DEFLATED, True, True), (zipfile.ZIP_DEFLATED, False, False),
    (zipfile.ZIP_LZMA, True, False)])
def test_compressed_entries(tmp_path, compression, deflated, allowed):
  with zipfile.ZipFile(write(tmp_path / 'in.zip', compression, a=bytes(100))) as archive:
    if allowed:
      assert list(zips.entries(archive, most=100, deflated=deflated)) == ['a']
    else:
      with pytest.raises(Refused, match="a compressed entry, 'a'"):
        zips.entries(archive, most=100, deflated=deflated)


def test_two_entries_of_a_name(tmp_path):
  path = write(tmp_path / 'in.zip', a=b'1')
  with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
    archive.writestr('a', b'2')
  with zipfile.ZipFile(path) as archive, pytest.raises(Refused, match="two entries named 'a'"):
    zips.entries(archive, most=2, deflated=False)


def test_entry_that_grows_beyond_what_it_announces(tmp_path):
  content = bytes(50_000_000)
  path = write(tmp_path / 'in.zip', zipfile.ZIP_DEFLATED, a=content)
  replace(path, len(content), 1000)
  replace(path, zlib.crc32(content), zlib.crc32(bytes(1000)))  # The checksum agrees with the lie.
  with zipfile.ZipFile(path) as archive:
    tracemalloc.start()
    assert zips.content(archive, archive.getinfo('a')) == bytes(1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
  assert peak < 2**20


def test_entry_that_holds_less_than_it_announces(tmp_path):
  path = write(tmp_path / 'in.zip', zipfile.ZIP_DEFLATED, a=bytes(3000))
  replace(path, 3000, 5000)
  with zipfile.ZipFile(path) as archive:
    with pytest.raises(Refused, match='3000 bytes .* announces 5000'):
      zips.content(archive, archive.getinfo('a'))
