"""Images that are too large, archives that lie, paths that are no files."""
import json
import os
import pathlib
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from mtl_jax.data import decoding_room, division, image_files, image_formats
from mtl_jax.untrusted import archives, numpy_pickles
from mtl_jax.weights import npy, pth, public_files
from tests import tiny_runs
from tests.data.images_on_disk import save


@pytest.fixture
def fifo(tmp_path):
  os.mkfifo(tmp_path / 'fifo')
  return tmp_path / 'fifo'


READERS = {
    'tar': lambda path: archives.read_members(path, {'x': 1}),
    'zip': lambda path: list(archives.read_pngs(path, 1)),
    'pickle': numpy_pickles.load, 'pth': pth.read, 'npy': npy.read,
    'weights': public_files.read, 'split_file': division.read_file,
    'image': lambda path: image_files.read_image(path, 8)}


@pytest.mark.parametrize('name', READERS)
def test_what_is_no_file_is_not_opened(name, fifo):
  for path in (fifo, pathlib.Path('/dev/zero')):
    with pytest.raises((ValueError, OSError), match='expected a regular file'):
      READERS[name](path)


@pytest.mark.parametrize('content', [b'\x1f\x8b\x08', b'\x1f\x8b\x08\x08abc', b'BZh9', b'',
                                     b'\xfd7zXZ\0', b'PK\x03\x04'])
def test_the_first_bytes_of_an_archive(tmp_path, content):
  path = tmp_path / 'archive'
  path.write_bytes(content)
  for read in (lambda: archives.read_members(path, {'x': 1}),
               lambda: list(archives.read_pngs(path, 1))):
    with pytest.raises(ValueError, match='expected a whole archive') as raised:
      read()
    assert len(str(raised.value).splitlines()) == 1


def test_a_zip_that_lies_or_is_compressed_in_a_rare_way(tmp_path):
  bomb, lzma = tmp_path / 'bomb.zip', tmp_path / 'lzma.zip'
  with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.png', bytes(20_000_000))
  content = bomb.read_bytes()
  bomb.write_bytes(content.replace((20_000_000).to_bytes(4, 'little'),
                                   (100).to_bytes(4, 'little')))
  with zipfile.ZipFile(lzma, 'w', zipfile.ZIP_LZMA) as archive:
    archive.writestr('a.png', b'x')
  for path in (bomb, lzma):
    with pytest.raises(ValueError, match='expected a whole archive'):
      list(archives.read_pngs(path, 1000))


@pytest.mark.parametrize('name', ['', '.', '..', '../x', 'a/../b', '/etc', 'a\0b', 5])
def test_names_of_classes_that_lead_elsewhere(tmp_path, name):
  path = tmp_path / 'split.json'
  path.write_text(json.dumps({'train': ['a', name], 'val': ['b'], 'test': ['c']}))
  with pytest.raises(ValueError, match='split_file .*split.json: expected'):
    division.read_file(path)
  path.write_text('[' * 100_000)
  with pytest.raises(ValueError, match='cannot be read as JSON'):
    division.read_file(path)


def photo(folder, side, **options):
  """A JPEG photo of soft colours."""
  random = np.random.default_rng(0)
  small = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
  path = folder / f'photo{side}.jpg'
  small.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(path, quality=92, **options)
  return path


def test_large_photos_are_decoded_small_and_look_the_same(tmp_path):
  path = photo(tmp_path, 1200)
  with Image.open(path) as image:
    whole = np.asarray(image_files.ImageOps.fit(image, (84, 84), Image.Resampling.BILINEAR))
  read = image_files.read_image(path, 84)
  assert np.abs(read.astype(int) - whole).mean() < 1.5
  # Below twice the size on the way nothing changes.
  path = photo(tmp_path, 300)
  with Image.open(path) as image:
    whole = np.asarray(image_files.ImageOps.fit(image, (84, 84), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(image_files.read_image(path, 84), whole)


def test_bands_have_the_bits_of_the_whole(monkeypatch, tmp_path):
  random = np.random.default_rng(0)
  paths = [save(tmp_path / 'deep.png', random.integers(0, 65536, (50, 40), dtype=np.uint16)),
           save(tmp_path / 'alpha.png', random.integers(0, 256, (50, 40, 4), dtype=np.uint8))]
  whole = [image_files.read_image(path, 30) for path in paths]
  monkeypatch.setattr(image_formats, '_BAND', 7)
  for path, expected in zip(paths, whole, strict=True):
    np.testing.assert_array_equal(image_files.read_image(path, 30), expected)


def test_memory_that_runs_out_does_not_make_an_image_broken(monkeypatch, tmp_path):
  def full(*_):
    raise MemoryError
  path = photo(tmp_path, 30)
  monkeypatch.setattr(image_formats, 'to_plain', full)
  with pytest.raises(MemoryError):
    list(image_files.decode('x', [('a', [path])], lambda p: image_files.read_image(p, 8), True))


def test_threads_share_the_room():
  room, inside, most = decoding_room.Room(10), [], []

  def decode(pixels):
    with room.taken(pixels):
      inside.append(pixels)
      most.append(sum(inside))
      time.sleep(0.005)
      inside.remove(pixels)

  threads = [threading.Thread(target=decode, args=(pixels,)) for pixels in [4, 4, 25, 4, 10] * 3]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert max(value for value in most if value not in (25,)) <= 10 and most.count(25) == 3


PEAK = """
import resource, sys
from mtl_jax.data import image_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = [('a', sys.argv[1:] * 4)]
list(image_files.decode('x', items, lambda path: image_files.read_image(path, 84), False))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('mode', 'most'), [('I;16', 2000), ('RGBA', 2000)])
def test_memory_of_huge_images(tmp_path, mode, most):
  Image.new(mode, (13_000, 13_000)).save(tmp_path / 'huge.png')
  result = tiny_runs.python('-W', 'ignore', '-c', PEAK, str(tmp_path / 'huge.png'))
  assert int(result.stdout) < most, (result.stdout, result.stderr)
