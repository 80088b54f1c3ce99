"""TIFF, GIF, HEIC and AVIF: their first picture in 8 bits, upright; what is missing is named."""
import importlib.util
import io
import zlib

import numpy as np
import pytest
from PIL import Image, features

from mtl_jax.data import image_files, image_formats
from tests.data.images_on_disk import save

RAMP = np.tile(np.array([[0, 257, 32896, 65535]], np.uint16), (4, 1))
HEIC = b'\0\0\0\x18ftypheic' + bytes(40)  # a head alone
HAS_HEIF = importlib.util.find_spec('pillow_heif') is not None


def grey(path):
  return image_files.read_image(path, 4)[0, :, 0].tolist()


@pytest.mark.parametrize('options', [{}, {'compression': 'tiff_lzw'}])
def test_tiff_of_16_bits_is_scaled(tmp_path, options):
  assert grey(save(tmp_path / 'a.tif', RAMP, **options)) == [0, 1, 128, 255]
  big_endian = Image.frombytes('I;16B', (4, 4), RAMP.astype('>u2').tobytes())
  big_endian.save(tmp_path / 'b.tiff')
  assert grey(tmp_path / 'b.tiff') == [0, 1, 128, 255]


def test_tiff_whose_zero_is_white(tmp_path):
  assert grey(save(tmp_path / 'a.tif', RAMP, tiffinfo={262: 0})) == [255, 254, 127, 0]


def test_tiff_of_three_colours_and_of_8_bits(tmp_path):
  colours = np.full((9, 9, 3), (200, 100, 50), np.uint8)
  for options in ({}, {'compression': 'tiff_lzw'}, {'compression': 'jpeg', 'quality': 100}):
    found = image_files.read_image(save(tmp_path / 'a.tiff', colours, **options), 4)
    np.testing.assert_allclose(found, np.broadcast_to((200, 100, 50), (4, 4, 3)), atol=2)


@pytest.mark.parametrize('array', [np.zeros((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_tiff_of_unknown_range_is_refused(tmp_path, array):
  with pytest.raises(ValueError, match=r'a\.tif: broken image \(.*whose range is not known'):
    image_files.read_image(save(tmp_path / 'a.tif', array), 4)


@pytest.mark.parametrize('ending', ['tif', 'gif', 'webp'])
def test_of_several_pictures_the_first(tmp_path, ending):
  first, *others = (Image.new('L', (8, 8), value) for value in (90, 10, 20))
  options = {'lossless': True} if ending == 'webp' else {}
  first.save(tmp_path / f'a.{ending}', save_all=True, append_images=others, **options)
  assert np.all(image_files.read_image(tmp_path / f'a.{ending}', 4) == 90)


@pytest.mark.parametrize('ending', ['tif', 'jpg', 'webp', 'png'])
@pytest.mark.parametrize('turned', [3, 6, 8])
def test_every_kind_is_upright(tmp_path, ending, turned):
  image = np.zeros((16, 16, 3), np.uint8)
  image[:, :8] = 255
  exif = Image.Exif()
  exif[0x0112] = turned
  path = save(tmp_path / f'a.{ending}', image, exif=exif)
  # Where the left of the file is shown: right, top, bottom.
  shown = {3: np.s_[:, 9:], 6: np.s_[:7], 8: np.s_[9:]}[turned]
  found = image_files.read_image(path, 16)
  assert found[shown].mean() > 245 and abs(found.mean() - 127) < 12


def test_16_bits_are_upright_too(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  for ending in ('png', 'tif'):
    path = save(tmp_path / f'a.{ending}', RAMP, exif=exif)
    assert image_files.read_image(path, 4)[:, 0, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.skipif(not features.check('avif'), reason='Pillow without AVIF')
def test_avif(tmp_path):
  path = save(tmp_path / 'a.avif', np.full((32, 32, 3), (200, 100, 50), np.uint8), quality=95)
  np.testing.assert_allclose(image_files.read_image(path, 8),
                             np.broadcast_to((200, 100, 50), (8, 8, 3)), atol=4)


def test_avif_without_its_codec_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setattr(image_formats.features, 'check', lambda _: False)
  (tmp_path / 'a.jpg').write_bytes(b'\0\0\0\x20ftypavif' + bytes(40))
  with pytest.raises(image_formats.MissingReader, match=r"install --upgrade 'pillow>=11\.3'"):
    image_files.read_image(tmp_path / 'a.jpg', 8)


@pytest.mark.skipif(not HAS_HEIF, reason='needs pillow-heif')
def test_heic(tmp_path):
  image_formats._register_heif()
  left_bright = np.zeros((64, 64, 3), np.uint8)
  left_bright[:, :32] = 255
  exif = Image.Exif()
  exif[0x0112] = 6
  found = image_files.read_image(save(tmp_path / 'a.heic', left_bright,
                                     exif=exif.tobytes()), 64)
  assert found[:28].mean() > 240 and found[36:].mean() < 15
  with pytest.raises(ValueError, match=r'b\.heic: broken image'):
    (tmp_path / 'b.heic').write_bytes(HEIC)
    image_files.read_image(tmp_path / 'b.heic', 8)


def test_heic_without_its_package_says_what_to_install_and_is_never_left_out(tmp_path, monkeypatch):
  monkeypatch.setattr(image_formats, '_register_heif', lambda: False)
  (tmp_path / 'a.HEIC').write_bytes(HEIC)
  assert list(image_files.scan(tmp_path)) == ['a.HEIC']
  classes = [('a', [tmp_path / 'a.HEIC'])]
  found = image_files.decode('x', classes, lambda path: image_files.read_image(path, 8), True)
  with pytest.raises(image_formats.MissingReader, match=r"pip install 'mtl_jax\[photos\]'"):
    list(found)
  with pytest.raises(image_formats.MissingReader):
    image_files.decode_image(io.BytesIO(HEIC), 'in memory', 8)


def test_an_image_of_a_billion_pixels_is_refused_before_it_is_decoded(tmp_path):
  content = save(tmp_path / 'bomb.png', np.zeros((4, 4, 3), np.uint8)).read_bytes()
  header = b'IHDR' + (40000).to_bytes(4, 'big') * 2 + content[24:29]
  (tmp_path / 'bomb.png').write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, 'big')
                                      + content[33:])
  with pytest.raises(ValueError, match=r'bomb\.png: broken image \(.*exceeds limit'):
    image_files.read_image(tmp_path / 'bomb.png', 8)
