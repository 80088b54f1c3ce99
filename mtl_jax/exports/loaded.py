"""An exported file that is run here, by jax or by onnxruntime, with its inputs checked."""
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtl_jax.exports.jax_file import Content

# (support images, labels, query images, classifier) -> (classifier, probabilities)
Run = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None],
               tuple[np.ndarray, np.ndarray]]


class Exported:
  """A network that adapts, or a classifier with fixed classes; made by `load`.

  Attributes:
    about: what the file says of itself.
    names: of its classes; None where they are not fixed.
  """

  def __init__(self, path: str, about: Mapping[str, Any], run: Run, start: np.ndarray | None):
    self.path, self.about, self._run, self._start = path, dict(about), run, start
    self.names = about.get('classes')

  def __repr__(self) -> str:
    return f'Exported({self.path}, {self.about["kind"]}, {self.about["network"]})'

  @classmethod
  def of_jax(cls, path: str, content: Content) -> 'Exported':
    """Returns a `.bin` that was read.

    Args:
      path: of the file.
      content: of `jax_file.decode`.
    """
    programs, weights = content.programs, content.weights

    def run(support, labels, query, classifier):
      if len(support):
        features = programs['encode'](weights, support)
        classifier = programs['adapt'](classifier, features, labels)
      if not len(query):
        return np.asarray(classifier), np.zeros((0, classifier.shape[1]), np.float32)
      found = programs['predict'](classifier, programs['encode'](weights, query))
      return np.asarray(classifier), np.asarray(found)

    return cls(path, content.about, run, content.classifier)

  @classmethod
  def of_onnx(cls, path: str, about: Mapping[str, Any], session: Any) -> 'Exported':
    """Returns an `.onnx` that was opened.

    Args:
      path: of the file.
      about: of `onnx_file.session`.
      session: of `onnx_file.session`.
    """
    def run(support, labels, query, classifier):
      if about['kind'] == 'classifies':
        return classifier, session.run(None, {'images': query})[0]
      inputs = {'support': support, 'labels': labels, 'query': query}
      # Left out, it is what the file holds.
      inputs |= {} if classifier is None else {'classifier': classifier}
      return tuple(session.run(None, inputs))

    return cls(path, about, run, None)

  def adapt(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Adapts to photos of any classes.

    Args:
      images: uint8 [n, H, W, C].
      labels: int [n], each of 0 .. N - 1.

    Returns:
      The classifier [d + 1, N], for `predict_proba`.

    Raises:
      ValueError: the classes of the file are fixed, or other images or labels than it takes.
    """
    images, labels = self._images(images), np.asarray(labels)
    number = self._num_classes(labels, len(images))
    start = self._start
    if start is None and self.about['num_classes'] is None:
      start = np.zeros((self.about['feature_dim'] + 1, number), np.float32)
    return self._run(images, labels.astype(np.int32), images[:0], start)[0]

  def predict_proba(self, images: np.ndarray, classifier: np.ndarray | None = None) -> np.ndarray:
    """Computes the probabilities of photos.

    Args:
      images: uint8 [m, H, W, C].
      classifier: of `adapt`; None for that of a file with fixed classes.

    Returns:
      float32 [m, N].

    Raises:
      ValueError: other images than the file takes, or no classifier.
    """
    if classifier is None and self.about['kind'] == 'adapts':
      raise ValueError(f'{self.path} adapts: expected the classifier that adapt has returned')
    images = self._images(images)
    classifier = self._start if classifier is None else classifier
    return self._run(images[:0], np.zeros(0, np.int32), images, classifier)[1]

  def _images(self, images):
    images, shape = np.asarray(images), tuple(self.about['image_shape'])
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
      raise ValueError(f'{self.path}: expected uint8 images [n, {", ".join(map(str, shape))}], got '
                       f'{images.dtype} {list(images.shape)}')
    return images

  def _num_classes(self, labels, num_images):
    fixed = self.about['num_classes']
    if self.about['kind'] == 'classifies':
      raise ValueError(f'{self.path} has its classes fixed ({", ".join(self.names or [])}): it '
                       'takes no support photos; export the network to adapt again')
    if labels.shape != (num_images,) or labels.dtype.kind not in 'iu':
      raise ValueError(f'{self.path}: expected a label for each of {num_images} photos, got '
                       f'{labels.dtype} {list(labels.shape)}')
    number = int(labels.max()) + 1
    if fixed is not None and number > fixed:
      raise ValueError(f'{self.path} has its number of classes fixed at {fixed}: got support '
                       f'photos of {number}')
    if sorted(set(labels.tolist())) != list(range(number)):
      raise ValueError(f'{self.path}: expected labels 0 to {number - 1}, each at least once')
    return number
