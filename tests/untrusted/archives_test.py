"""Archives placed by hand and downloaded, whole, damaged and hostile."""
import functools
import http.server
import io
import pathlib
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest

from mtl_jax.data import builders, pools
from mtl_jax.untrusted import archives


def write_tar(path, members):
  with tarfile.open(path, 'w:gz') as tar:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


class Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path):
  """Address of a server of `tmp_path/served`."""
  (tmp_path / 'served').mkdir()
  handler = functools.partial(Quiet, directory=tmp_path / 'served')
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()


def test_find_takes_the_first_name(tmp_path):
  (tmp_path / 'b').mkdir()
  assert archives.find(tmp_path, ('a', 'b')) == tmp_path / 'b'
  (tmp_path / 'a').write_text('')
  assert archives.find(tmp_path, ('a', 'b')) == tmp_path / 'a'
  assert archives.find(tmp_path, ('c',)) is None
  assert archives.find(None, ('a',)) is None


def test_data_dir_must_be_a_folder(tmp_path):
  with pytest.raises(ValueError, match=r'data_dir .*nowhere: expected a folder, found nothing'):
    archives.find(tmp_path / 'nowhere', ('a',))
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='expected a folder, found a file'):
    archives.find(tmp_path / 'file', ('a',))


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


def test_unreachable_address_fails_at_once():
  start = time.monotonic()
  with pytest.raises(ConnectionError, match='cannot be reached'):
    archives.check_reachable('http://127.0.0.1:9/a.zip')  # The discard port: nobody listens.
  assert time.monotonic() - start < archives.CONNECT_SECONDS + 1


def test_missing_file_is_not_reachable(server):
  with pytest.raises(ConnectionError, match='HTTP 404'):
    archives.check_reachable(f'{server}/a.zip')


def read_served(source: pathlib.Path):
  pixels = np.frombuffer(source.read_bytes(), np.uint8).reshape(-1, 1, 2, 1)
  return {split: [(f'{split}_0', pixels[i:i + 2])] for i, split in enumerate(pools.SPLITS)}


def test_download_through_tfds(tmp_path, server, monkeypatch):
  class Served(builders.ClassBuilder, skip_registration=True):
    VERSION = builders.tfds.core.Version('1.0.0')
    URL, read = f'{server}/pixels.bin', staticmethod(read_served)
  (tmp_path / 'served' / 'pixels.bin').write_bytes(bytes(range(8)))
  monkeypatch.setitem(builders.BUILDERS, 'served', Served)
  for _ in range(2):  # The second time from what was prepared.
    classes = builders.prepare('served', None, tmp_path / 'data', tmp_path / 'downloads')
    assert [classes[s][0][0] for s in pools.SPLITS] == ['train_0', 'val_0', 'test_0']
    assert classes['val'][0][1].ravel().tolist() == [2, 3, 4, 5]


def test_damaged_prepared_set_is_prepared_again(tmp_path, monkeypatch):
  class Local(builders.ClassBuilder, skip_registration=True):
    VERSION = builders.tfds.core.Version('1.0.0')
    URL, read = '', staticmethod(read_served)
  (tmp_path / 'pixels.bin').write_bytes(bytes(range(8)))
  monkeypatch.setitem(builders.BUILDERS, 'local', Local)
  arguments = ('local', tmp_path / 'pixels.bin', tmp_path / 'data', tmp_path / 'downloads')
  builders.prepare(*arguments)
  record = next((tmp_path / 'data').rglob('*train*array_record*'))
  record.write_bytes(record.read_bytes()[:100])
  with pytest.warns(UserWarning, match='is damaged .*preparing it again'):
    classes = builders.prepare(*arguments)
  assert classes['train'][0][1].ravel().tolist() == [0, 1, 2, 3]
