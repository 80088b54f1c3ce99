"""Omniglot's background set: 964 characters of 30 alphabets, 20 drawings each, split by alphabet.

References:
  Lake et al., Human-level concept learning through probabilistic program induction, Science 2015.
"""
import io
import pathlib

import numpy as np
from PIL import Image

from mtl_jax.data import pools
from mtl_jax.untrusted import archives

URL = 'https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip'
SOURCES = ('images_background.zip', 'omniglot_images_background.zip', 'images_background')

SIDE = 105
MEMBER_LIMIT = 2**16  # bytes; a drawing has some 200

# No alphabet is in two splits, so that no stroke habit of a script seen in training helps at test.
ALPHABETS = {
    'train': (  # 654 characters
        'Alphabet_of_the_Magi', 'Anglo-Saxon_Futhorc', 'Arcadian', 'Armenian',
        'Asomtavruli_(Georgian)', 'Balinese', 'Bengali',
        'Blackfoot_(Canadian_Aboriginal_Syllabics)', 'Braille', 'Burmese_(Myanmar)', 'Cyrillic',
        'Early_Aramaic', 'Futurama', 'Grantha', 'Greek', 'Gujarati', 'Japanese_(hiragana)',
        'Korean', 'Latin', 'Malay_(Jawi_-_Arabic)'),
    'val': (  # 126 characters
        'Hebrew', 'Inuktitut_(Canadian_Aboriginal_Syllabics)', 'N_Ko', 'Tifinagh'),
    'test': (  # 184 characters
        'Japanese_(katakana)', 'Mkhedruli_(Georgian)', 'Ojibwe_(Canadian_Aboriginal_Syllabics)',
        'Sanskrit', 'Syriac_(Estrangelo)', 'Tagalog'),
}


def read(source: pathlib.Path) -> dict[str, pools.Classes]:
  """Reads the drawings, ink 255 on 0.

  Args:
    source: the archive, or the extracted folder: ALPHABET/CHARACTER/*.png below
      `images_background/`.

  Returns:
    The classes of each split: `ALPHABET/CHARACTER` and uint8 [n, 105, 105, 1], in the order of file
    names.

  Raises:
    ValueError: a drawing cannot be read, or an alphabet is missing.
  """
  drawings: dict[str, dict[str, list[np.ndarray]]] = {}
  for path, content in archives.read_pngs(source, MEMBER_LIMIT):
    alphabet, character = path.parts[-3:-1] if len(path.parts) >= 3 else ('', '')
    of_alphabet = drawings.setdefault(alphabet, {})
    of_alphabet.setdefault(character, []).append(_ink(f'{source}:{path}', content))
  missing = [a for alphabets in ALPHABETS.values() for a in alphabets if a not in drawings]
  if missing:
    raise ValueError(f"{source}: expected 30 folders of alphabets with drawings, missing "
                     f"{', '.join(missing)}")
  return {split: [(f'{a}/{c}', np.stack(drawings[a][c]))
                  for a in alphabets for c in sorted(drawings[a])]
          for split, alphabets in ALPHABETS.items()}


def _ink(name: str, content: bytes) -> np.ndarray:
  """Decodes a drawing to its negative, uint8 [105, 105, 1]."""
  try:
    with Image.open(io.BytesIO(content), formats=['PNG']) as image:
      if image.size != (SIDE, SIDE):
        raise ValueError(f'{image.size[0]}x{image.size[1]} pixels')
      grey = np.asarray(image.convert('L'))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise ValueError(f'{name}: expected a PNG image of {SIDE}x{SIDE} pixels, found {e}') from e
  return (255 - grey)[..., None]
