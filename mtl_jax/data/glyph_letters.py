"""The letters of the built-in data set: a hundred of distinct shape.

Letters of several alphabets come from the fonts that matplotlib installs. Many of them share a
shape (Latin A, Greek Α, Cyrillic А; o, O and О; b, d, p and q), so shapes are measured, and a
hundred are taken that no rotation, mirror or font makes look alike.
"""
import os
import unicodedata
from typing import NamedTuple

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

ALPHABETS = (  # Ranges of Latin, Greek and Coptic, Cyrillic, Armenian, Georgian.
    ('A', 'z'), ('ß', 'þ'), ('Ŋ', 'œ'), ('Α', 'ϯ'), ('Ђ', 'ѿ'), ('Ա', 'ֆ'), ('ა', 'ჰ'))
FONT_SIZE = 64
MIN_FACES = 4     # A letter of fewer faces would vary too little within its class.
MIN_WIDTH = 0.36  # of the height; a narrower letter is little more than a bar.
LETTER_SIDE = 18  # Shapes are compared at this many pixels along their longer side.
INK = 96          # Grey value, of 255, from which a pixel counts as ink.
REACH = 6         # Dilations after which a pixel counts as far away, however far it is.
SHAPE_FACES = (  # Shapes are compared in these faces.
    'DejaVuSans.ttf', 'DejaVuSerif.ttf', 'DejaVuSerif-Italic.ttf', 'STIXGeneral.ttf')


class Face(NamedTuple):
  """A font file, opened at `FONT_SIZE` pixels."""
  name: str
  font: ImageFont.FreeTypeFont
  code_points: frozenset[int]
  bold: bool


def load_faces() -> tuple[Face, ...]:
  """Opens the faces of DejaVu Sans, Sans Mono and Serif and of STIX General, sorted by name.

  Raises:
    FileNotFoundError: matplotlib comes without these fonts.
  """
  folder = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf')
  families = ('DejaVuSans', 'DejaVuSerif', 'STIXGeneral')
  names = os.listdir(folder) if os.path.isdir(folder) else []
  names = sorted(n for n in names if n.startswith(families) and n.endswith('.ttf')
                 and 'Display' not in n)
  missing = sorted(set(SHAPE_FACES) - set(names))
  if missing:
    raise FileNotFoundError(
        f"expected the fonts {', '.join(missing)} of matplotlib in {folder}, found none of that "
        'name; reinstall matplotlib from its own wheel (some distributions strip its fonts)')
  return tuple(_open(os.path.join(folder, name)) for name in names)


