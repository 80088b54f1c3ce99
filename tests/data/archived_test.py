"""Archives placed by hand and downloaded, prepared by TFDS with and without ArrayRecord."""
import functools
import http.server
import pathlib
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from mtl_jax.data import archived, pools


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


@pytest.fixture(params=['array_record', 'parquet'])
def file_format(request, monkeypatch):
  """What TFDS keeps examples in: Parquet where the package array_record is missing."""
  if request.param == 'parquet':
    hide_array_record(monkeypatch)
  return request.param


def hide_array_record(monkeypatch):
  for name in [name for name in sys.modules if name.split('.')[0] == 'array_record']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'array_record', None)


def read_served(source: pathlib.Path):
  pixels = np.frombuffer(source.read_bytes(), np.uint8).reshape(-1, 1, 2, 1)
  return {split: [(f'{split}_0', pixels[i:i + 2])] for i, split in enumerate(pools.SPLITS)}


def add_recipe(monkeypatch, read, url=''):
  """Makes `toy` a set of the archive `pixels.bin`."""
  recipe = archived.Recipe(read, url, ('pixels.bin',), version=1, image_size=2, flip=True,
                           rotate_train=False)
  monkeypatch.setitem(archived.RECIPES, 'toy', recipe)


def test_find_takes_the_first_name(tmp_path):
  (tmp_path / 'b').mkdir()
  assert archived.find(tmp_path, ('a', 'b')) == tmp_path / 'b'
  (tmp_path / 'a').write_text('')
  assert archived.find(tmp_path, ('a', 'b')) == tmp_path / 'a'
  assert archived.find(tmp_path, ('c',)) is None
  assert archived.find(None, ('a',)) is None


def test_data_dir_must_be_a_folder(tmp_path):
  with pytest.raises(ValueError, match=r'data_dir .*nowhere: expected a folder, found nothing'):
    archived.find(tmp_path / 'nowhere', ('a',))
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='expected a folder, found a file'):
    archived.find(tmp_path / 'file', ('a',))


def test_unreachable_address_fails_at_once():
  start = time.monotonic()
  with pytest.raises(ConnectionError, match='cannot be reached'):
    archived.check_reachable('http://127.0.0.1:9/a.zip')  # The discard port: nobody listens.
  assert time.monotonic() - start < archived.CONNECT_SECONDS + 1


def test_missing_file_is_not_reachable(server):
  with pytest.raises(ConnectionError, match='HTTP 404'):
    archived.check_reachable(f'{server}/a.zip')


def test_download_through_tfds(tmp_path, server, monkeypatch, file_format):
  (tmp_path / 'served' / 'pixels.bin').write_bytes(bytes(range(8)))
  add_recipe(monkeypatch, read_served, f'{server}/pixels.bin')
  for _ in range(2):  # The second time from what was prepared.
    classes = archived.prepare('toy', None, tmp_path / 'data', tmp_path / 'downloads')
    assert [classes[s][0][0] for s in pools.SPLITS] == ['train_0', 'val_0', 'test_0']
    assert classes['val'][0][1].ravel().tolist() == [2, 3, 4, 5]


def test_damaged_prepared_set_is_prepared_again(tmp_path, monkeypatch, file_format):
  (tmp_path / 'pixels.bin').write_bytes(bytes(range(8)))
  add_recipe(monkeypatch, read_served)
  arguments = ('toy', tmp_path / 'pixels.bin', tmp_path / 'data', tmp_path / 'downloads')
  archived.prepare(*arguments)
  record = next((tmp_path / 'data').rglob(f'*train*{file_format}*'))
  record.write_bytes(record.read_bytes()[:100])
  with pytest.warns(UserWarning, match='is damaged .*preparing it again'):
    classes = archived.prepare(*arguments)
  assert classes['train'][0][1].ravel().tolist() == [0, 1, 2, 3]


def read_many(source):
  """As many classes as Omniglot has, of different sizes."""
  def classes(count):
    return [(f'class{c}', np.full((1 + c % 3, 2, 2, 1), c % 256, np.uint8)) for c in range(count)]
  return {'train': classes(654), 'val': classes(126), 'test': classes(184)}


def test_no_class_is_lost_and_their_order_stays(tmp_path, monkeypatch, file_format):
  """TFDS 4.9.10 itself loses examples of Parquet files of more than a hundred."""
  (tmp_path / 'pixels.bin').write_bytes(b'')
  add_recipe(monkeypatch, read_many)
  arguments = ('toy', tmp_path / 'pixels.bin', tmp_path / 'data', tmp_path / 'downloads')
  found, expected = archived.prepare(*arguments), read_many(None)
  for split in pools.SPLITS:
    assert [name for name, _ in found[split]] == [name for name, _ in expected[split]]
    for (_, images), (_, wanted) in zip(found[split], expected[split], strict=True):
      np.testing.assert_array_equal(images, wanted)
      assert images.dtype == np.uint8


def test_lost_classes_are_noticed(tmp_path, monkeypatch, file_format):
  (tmp_path / 'pixels.bin').write_bytes(b'')
  add_recipe(monkeypatch, read_many)
  builder = archived._make_builder('toy', tmp_path / 'pixels.bin', tmp_path / 'data')
  builder.download_and_prepare(download_dir=tmp_path / 'downloads')
  monkeypatch.setattr(builder, 'as_data_source', lambda split: [])
  with pytest.raises(ValueError, match='expected 654 classes in train, found 0'):
    archived._read_split(builder, 'train')


def test_set_of_another_format_is_left_alone(tmp_path, monkeypatch):
  """As after array_record is installed, or a cache is moved to a system that lacks it."""
  (tmp_path / 'pixels.bin').write_bytes(bytes(range(8)))
  add_recipe(monkeypatch, read_served)
  arguments = ('toy', tmp_path / 'pixels.bin', tmp_path / 'data', tmp_path / 'downloads')
  for _ in range(2):
    archived.prepare(*arguments)
    with monkeypatch.context() as patch, warnings.catch_warnings():
      warnings.simplefilter('error')
      hide_array_record(patch)
      classes = archived.prepare(*arguments)
    assert classes['train'][0][1].ravel().tolist() == [0, 1, 2, 3]
  assert len(list((tmp_path / 'data').rglob('*train*'))) == 2


def test_data_sets_are_equal_without_array_record(tmp_path, monkeypatch):
  (tmp_path / 'pixels.bin').write_bytes(bytes(range(8)))
  add_recipe(monkeypatch, read_served)
  found = archived.load('toy', tmp_path, tmp_path / 'a')
  hide_array_record(monkeypatch)
  without = archived.load('toy', tmp_path, tmp_path / 'b')
  for split in pools.SPLITS:
    np.testing.assert_array_equal(getattr(found, split).images, getattr(without, split).images)
  assert found.class_names == without.class_names
