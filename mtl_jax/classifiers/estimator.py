"""The classifier as scikit-learn knows classifiers; pip install 'mtl_jax[sklearn]' brings that.

    classifier = make_pipeline(PhotoFeatures('imagenet'), FewShotClassifier())
    cross_val_score(classifier, paths, labels)
"""
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtl_jax.classifiers import calibration, classifier, heads
from mtl_jax.classifiers.encoder import Encoder, Photo
from mtl_jax.weights import known

try:
  from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
  from sklearn.utils.multiclass import check_classification_targets
  from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
  raise ImportError("this needs scikit-learn: pip install 'mtl_jax[sklearn]'") from error


class FewShotClassifier(ClassifierMixin, BaseEstimator):
  """A softmax over features of length 1, as strong as left-out samples have it, and calibrated.

  Every class weighs the same, however many samples it has.

  Parameters:
    strengths: values of C that are compared by samples that were left out.

  Attributes:
    classes_: the labels, sorted.
    head_: as `heads.fit` returns it; `head_.strength` is the C that was chosen.
    n_features_in_: d.
  """

  def __init__(self, strengths: Sequence[float] = heads.STRENGTHS):
    self.strengths = strengths

  def fit(self, X: Any, y: Any) -> 'FewShotClassifier':
    """Fits the classifier.

    Args:
      X: features [n, d].
      y: labels [n], of at least two classes.

    Raises:
      ValueError: X or y is not of that form, or has NaN.
    """
    X, y = validate_data(self, X, y)
    check_classification_targets(y)
    self.classes_, labels = np.unique(y, return_inverse=True)
    if len(self.classes_) < 2:
      raise ValueError(f'expected at least two classes, got one class: {self.classes_[0]!r}')
    self.head_ = heads.fit(X, labels, len(self.classes_), tuple(self.strengths))
    return self

  def predict_proba(self, X: Any) -> np.ndarray:
    """Returns calibrated probabilities [n, N], in the order of `classes_`.

    Args:
      X: features [n, d].
    """
    check_is_fitted(self)
    X = validate_data(self, X, reset=False)
    return calibration.probabilities(heads.logits(self.head_, X), self.head_.temperature)

  def predict(self, X: Any) -> np.ndarray:
    """Returns the most probable label of each sample [n].

    Args:
      X: features [n, d].
    """
    shares = self.predict_proba(X)
    return self.classes_[shares.argmax(axis=1)]


class PhotoFeatures(TransformerMixin, BaseEstimator):
  """Turns photos into the features that a frozen network has of them; nothing is fitted.

  Parameters:
    network: 'imagenet', or the work directory of a run.
    image_size: side of the photos in pixels, of public weights; None for that of the run.
  """

  def __init__(self, network: str = 'imagenet', image_size: int | None = None):
    self.network = network
    self.image_size = image_size

  def fit(self, X: Any, y: Any = None) -> 'PhotoFeatures':
    """Returns itself: the network is frozen, so there is nothing to fit.

    Args:
      X: photos.
      y: labels, not looked at.
    """
    return self

  def transform(self, X: Sequence[Photo]) -> np.ndarray:
    """Computes the features [n, d].

    Args:
      X: paths, or uint8 arrays [H, W, 3].

    Raises:
      ValueError: a photo cannot be read.
      TypeError: an array is no image.
    """
    found = X if isinstance(X, np.ndarray) and X.dtype == np.uint8 else [
        str(photo) if isinstance(photo, str) else photo for photo in X]
    return classifier.features(_encoder(self.network, self.image_size), found)

  def __sklearn_is_fitted__(self) -> bool:
    return True

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.requires_fit = False
    tags.input_tags.two_d_array, tags.input_tags.string = False, True
    return tags


@functools.lru_cache(maxsize=4)
def _encoder(network: str, image_size: int | None) -> Encoder:
  # Beside the estimator, which stays small enough to be copied and pickled.
  return Encoder(known.load(network, image_size))
