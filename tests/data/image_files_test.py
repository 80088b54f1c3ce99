"""Image files of every kind and of every kind of damage, and what they decode to."""
import numpy as np
import pytest
from PIL import Image

from mtl_jax.data import image_files
from tests.data.images_on_disk import save


@pytest.mark.parametrize('ending', ['png', 'PNG', 'jpg', 'JPG', 'Jpeg', 'webp', 'bmp'])
def test_endings_in_any_case(tmp_path, ending):
  path = save(tmp_path / f'a.{ending}', np.full((20, 20, 3), (200, 100, 50), np.uint8))
  assert image_files.class_files(tmp_path).files == [path.name]
  np.testing.assert_allclose(image_files.read_image(path, 8),
                             np.broadcast_to((200, 100, 50), (8, 8, 3)), atol=4)


def test_grey_and_palette_become_rgb(tmp_path):
  grey = Image.fromarray(np.full((9, 9), 99, np.uint8))
  grey.save(tmp_path / 'grey.png')
  Image.new('1', (9, 9), 1).save(tmp_path / 'bit.png')
  palette = Image.new('P', (9, 9), 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  palette.save(tmp_path / 'palette.png')
  assert np.all(image_files.read_image(tmp_path / 'grey.png', 4) == 99)
  assert np.all(image_files.read_image(tmp_path / 'bit.png', 4) == 255)
  assert np.all(image_files.read_image(tmp_path / 'palette.png', 4) == (10, 20, 30))


def test_transparency_lies_over_white(tmp_path):
  rgba = np.zeros((6, 6, 4), np.uint8)
  rgba[..., 3] = 51  # 0.2 of black over white
  path = save(tmp_path / 'rgba.png', rgba)
  np.testing.assert_allclose(image_files.read_image(path, 6), np.full((6, 6, 3), 204), atol=1)
  palette = Image.new('P', (6, 6), 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  palette.save(tmp_path / 'palette.png', transparency=1)
  assert np.all(image_files.read_image(tmp_path / 'palette.png', 6) == 255)


def test_16_bits_are_scaled_not_clipped(tmp_path):
  path = save(tmp_path / 'deep.png', np.tile(np.array([[0, 257, 32896, 65535]], np.uint16), (4, 1)))
  np.testing.assert_array_equal(image_files.read_image(path, 4)[0, :, 0], [0, 1, 128, 255])


def test_exif_orientation_is_applied(tmp_path):
  left_bright = np.zeros((16, 16, 3), np.uint8)
  left_bright[:, :8] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # To be shown turned clockwise by 90 degrees: left becomes top.
  path = save(tmp_path / 'turned.png', left_bright, exif=exif)
  image = image_files.read_image(path, 16)
  assert np.all(image[:7] == 255) and np.all(image[9:] == 0)


def test_short_side_is_resized_and_centre_cut_out(tmp_path):
  wide = np.zeros((20, 60, 3), np.uint8)
  wide[:, 20:40] = 255
  image = image_files.read_image(save(tmp_path / 'wide.png', wide), 10)
  # A column at the edge sees a bit beyond it.
  assert np.all(image[:, 1:-1] == 255) and np.all(image > 200)
  tall = image_files.read_image(save(tmp_path / 'tall.png', wide.transpose(1, 0, 2)), 10)
  np.testing.assert_array_equal(tall, image.transpose(1, 0, 2))


def test_zero_sized_image_is_named(tmp_path):
  header = (b'GIF89a' + bytes(4) + b'\x80\x00\x00' + bytes(6)
            + b'\x2c' + bytes(8) + b'\x00\x02\x02\x4c\x01\x00\x3b')  # 0 x 0 pixels
  (tmp_path / 'zero.bmp').write_bytes(header)
  with pytest.raises(ValueError, match=r'zero\.bmp: broken image'):
    image_files.read_image(tmp_path / 'zero.bmp', 8)
