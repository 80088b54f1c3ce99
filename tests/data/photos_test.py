"""Photos in folders without classes: found whatever their kind, and what was left out is said."""
import numpy as np
import pytest

from mtl_jax.data import photos
from tests.data.images_on_disk import save


def test_every_kind_below_a_folder_is_found_in_order_and_others_are_counted(tmp_path, caplog):
  caplog.set_level('INFO', 'absl')
  for name in ('b.TIF', 'a/x.png', 'a/c/y.gif', 'z.jpg'):
    save(tmp_path / name, np.zeros((9, 9, 3), np.uint8))
  for name in ('a/notes.txt', 'film.mov', '.hidden.png'):
    (tmp_path / name).write_bytes(b'no image')
  assert photos.find([tmp_path]) == sorted(
      str(tmp_path / name) for name in ('b.TIF', 'a/x.png', 'a/c/y.gif', 'z.jpg'))
  assert [record.getMessage() for record in caplog.records] == ['left out: 1 .mov, 1 .txt']
  assert photos.find([tmp_path / 'a' / 'notes.txt']) == [str(tmp_path / 'a' / 'notes.txt')]


def test_none_is_refused(tmp_path):
  (tmp_path / 'notes.txt').write_text('no image')
  with pytest.raises(ValueError, match=r'expected images \(\.png .*\.heic .*\), found none'):
    photos.find([tmp_path])


def test_a_missing_reader_is_said_in_batches_too(tmp_path, monkeypatch):
  monkeypatch.setattr(photos.image_files.image_formats, '_register_heif', lambda: False)
  (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(40))
  with pytest.raises(ValueError, match=r"pip install 'mtl_jax\[photos\]'"):
    list(photos.decode([str(tmp_path / 'a.heic')], 8, 4))
