"""Kinds of image files: which are read, by whom, and how their pixels become RGB of 8 bits."""
import functools
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, features

from mtl_jax.untrusted import regular

ENDINGS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.heic', '.heif',
           '.avif')
# By content, as endings are often wrong.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF')

_HEAD = 12  # bytes: in an ISO media file, length and 'ftyp' and then the brand
_HEIC = frozenset({b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'})
_AVIF = frozenset({b'avif', b'avis'})
_PHOTOMETRIC = 262  # tag of TIFF files: what their zero means
_WHITE_IS_ZERO = 0
_MOST_16_BITS = 65535
_BAND = 256  # rows that are converted at a time
_HALVED = 90_000_000  # pixels with alpha beyond which an image is laid over white at half its size


class MissingReader(ValueError):
  """A sound image that this installation cannot read: never taken for a broken one."""


def is_image(name: str) -> bool:
  """Whether a file is taken for an image, by the ending of its name; hidden ones are not.

  Args:
    name: of the file, without its folder.
  """
  return name.lower().endswith(ENDINGS) and not name.startswith('.')


def open_image(file: str | os.PathLike | BinaryIO, name: str) -> Image.Image:
  """Opens an image, of several the first; its pixels are not read yet.

  Args:
    file: path or open file.
    name: what to call it where it cannot be read.

  Raises:
    MissingReader: it takes a package that is not installed.
    Exception: it is damaged, or no image.
  """
  return Image.open(file, formats=(*FORMATS, *_further_formats(_head(file), name)))


def _head(file: str | os.PathLike | BinaryIO) -> bytes:
  if isinstance(file, str | os.PathLike):
    regular.check(file)
    with open(file, 'rb') as opened:
      return opened.read(_HEAD)
  head = file.read(_HEAD)
  file.seek(0)
  return head


def _further_formats(head: bytes, name: str) -> tuple[str, ...]:
  """Returns the format of a file that not every installation reads."""
  brand = head[8:] if head[4:8] == b'ftyp' else b''
  if brand in _HEIC:
    if not _register_heif():
      raise MissingReader(f"{name}: HEIC images need pillow-heif: pip install 'mtl_jax[photos]'")
    return ('HEIF',)
  if brand in _AVIF:
    if not features.check('avif'):
      raise MissingReader(f'{name}: AVIF images need Pillow 11.3 or later with its AVIF codec: '
                          "pip install --upgrade 'pillow>=11.3'")
    return ('AVIF',)
  return ()


@functools.cache
def _register_heif() -> bool:
  """Adds the format HEIF to Pillow; False where pillow-heif is missing."""
  try:
    importlib.import_module('pillow_heif').register_heif_opener()
  except ImportError:
    return False
  return True


def to_plain(image: Image.Image) -> Image.Image:
  """Converts any image to RGB or grey, upright: 16 bits are scaled to 8, alpha is laid over white.

  One of more than 90 million pixels with alpha comes back at half its size.

  Args:
    image: as it was opened, loaded; turned in place.

  Raises:
    ValueError: pixels of floating point or of more than 16 bits, which have no known white.
  """
  tags = getattr(image, 'tag_v2', None)  # of a TIFF file
  if image.mode == 'F':
    raise ValueError('floating-point pixels, whose range is not known; save it with 8 or 16 bits')
  ImageOps.exif_transpose(image, in_place=True)
  if image.mode.startswith('I'):  # 16-bit grey; `convert` would clip at 255.
    image = Image.fromarray(_from_16_bits(image, tags))
  if 'A' in image.mode or 'transparency' in image.info:
    return _over_white(image)
  return image if image.mode in ('L', 'RGB') else image.convert('RGB')


def to_rgb(image: Image.Image) -> Image.Image:
  """Converts any image to RGB, as `to_plain` does.

  Args:
    image: as in `to_plain`.

  Raises:
    ValueError: as `to_plain`.
  """
  return to_plain(image).convert('RGB')


def _over_white(image: Image.Image) -> Image.Image:
  """Lays an image over white, by bands: a large one would take several times its memory."""
  by = 2 if image.width * image.height > _HALVED else 1
  laid = Image.new('RGB', (-(-image.width // by), -(-image.height // by)))
  for top, band in _bands(image):
    band = band.convert('RGBA')
    white = Image.new('RGBA', band.size, 'white')
    laid.paste(Image.alpha_composite(white, band).convert('RGB').reduce(by), (0, top // by))
  return laid


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
  """Yields (first row, band of some rows)."""
  for top in range(0, image.height, _BAND):
    yield top, image.crop((0, top, image.width, min(top + _BAND, image.height)))


def _from_16_bits(image: Image.Image, tags: Mapping[int, Any] | None) -> np.ndarray:
  """Scales grey values of 16 bits to 8: uint8 [H, W]."""
  scaled = np.empty((image.height, image.width), np.uint8)
  for top, band in _bands(image):  # as floats take eight bytes each
    values = np.asarray(band)
    if tags is not None and (values.max() > _MOST_16_BITS or values.min() < 0):
      raise ValueError('pixels of more than 16 bits, whose range is not known; '
                       'save it with 8 or 16')
    scaled[top:top + _BAND] = np.rint(np.clip(values.astype(np.float64), 0, _MOST_16_BITS) / 257)
  # Of grey values of 8 bits Pillow sees to this itself.
  white_is_zero = tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
  return 255 - scaled if white_is_zero else scaled
