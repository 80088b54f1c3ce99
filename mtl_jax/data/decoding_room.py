"""How many pixels are decoded at a time, over all threads: large images wait for each other."""
import contextlib
import threading
from collections.abc import Iterator

from PIL import Image


class Room:
  """Room for some pixels; a single image that needs more waits until it is alone.

  Args:
    pixels: of all images that are being decoded.
  """

  def __init__(self, pixels: int):
    self._pixels, self._taken = pixels, 0
    self._changed = threading.Condition()

  @contextlib.contextmanager
  def taken(self, pixels: int) -> Iterator[None]:
    """Waits until there is room, and takes it for as long as the context lasts.

    Args:
      pixels: of one image.
    """
    with self._changed:
      self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._pixels)
      self._taken += pixels
    try:
      yield
    finally:
      with self._changed:
        self._taken -= pixels
        self._changed.notify_all()


# Larger than what glibc keeps of memory that is given back (32 MB): else each thread would keep
# that of the largest image it has decoded.
if hasattr(Image.core, 'set_block_size'):
  Image.core.set_block_size(1 << 26)

# Pillow takes up to 12 bytes for a pixel on the way: half a gigabyte. Photos of 12 megapixels are
# decoded three at a time then, or with draft decoding as many as there are threads.
SHARED = Room(40_000_000)
