"""The built-in data set: letters of the fonts that matplotlib installs, so nothing is downloaded.

A class is a letter. An image of it is a face of a font, a stroke, an affine map, and colours with
textures; light ink on dark ground is as likely as dark on light, so that the letter's shape alone
tells its class.
"""
import math

import numpy as np
from PIL import Image

from mtl_jax import types
from mtl_jax.data import glyph_letters, pools

SIZE = 32
CLASSES = {'train': 64, 'val': 16, 'test': 20}

FINE = 2                   # Masks are drawn at FINE * SIZE and averaged down.
LETTER_SIZE = (0.5, 0.94)  # longer side of the letter as drawn / side of the image
BOLD_FROM = 0.68           # Smaller letters keep thin strokes: others would fill their counters.
MAX_STROKE = 2.0           # pixels added on either side of a stroke, at glyph_letters.FONT_SIZE
MAX_TURN = 20.0            # degrees
MAX_SHEAR = 0.25
MAX_STRETCH = 1.25         # of width against height
MIN_CONTRAST = 0.35        # between the luma of ink and ground, in [0, 1]
COLOUR_TRIALS = 24         # pairs of colours among which one of that contrast is sought
TEXTURE = 0.35             # largest change of luma by a texture / contrast
CLOUD_CELLS = 6            # of the coarse grid that is interpolated, along each side
MAX_WAVES = 5.0            # stripes across and down the image
NOISE = (0.01, 0.06)       # standard deviation per pixel, in [0, 1]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def render(seed: int = 0, images_per_class: int = 60) -> types.Dataset:
  """Draws 64 training, 16 validation and 20 test classes of 32x32 RGB images.

  The 100 letters are always the same; the seed decides their split and every image. Equal seeds
  yield equal bytes with the same versions of matplotlib, Pillow and NumPy.

  Args:
    seed: at least 0.
    images_per_class: at least 1.

  Returns:
    The data set, with NumPy arrays; a class is named as `U+0416 Ж`.

  Raises:
    ValueError: an argument is out of its range.
    FileNotFoundError: matplotlib comes without its fonts.
  """
  if seed < 0 or images_per_class < 1:
    raise ValueError(f'expected seed >= 0 and images_per_class >= 1, got seed={seed}, '
                     f'images_per_class={images_per_class}')
  faces = glyph_letters.load_faces()
  letters = glyph_letters.choose_letters(faces, sum(CLASSES.values()))
  order = np.random.default_rng(seed).permutation(len(letters))
  splits, start = {}, 0
  for split, count in CLASSES.items():
    chosen = [letters[i] for i in sorted(order[start:start + count])]
    splits[split] = [(f'U+{ord(letter):04X} {letter}',
                      _draw_class(letter, faces, images_per_class, seed)) for letter in chosen]
    start += count
  return pools.from_classes('glyphs', splits, flip=False)


def _draw_class(letter: str, faces: tuple[glyph_letters.Face, ...], count: int,
                seed: int) -> np.ndarray:
  """Draws a letter `count` times: uint8 [count, S, S, 3]."""
  rng = np.random.default_rng((seed, ord(letter)))
  having = [face for face in faces if ord(letter) in face.code_points]
  masks = np.stack([_mask(letter, having, rng) for _ in range(count)])
  return _paint(masks.astype(np.float32) / 255, rng)


def _mask(letter: str, faces: list[glyph_letters.Face], rng: np.random.Generator) -> np.ndarray:
  """Draws where the ink is: uint8 [S, S]."""
  size = rng.uniform(*LETTER_SIZE)
  large = size >= BOLD_FROM
  faces = faces if large else [face for face in faces if not face.bold]
  face = faces[rng.integers(len(faces))]
  stroke = rng.uniform(0, MAX_STROKE) if large and not face.bold else 0.0
  ink = glyph_letters.draw_letter(letter, face, stroke)
  side = FINE * SIZE
  turned = ink.transform((side, side), Image.Transform.AFFINE,
                         _affine(ink.size, size * side, side, rng), Image.Resampling.BILINEAR)
  return np.asarray(turned.reduce(FINE))


