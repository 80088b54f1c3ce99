"""The head of a classifier: fitted to features of any number of classes, calibrated, and judged.

How strongly it follows its images (C), and the temperature of its probabilities, are those of the
highest likelihood of images that were left out.
"""
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtl_jax.classifiers import calibration, leave_one_out, softmax_head

STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
_STEPS = 1000  # of the one fit to all images, which costs little; the loss no longer changes
# C and temperature where no image can be left out: close to the nearest mean, and what two and
# three images of a class have led to on photos of groceries.
_ALONE = (10.0, 0.3)


class Head(NamedTuple):
  """A fitted head, and what it said of each of its images without having seen it."""
  weights: np.ndarray      # float32 [d + 1, N]; the last row is the bias
  strength: float          # C
  temperature: float       # divides the logits
  labels: np.ndarray       # int [n], of the images that it was fitted to
  left_out: np.ndarray     # bool [n]: whether the image was left out once
  left_out_logits: np.ndarray  # float32 [n, N]; zero where it was not


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int,
        strengths: tuple[float, ...] = STRENGTHS) -> Head:
  """Fits a head to the features of images.

  Args:
    features: [n, d]; of any length, as they are brought to length 1.
    labels: int [n], each of 0 .. N - 1 at least once.
    num_classes: N, at least 2.
    strengths: values of C, of which left-out images choose.

  Returns:
    A Head.

  Raises:
    ValueError: features that are not finite, fewer than two classes, or a class without an image.
  """
  labels = np.asarray(labels, int)
  _check(features, labels, num_classes)
  x, weights = softmax_head.unit_length(features), softmax_head.sample_weights(labels)
  num_rows = leave_one_out.padded(len(x))
  basis = softmax_head.make_basis(x, weights, num_rows, min(num_rows, x.shape[1]))
  judged = np.bincount(labels)[labels] > 1
  strength, temperature = _ALONE
  logits = np.zeros((len(x), num_classes), np.float32)
  if judged.any():
    by_strength = leave_one_out.all_logits(basis, weights, labels, num_classes, strengths)
    found = {}
    for candidate, values in by_strength.items():
      best = calibration.best_temperature(values[judged], labels[judged])
      found[candidate] = (calibration.negative_log_likelihood(
          values[judged], labels[judged], best), best)
    strength = min(found, key=lambda candidate: found[candidate][0])
    temperature, logits = found[strength][1], by_strength[strength]
  return Head(_weights(basis, weights, labels, num_classes, strength), strength, temperature,
              labels, judged, logits)


def logits(head: Head, features: np.ndarray) -> np.ndarray:
  """Computes the logits of images.

  Args:
    head: of `fit`.
    features: [n, d].

  Returns:
    float32 [n, N].
  """
  return softmax_head.unit_length(features) @ head.weights


def _weights(basis, weights, labels, num_classes, strength) -> np.ndarray:
  weights, targets = leave_one_out.pad(weights, labels, len(basis.rows), num_classes)
  w = np.asarray(softmax_head.fit(basis.rows, basis.curvature, weights, targets,
                                  jnp.float32(strength), _STEPS))
  return basis.to_features @ w[:basis.to_features.shape[1], :num_classes]


def _check(features, labels, num_classes):
  if not np.isfinite(features).all():
    broken = int(np.argmin(np.isfinite(features).all(axis=1)))
    raise ValueError(f'expected finite features, got NaN or infinity in row {broken}')
  if num_classes < 2:
    raise ValueError(f'expected at least 2 classes, got {num_classes}')
  counts = np.bincount(labels, minlength=num_classes)
  if len(counts) != num_classes or not counts.all():
    raise ValueError(f'expected labels 0 to {num_classes - 1}, each at least once')
