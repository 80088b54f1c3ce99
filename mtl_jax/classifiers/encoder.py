"""A frozen network as a function from photos to features, compiled for few numbers of photos."""
import concurrent.futures
import functools
import os
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from PIL import Image, ImageOps

from mtl_jax import stages
from mtl_jax.data import image_files, image_formats
from mtl_jax.phases import encoding
from mtl_jax.runs import finished
from mtl_jax.runs.finished import FinishedRun

Photo = str | os.PathLike | np.ndarray
_PHOTOS_AT_ONCE = 256  # decoded, in memory


class Encoder:
  """Features of photos by a finished run, Φ_S applied.

  Batches are filled up to one of three sizes, so that no number of photos compiles a program of its
  own.

  Args:
    run: as `weights.known.load` or `runs.load` returns it.
  """

  def __init__(self, run: FinishedRun):
    self.run = run
    self.size = run.backbone.image_shape[0]
    self.channels = run.backbone.image_shape[2]
    per_pass = encoding.images_per_pass(self.size, self.size)
    self._sizes = sorted({1, min(8, per_pass), per_pass})
    self._network = finished.network_of(run)
    self._encode = jax.jit(functools.partial(
        encoding.encode_images, normalization=run.normalization, backbone=run.backbone))

  def __repr__(self) -> str:
    return f'Encoder({self.run.settings["backbone"]["name"]}, {self.size} pixels)'

  def encode(self, photos: Sequence[Photo]) -> tuple[np.ndarray, list[int], list[str]]:
    """Decodes photos and computes their features, some hundred at a time, however many there are.

    Args:
      photos: as `read` takes them.

    Returns:
      (float32 [m, d], the places of those m among the photos, a line for each photo that could not
      be read).

    Raises:
      TypeError: an array is no image.
    """
    features, places, problems = [self._none()], [], []
    with stages.stage(f'decoding and encoding {len(photos)} photos'):
      for start in range(0, len(photos), _PHOTOS_AT_ONCE):
        images, found, broken = self.read(photos[start:start + _PHOTOS_AT_ONCE])
        features.append(self.features(images))
        places += [start + place for place in found]
        problems += broken
    return np.concatenate(features), places, problems

  def features(self, images: np.ndarray) -> np.ndarray:
    """Computes the features of images.

    Args:
      images: uint8 [n, size, size, channels].

    Returns:
      float32 [n, d].
    """
    if not len(images):
      return self._none()
    return np.concatenate(list(self._batches(images)))

  def _none(self) -> np.ndarray:
    return np.zeros((0, self.run.backbone.feature_dim), np.float32)

  def _batches(self, images: np.ndarray) -> Iterator[np.ndarray]:
    most = self._sizes[-1]
    for start in range(0, len(images), most):
      batch = images[start:start + most]
      size = next(size for size in self._sizes if size >= len(batch))
      filled = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
      yield np.asarray(self._encode(self._network, filled))[:len(batch)]

  def read(self, photos: Sequence[Photo]) -> tuple[np.ndarray, list[int], list[str]]:
    """Decodes photos to the network's size: the short side is resized, and the centre cut out.

    Args:
      photos: paths, or uint8 arrays [H, W, 3], [H, W, 4], [H, W, 1] or [H, W].

    Returns:
      (uint8 [m, size, size, channels], the places of those m among the photos, a line for each
      photo that could not be read).

    Raises:
      TypeError: an array is no image; files that are broken are left out.
    """
    images, places, problems = [], [], []
    # Threads suffice: Pillow decodes without holding Python's lock.
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for place, result in enumerate(pool.map(self._try, photos)):
        if isinstance(result, ValueError):
          problems.append(str(result))
        else:
          images.append(result)
          places.append(place)
    shape = (0, self.size, self.size, self.channels)
    return np.stack(images) if images else np.zeros(shape, np.uint8), places, problems

  def _try(self, photo: Photo) -> np.ndarray | ValueError:
    try:
      return self._read(photo)
    except ValueError as error:
      return error

  def _read(self, photo: Photo) -> np.ndarray:
    if isinstance(photo, np.ndarray):
      fitted = ImageOps.fit(_as_image(photo), (self.size, self.size), Image.Resampling.BILINEAR)
      image = np.asarray(fitted)
    else:
      image = image_files.read_image(photo, self.size)
    return image if self.channels == 3 else image.mean(axis=2, keepdims=True).astype(np.uint8)


def _as_image(array: np.ndarray) -> Image.Image:
  if array.dtype != np.uint8:
    kind = 'NaN' if array.dtype.kind == 'f' and np.isnan(array).any() else str(array.dtype)
    raise TypeError(f'expected an image of uint8 in 0 to 255, got {kind}')
  if array.ndim == 3 and array.shape[2] == 1:
    array = array[..., 0]
  if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in (
      array.shape):
    raise TypeError(f'expected an image [H, W], [H, W, 3] or [H, W, 4], got {array.shape}')
  return image_formats.to_rgb(Image.fromarray(array))
