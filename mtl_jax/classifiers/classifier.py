"""A classifier of photos: a frozen network, and a head fitted to a few photos of each class."""
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax import exports
from mtl_jax.classifiers import calibration, heads, photo_sets, report, saved
from mtl_jax.classifiers.encoder import Encoder, Photo
from mtl_jax.classifiers.heads import Head
from mtl_jax.classifiers.photo_sets import Labelled
from mtl_jax.data import photos as photo_files


class Prediction(NamedTuple):
  """What a classifier says of a photo."""
  photo: str
  label: str                 # most probable class
  probability: float
  runner_up: str
  runner_up_probability: float
  rejected: bool             # less probable than the threshold: perhaps none of the classes


class Classifier:
  """Classifies photos; made by `Network.adapt` or `load_classifier`.

  Attributes:
    names: of the classes, sorted.
    photos: what to call each photo that it was fitted to.
    left_out: a line for each photo that could not be read.
  """

  def __init__(self, encoder: Encoder, names: Sequence[str], features: np.ndarray, head: Head,
               photos: Sequence[str], left_out: Sequence[str] = ()):
    self.encoder, self.names, self.features = encoder, tuple(names), features
    self.head, self.photos, self.left_out = head, tuple(photos), tuple(left_out)

  def __repr__(self) -> str:
    return (f'Classifier({len(self.names)} classes, {len(self.features)} photos, '
            f'{self.encoder!r})')

  def predict(self, photos: Photo | Sequence[Photo]) -> list[str]:
    """Returns the most probable class of each photo.

    Args:
      photos: a folder, a path, an array, or a sequence of these; arrays are uint8 [H, W, 3], or
        [n, H, W, 3].

    Raises:
      ValueError: a photo cannot be read, or there is none.
      TypeError: an array is no image.
    """
    return [self.names[i] for i in self.predict_proba(photos).argmax(axis=1)]

  def predict_proba(self, photos: Photo | Sequence[Photo]) -> np.ndarray:
    """Returns calibrated probabilities [n, N], classes in the order of `names`.

    Args:
      photos: as `predict` takes them.

    Raises:
      ValueError, TypeError: as `predict`.
    """
    return self._probabilities(features(self.encoder, photos))

  def classify(self, photos: Photo | Sequence[Photo], reject: float | None = None
               ) -> tuple[list[Prediction], list[str]]:
    """Says all that it knows of each photo, and passes over those that cannot be read.

    Args:
      photos: as `predict` takes them.
      reject: as in `threshold`; None rejects nothing.

    Returns:
      (a Prediction for each photo that could be read, a line for each other one).

    Raises:
      ValueError: there is no photo, or no threshold.
      TypeError: an array is no image.
    """
    found = _listed(photos)
    least = 0.0 if reject is None else self.threshold(reject)
    features, places, problems = self.encoder.encode(found)
    shares = self._probabilities(features)
    order = np.argsort(-shares, axis=1)[:, :2]
    return [Prediction(_name(found[place]), self.names[first], float(row[first]),
                       self.names[second], float(row[second]), bool(row[first] < least))
            for place, row, (first, second) in zip(places, shares, order, strict=True)], problems

  def threshold(self, reject: float) -> float:
    """Returns the probability below which a photo is taken for none of the classes.

    Args:
      reject: share of photos of the known classes that may be rejected by mistake, in (0, 1); the
        threshold is the one at which as many left-out photos would have been.

    Raises:
      ValueError: out of range, or no photo could be left out.
    """
    if not 0 < reject < 1:
      raise ValueError(f'expected reject to be a share between 0 and 1, got {reject}')
    if not self.head.left_out.any():
      raise ValueError('no threshold without a class of two photos, of which one can be left out')
    shares = calibration.probabilities(self.head.left_out_logits, self.head.temperature)
    return float(np.quantile(shares.max(axis=1), reject))

  def report(self) -> report.Report:
    """Judges the classifier by its own photos, each left out once."""
    return report.make(self.head, self.names, self.photos)

  def add_class(self, name: str, photos: Photo | Sequence[Photo]) -> 'Classifier':
    """Returns a classifier with one more class; the photos of the others are not needed.

    Args:
      name: of the new class.
      photos: as `predict` takes them.

    Raises:
      ValueError: the class is there already, or no photo of it can be read.
    """
    names = sorted((*self.names, name))
    photo_sets.check_names(names)
    found = _listed(photos)
    new, places, problems = self.encoder.encode(found)
    if not places:
      raise ValueError(f'class {name}: {problems[0]}')
    old = np.array([names.index(old) for old in self.names])[self.head.labels]
    labels = np.concatenate([old, np.full(len(new), names.index(name))])
    features = np.concatenate([self.features, new])
    return Classifier(self.encoder, names, features, heads.fit(features, labels, len(names)),
                      (*self.photos, *(_name(found[place]) for place in places)),
                      (*self.left_out, *problems))

  def _probabilities(self, features: np.ndarray) -> np.ndarray:
    return calibration.probabilities(heads.logits(self.head, features), self.head.temperature)

  def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Writes everything, the network too, into one file; see `saved.write`.

    Args:
      path: of the file, `.mtl`.
      overwrite: replace a file that is there.
    """
    content = saved.Content(self.encoder, self.names, self.features, self.head, self.photos,
                            self.left_out)
    saved.write(content, path, overwrite=overwrite)

  def export(self, path: str | os.PathLike, *, adapts: bool = False, overwrite: bool = False
             ) -> int:
    """Writes a file that needs this library no more: `.bin` for jax, `.onnx` for ONNX's runtimes.

    Args:
      path: of the file.
      adapts: whether it shall adapt to photos of other classes, with the C and the temperature of
        this classifier; its own classes are not in the file then.
      overwrite: replace a file that is there.

    Returns:
      Its size in bytes.

    Raises:
      ValueError: another ending, a file that is there, or a package that is missing.
      OSError: it cannot be written.
    """
    run, head = self.encoder.run, self.head

    def program(conv):
      if not adapts:
        return exports.of_classifier(run, conv, names=self.names, classifier=head.weights,
                                     kind=head.kind, temperature=head.temperature)
      if head.kind != 'softmax':  # what a file fits is a softmax, whose C is another
        return exports.of_photos(run, conv)
      return exports.of_photos(run, conv, strength=head.strength, temperature=head.temperature)

    return exports.write(program, path, overwrite=overwrite)


def adapt(encoder: Encoder, labelled: Labelled) -> Classifier:
  """Fits a classifier to labelled photos.

  Args:
    encoder: the frozen network.
    labelled: a folder with a folder of photos for each class; or {class: photos}; or (photos, their
      classes). Photos are paths or uint8 arrays; any number of each class, down to one.

  Returns:
    A Classifier; photos that cannot be read are left out, and named in `left_out`.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: fewer than two classes, or a class without a photo that can be read.
    TypeError: an array is no image.
  """
  found = photo_sets.gather(labelled)
  features, places, problems = encoder.encode(found.photos)
  labels = found.labels[places]
  counts = np.bincount(labels, minlength=len(found.names))
  if not counts.all():
    name = found.names[int(np.argmin(counts))]
    raise ValueError(f'class {name}: none of its photos can be read, such as {problems[0]}')
  return Classifier(encoder, found.names, features, heads.fit(features, labels, len(found.names)),
                    [_name(found.photos[place]) for place in places], problems)


def features(encoder: Encoder, photos: Photo | Sequence[Photo]) -> np.ndarray:
  """Computes the features [n, d] of photos, all of which must be readable.

  Args:
    encoder: the frozen network.
    photos: a folder, a path, an array, or a sequence of these.

  Raises:
    ValueError: a photo cannot be read, or there is none.
    TypeError: an array is no image.
  """
  found, _, problems = encoder.encode(_listed(photos))
  if problems:
    raise ValueError(problems[0])
  return found


def _listed(photos: Photo | Sequence[Photo] | Mapping) -> list[Photo]:
  """A flat list of paths and arrays of one image each."""
  if isinstance(photos, (str, os.PathLike)):
    return list(photo_files.find([photos]))
  if isinstance(photos, np.ndarray):
    return list(photos) if photos.ndim == 4 else [photos]
  found: list[Photo] = []
  for photo in photos:
    found += _listed(photo)
  if not found:
    raise ValueError('expected at least one photo, got none')
  return found


def _name(photo: Photo) -> str:
  return 'array' if isinstance(photo, np.ndarray) else os.fspath(photo)