def _affine(ink: tuple[int, int], size: float, side: int,
            rng: np.random.Generator) -> tuple[float, ...]:
  """Draws PIL's six numbers, from a pixel of the image back to the ink, with the letter inside.

  Forward: p = M (q - ink/2) + centre, M = zoom * rotation * shear * stretch, the zoom such that the
  longer side of the mapped ink is `size`; the centre is drawn from where the letter still fits.
  """
  turn = math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
  shear = rng.uniform(-MAX_SHEAR, MAX_SHEAR)
  stretch = MAX_STRETCH ** rng.uniform(-0.5, 0.5)
  cos, sin = math.cos(turn), math.sin(turn)
  a, b = cos * stretch, (cos * shear - sin) / stretch
  c, d = sin * stretch, (sin * shear + cos) / stretch
  width, height = abs(a) * ink[0] + abs(b) * ink[1], abs(c) * ink[0] + abs(d) * ink[1]
  zoom = size / max(width, height)
  x, y = (side / 2 + rng.uniform(-0.5, 0.5) * (side - zoom * extent)
          for extent in (width, height))
  scale = 1 / (zoom * (a * d - b * c))
  a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
  return a, b, ink[0] / 2 - a * x - b * y, c, d, ink[1] / 2 - c * x - d * y


def _paint(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Colours float32 [n, S, S] masks: uint8 [n, S, S, 3]."""
  count = len(masks)
  ink, ground, contrast = _colours(count, rng)
  mask = masks[..., None]
  ground = ground + _texture(count, contrast, rng)
  ink = ink + _texture(count, contrast, rng)
  image = ground * (1 - mask) + ink * mask
  deviation = rng.uniform(*NOISE, (count, 1, 1, 1)).astype(np.float32)
  image += deviation * rng.standard_normal(image.shape, np.float32)
  return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _colours(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws ink and ground, float32 [n, 1, 1, 3], and their difference of luma [n, 1, 1, 1]."""
  pairs = rng.random((count, COLOUR_TRIALS, 2, 3), np.float32)
  luma = (pairs * LUMA).sum(axis=-1)
  contrast = np.abs(luma[..., 0] - luma[..., 1])
  # The first pair of enough contrast, or else (about once in ten thousand images) the best pair.
  best = np.minimum(contrast, MIN_CONTRAST).argmax(axis=1)
  rows = np.arange(count)
  pair = pairs[rows, best][:, :, None, None, :]
  return pair[:, 0], pair[:, 1], contrast[rows, best][:, None, None, None]


def _texture(count: int, contrast: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws a change of colour over the image, float32 [n, S, S, 3].

  It is clouds, a slope or stripes, of a single tint in each image.
  """
  tint = rng.uniform(-1, 1, (count, 1, 1, 3)).astype(np.float32)
  field = np.where(rng.random((count, 1, 1)) < 0.5, _clouds(count, rng), _waves(count, rng))
  return TEXTURE * contrast * field[..., None] * tint


def _clouds(count: int, rng: np.random.Generator) -> np.ndarray:
  """Interpolates a coarse grid of random values to smooth noise in [-1, 1], float32 [n, S, S]."""
  field = rng.uniform(-1, 1, (count, CLOUD_CELLS + 1, CLOUD_CELLS + 1)).astype(np.float32)
  place = np.arange(SIZE, dtype=np.float32) * (CLOUD_CELLS / SIZE)
  low = place.astype(np.int64)
  share = place - low
  field = field[:, low] * (1 - share)[:, None] + field[:, low + 1] * share[:, None]
  return field[:, :, low] * (1 - share) + field[:, :, low + 1] * share


def _waves(count: int, rng: np.random.Generator) -> np.ndarray:
  """Draws a slope or stripes in any direction, in [-1, 1], [n, S, S]."""
  # Cubed, for as many slopes as stripes.
  across, down = MAX_WAVES * rng.uniform(-1, 1, (2, count, 1, 1)).astype(np.float32) ** 3
  x = np.arange(SIZE, dtype=np.float32) / SIZE
  place = across * x + down * x[:, None] + rng.random((count, 1, 1), np.float32)
  # A triangle wave, as its bytes do not depend on a library's sine.
  return 4 * np.abs(place - np.floor(place) - np.float32(0.5)) - 1