def _open(path: str) -> Face:
  # The basic layout draws letters as they are, whether or not Pillow was built with text shaping.
  font = ImageFont.truetype(path, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
  with TTFont(path, lazy=True) as file:
    code_points = frozenset(file.getBestCmap() or ())
  name = os.path.basename(path)
  return Face(name, font, code_points, bold='Bol' in name)  # STIX has it as "Bol".


def choose_letters(faces: tuple[Face, ...], count: int) -> tuple[str, ...]:
  """Chooses letters of distinct shape.

  The first is the letter farthest from all others on average. Each further one is the letter that
  is farthest from those taken: argmax_letter min_taken distance(letter, taken).

  Args:
    faces: all faces of `load_faces`.
    count: how many letters to choose.

  Returns:
    The letters in order of code point.

  Raises:
    ValueError: the fonts hold fewer letters than `count`.
  """
  letters = candidates(faces)
  if count > len(letters):
    raise ValueError(f'expected at most {len(letters)} letters (all that the fonts hold), got '
                     f'count={count}')
  apart = distance(letters, faces)
  np.fill_diagonal(apart, -1)  # No letter is taken twice.
  taken = [int(apart.astype(np.float64).sum(axis=1).argmax())]
  nearest = apart[taken[0]]
  while len(taken) < count:
    taken.append(int(nearest.argmax()))
    nearest = np.minimum(nearest, apart[taken[-1]])
  return tuple(sorted(letters[i] for i in taken))


def candidates(faces: tuple[Face, ...]) -> tuple[str, ...]:
  """Lists the letters of `ALPHABETS` that are wide enough, in enough faces; none with an accent.

  Args:
    faces: all faces of `load_faces`.

  Returns:
    The letters in the order of `ALPHABETS`.
  """
  spans = [range(ord(first), ord(last) + 1) for first, last in ALPHABETS]
  letters = [chr(code) for span in spans for code in span]
  return tuple(
      letter for letter in letters
      # Letters proper, and no composed forms.
      if unicodedata.category(letter) in ('Lu', 'Ll', 'Lo')
      and not unicodedata.decomposition(letter)
      and sum(ord(letter) in face.code_points for face in faces) >= MIN_FACES
      and min((_width(letter, face) for face in _shape_faces(letter, faces)), default=0)
      >= MIN_WIDTH)


def _shape_faces(letter: str, faces: tuple[Face, ...]) -> list[Face]:
  """Lists the faces in which the shape of a letter is measured."""
  return [face for face in faces if face.name in SHAPE_FACES and ord(letter) in face.code_points]


def _width(letter: str, face: Face) -> float:
  """Computes the width of the ink / its height."""
  width, height = draw_letter(letter, face).size
  return width / height


def draw_letter(letter: str, face: Face, stroke: float = 0.0) -> Image.Image:
  """Draws white ink on black, cropped to the ink.

  Args:
    letter: a character that the face has.
    face: from `load_faces`.
    stroke: pixels added on either side of each stroke, at `FONT_SIZE`.

  Returns:
    A greyscale image of the size of the ink.
  """
  left, top, right, bottom = face.font.getbbox(letter, stroke_width=stroke)
  size = int(np.ceil(right - left)) + 2, int(np.ceil(bottom - top)) + 2
  image = Image.new('L', size)
  ImageDraw.Draw(image).text((1 - left, 1 - top), letter, fill=255, font=face.font,
                             stroke_width=stroke)
  return image.crop(image.getbbox())


def distance(letters: tuple[str, ...], faces: tuple[Face, ...]) -> np.ndarray:
  """Measures how far apart the shapes of letters stay, in pixels of a letter `LETTER_SIDE` long.

  distance(a, b) = min over the faces of a, the faces of b, the 4 rotations and the mirror of
  max(mean over ink p of x of d(p, y), mean over ink q of y of d(q, x)), where x and y are the inks
  of a and b scaled to one size, and d(p, y) is how many one-pixel dilations of y it takes to reach
  p (`REACH` at most).

  Args:
    letters: n letters.
    faces: faces of `load_faces`; only `SHAPE_FACES` among them are compared.

  Returns:
    float32 [n, n], symmetric, in [0, REACH]; the diagonal is 0.
  """
  drawn = [(i, face) for i, letter in enumerate(letters) for face in _shape_faces(letter, faces)]
  ink = np.stack([_shape(letters[i], face) for i, face in drawn])
  far = _steps_to(ink)
  area = ink.sum(axis=(1, 2))
  apart = np.full((len(ink), len(ink)), REACH, np.float32)
  for flip in (1, -1):
    for turns in range(4):
      ink_moved, far_moved = (np.rot90(side[:, :, ::flip], turns, axes=(1, 2))
                              for side in (ink, far))
      forth, back = _sums(ink, far_moved) / area[:, None], _sums(far, ink_moved) / area
      np.minimum(apart, np.maximum(forth, back), out=apart)
  starts = np.searchsorted([i for i, _ in drawn], np.arange(len(letters)))
  apart = np.minimum.reduceat(np.minimum.reduceat(apart, starts, axis=0), starts, axis=1)
  np.fill_diagonal(apart, 0)
  return apart


def _shape(letter: str, face: Face) -> np.ndarray:
  """Scales the ink to `LETTER_SIDE`, amid a margin: 0 or 1, float32 [S, S]."""
  ink = draw_letter(letter, face)
  zoom = LETTER_SIDE / max(ink.size)
  width, height = (max(1, round(side * zoom)) for side in ink.size)
  side = LETTER_SIDE + 2
  image = Image.new('L', (side, side))
  corner = (side - width) // 2, (side - height) // 2
  image.paste(ink.resize((width, height), Image.Resampling.BOX), corner)
  return (np.asarray(image) >= INK).astype(np.float32)


def _steps_to(ink: np.ndarray) -> np.ndarray:
  """Counts the one-pixel dilations that it takes the ink to reach each pixel: [n, S, S].

  A pixel that is not reached by `REACH` of them counts as `REACH`.
  """
  far = np.zeros_like(ink)
  for _ in range(REACH):
    far += 1 - ink
    wide = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    rows = np.maximum(np.maximum(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:])
    ink = np.maximum(np.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
  return far


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Computes <x_i, y_j> for all i, j.

  The numbers are whole, so sums are exact and every machine takes the same letters.
  """
  return x.reshape(len(x), -1) @ y.reshape(len(y), -1).T
