"""How good a classifier is, judged by photos that it was fitted without."""
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.classifiers import calibration
from mtl_jax.classifiers.calibration import Interval
from mtl_jax.classifiers.heads import Head

# A photo looks mislabelled where, left out, it is probably of another class and hardly of its own.
_OTHER, _OWN = 0.5, 0.1


class Doubt(NamedTuple):
  """A photo that looks mislabelled."""
  photo: str
  label: str
  looks_like: str
  probability: float


class Report(NamedTuple):
  """Leave-one-out figures of a classifier; accuracies are of photos that could be left out."""
  num_photos: int
  num_judged: int                    # photos that were left out once
  accuracy: Interval | None          # None where no photo could be left out
  by_class: dict[str, Interval | None]
  confused: list[tuple[str, str, int]]  # (class, taken for, photos), most first
  doubts: list[Doubt]                # most probable first
  calibration_error: float | None    # in [0, 1]
  kind: str                          # of head, as in `heads.Head`
  temperature: float
  strength: float
  alone: tuple[str, ...]             # classes of one photo, which was never left out

  def as_dict(self) -> dict[str, Any]:
    """Returns the figures for JSON."""
    found = self._asdict()
    found['accuracy'] = self.accuracy and self.accuracy._asdict()
    found['by_class'] = {name: interval and interval._asdict()
                         for name, interval in self.by_class.items()}
    found['doubts'] = [doubt._asdict() for doubt in self.doubts]
    return found


def make(head: Head, names: Sequence[str], photos: Sequence[str]) -> Report:
  """Judges a head by what it said of the photos that were left out.

  Args:
    head: as `heads.fit` returns it.
    names: N, of the classes.
    photos: n, what to call each photo.

  Returns:
    A Report.
  """
  labels = head.labels[head.left_out]
  judged = [photo for photo, left_out in zip(photos, head.left_out, strict=True) if left_out]
  shares = calibration.probabilities(head.left_out_logits, head.temperature)
  predicted = shares.argmax(axis=1)
  right = predicted == labels
  error = calibration.expected_calibration_error(shares, labels) if judged else None
  counts = np.bincount(head.labels, minlength=len(names))
  return Report(len(photos), len(judged), _share(right),
                {name: _share(right[labels == i]) for i, name in enumerate(names)},
                _confused(names, labels, predicted), _doubts(names, judged, labels, shares), error,
                head.kind, head.temperature, head.strength,
                tuple(name for i, name in enumerate(names) if counts[i] == 1))


def _share(right: np.ndarray) -> Interval | None:
  return calibration.wilson(int(right.sum()), len(right)) if len(right) else None


def _confused(names, labels, predicted) -> list[tuple[str, str, int]]:
  pairs, counts = np.unique(np.stack([labels, predicted], axis=1)[labels != predicted], axis=0,
                            return_counts=True)
  order = np.argsort(-counts, kind='stable')
  return [(names[pairs[i][0]], names[pairs[i][1]], int(counts[i])) for i in order]


def _doubts(names, photos, labels, shares) -> list[Doubt]:
  top = shares.argmax(axis=1)
  found = [Doubt(photos[i], names[labels[i]], names[top[i]], float(shares[i, top[i]]))
           for i in np.flatnonzero(top != labels)
           if shares[i, top[i]] >= _OTHER and shares[i, labels[i]] <= _OWN]
  return sorted(found, key=lambda doubt: -doubt.probability)
