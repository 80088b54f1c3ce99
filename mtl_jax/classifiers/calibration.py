"""Probabilities that mean what they say, and the error that is left in them."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BINS = 10  # of the calibration error
_TEMPERATURES = np.geomspace(0.000125, 20, 481)


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
  """Computes softmax(logits / temperature).

  Args:
    logits: [n, N].
    temperature: above 0.

  Returns:
    float64 [n, N].
  """
  scaled = np.asarray(logits, np.float64) / temperature
  scaled -= scaled.max(axis=1, keepdims=True)
  shares = np.exp(scaled)
  return shares / shares.sum(axis=1, keepdims=True)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
  """Computes the mean of -log p(label).

  Args:
    logits: [n, N].
    labels: int [n].
    temperature: divides the logits.
  """
  scaled = np.asarray(logits, np.float64) / temperature
  scaled -= scaled.max(axis=1, keepdims=True)
  of_label = scaled[np.arange(len(labels)), labels]
  return float((np.log(np.exp(scaled).sum(axis=1)) - of_label).mean())


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the temperature of the highest likelihood (Guo et al., ICML 2017).

  Args:
    logits: [n, N], of images that the classifier was not fitted to.
    labels: int [n].
  """
  # The loss is convex in 1 / temperature: on either side of its lowest place it only rises.
  lowest, highest = 0, len(_TEMPERATURES) - 1
  while lowest < highest:
    middle = (lowest + highest) // 2
    here, next_one = (negative_log_likelihood(logits, labels, _TEMPERATURES[i])
                      for i in (middle, middle + 1))
    lowest, highest = (lowest, middle) if here <= next_one else (middle + 1, highest)
  return float(_TEMPERATURES[lowest])


def expected_calibration_error(shares: np.ndarray, labels: np.ndarray) -> float:
  """Computes Σ_bins (n_bin / n) |accuracy - mean probability|, over ten bins of equal width.

  Args:
    shares: probabilities [n, N].
    labels: int [n].

  Returns:
    In [0, 1].
  """
  return error_of(shares.max(axis=1), shares.argmax(axis=1) == labels)


def error_of(probabilities: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray
             ) -> float:
  """Computes the calibration error of answers.

  Args:
    probabilities: of the answers [n].
    correct: whether they are right [n].

  Returns:
    In [0, 1].
  """
  top, correct = np.asarray(probabilities), np.asarray(correct)
  bins = np.minimum((top * _BINS).astype(int), _BINS - 1)
  error = 0.0
  for index in range(_BINS):
    inside = bins == index
    if inside.any():
      error += inside.mean() * abs(correct[inside].mean() - top[inside].mean())
  return float(error)


class Interval(NamedTuple):
  """A share, and the bounds between which it lies with 95%."""
  share: float
  low: float
  high: float


def wilson(correct: int, number: int) -> Interval:
  """Computes Wilson's 95% interval of a share, which holds for few images too.

  Args:
    correct: how many of them.
    number: above 0.

  >>> [round(value, 3) for value in wilson(9, 10)]
  [0.9, 0.596, 0.982]
  """
  z, share = 1.96, correct / number
  middle = share + z * z / (2 * number)
  half = z * np.sqrt(share * (1 - share) / number + z * z / (4 * number**2))
  scale = 1 + z * z / number
  return Interval(share, float((middle - half) / scale), float((middle + half) / scale))
