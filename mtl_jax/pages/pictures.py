"""Photos in a page: small, inside the file, and no more of them than the page can hold."""
import base64
import io

import numpy as np
from PIL import Image

from mtl_jax.pages.markup import Html, element, escaped

_SIDE = 72  # pixels of a photo's longer side
_MOST_BYTES = 4_000_000  # of all photos of a page


class Pictures:
  """The photos of one page.

  Attributes:
    left_out: how many found no room.
  """

  def __init__(self, most_bytes: int = _MOST_BYTES):
    self._room, self.left_out = most_bytes, 0

  def show(self, image: np.ndarray, title: str, class_: str | None = None) -> Html:
    """Shows an image; nothing where the page is full.

    Args:
      image: uint8 [H, W, C].
      title: what it is, for those who point at it or cannot see it.
      class_: of the element.
    """
    source = _encoded(image)
    if len(source) > self._room:
      self.left_out += 1
      return escaped('')
    self._room -= len(source)
    return element('img', src=source, alt=title, title=title, class_=class_)


def _encoded(image: np.ndarray) -> str:
  image = np.asarray(image)
  shown = Image.fromarray(image[..., 0] if image.shape[2] < 3 else image[..., :3])
  shown.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
  content = io.BytesIO()
  shown.save(content, 'JPEG', quality=80)
  return 'data:image/jpeg;base64,' + base64.b64encode(content.getvalue()).decode()
