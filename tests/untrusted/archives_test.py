"""Archives of data sets, whole, damaged and hostile."""
import io
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from mtl_jax.untrusted import archives


def write_tar(path, members):
  with tarfile.open(path, 'w:gz') as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


def test_member_that_climbs_out_writes_nothing(tmp_path):
  path = write_tar(tmp_path / 'in.tar.gz', {'../../a.bin': b'12', '/b.bin': b'3'})
  before = sorted(tmp_path.rglob('*'))
  assert archives.read_members(path, {'a.bin': 5, 'b.bin': 5}) == {'a.bin': b'12', 'b.bin': b'3'}
  assert sorted(tmp_path.rglob('*')) == before


def test_link_is_not_followed(tmp_path):
  with tarfile.open(tmp_path / 'in.tar', 'w') as tar:
    info = tarfile.TarInfo('a.bin')
    info.type, info.linkname = tarfile.SYMTYPE, '/etc/hostname'
    tar.addfile(info)
  with pytest.raises(ValueError, match='not found: a.bin'):
    archives.read_members(tmp_path / 'in.tar', {'a.bin': 1000})


def test_too_large_member_is_refused(tmp_path):
  path = write_tar(tmp_path / 'in.tar.gz', {'a.bin': bytes(100)})
  with pytest.raises(ValueError, match='a.bin: expected at most 99 bytes, found 100'):
    archives.read_members(path, {'a.bin': 99})
  with zipfile.ZipFile(tmp_path / 'in.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a/b.png', bytes(10_000))
  with pytest.raises(ValueError, match=r'a/b.png: expected at most 9999 bytes, found 10000'):
    list(archives.read_pngs(tmp_path / 'in.zip', 9999))


def test_file_that_is_no_archive(tmp_path):
  path = tmp_path / 'page.tar.gz'
  path.write_text('<html>not found</html>')
  with pytest.raises(ValueError, match='expected a whole archive, found 22 bytes'):
    archives.read_members(path, {'a': 1})
  with pytest.raises(ValueError, match='expected a whole archive, found 22 bytes'):
    list(archives.read_pngs(path, 1))


def test_flipped_bytes_in_zip_are_noticed(tmp_path):
  path = tmp_path / 'in.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', b'0123456789')
  path.write_bytes(path.read_bytes().replace(b'456', b'654'))
  with pytest.raises(ValueError, match='Bad CRC-32'):
    list(archives.read_pngs(path, 100))


def test_zip_member_that_grows_beyond_what_it_announces(tmp_path):
  path, content = tmp_path / 'in.zip', bytes(50_000_000)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.png', content)
  size = struct.pack('<I', len(content))
  assert path.read_bytes().count(size) == 2  # before the member, and in the directory
  path.write_bytes(path.read_bytes().replace(size, struct.pack('<I', 1000)))
  tracemalloc.start()
  with pytest.raises(ValueError, match=f'{path}: expected a whole archive, .* cut off or damaged'):
    list(archives.read_pngs(path, 1000))
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**20
