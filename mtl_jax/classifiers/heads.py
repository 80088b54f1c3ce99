"""The head of a classifier: fitted to features of any number of classes, calibrated, and judged.

How strongly it follows its images (C), and the temperature of its probabilities, are those of the
highest likelihood of images that were left out.
"""
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtl_jax import stages
from mtl_jax.classifiers import calibration, leave_one_out, ridge_head, softmax_head
from mtl_jax.classifiers.softmax_head import Basis

STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
RIDGE_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_STEPS = 1000  # of the one fit to all images, which costs little; the loss no longer changes
# C and temperature where no image can be left out: close to the nearest mean, and what two and
# three images of a class have led to on photos of groceries.
_ALONE = (10.0, 0.3)
# From here on (images * dimensions * classes) a softmax would take longer than ten minutes.
_MOST_WORK = 1e9
_MOST_JUDGED = 2000  # images of a ridge classifier that are left out; the interval is narrow then


class Head(NamedTuple):
  """A fitted head, and what it said of its images without having seen them."""
  kind: str                # 'softmax', or 'ridge' where there is too much for that
  weights: np.ndarray      # float32 [d + 1, N]; the last row is the bias
  strength: float          # C
  temperature: float       # divides the logits
  labels: np.ndarray       # int [n], of the images that it was fitted to
  left_out: np.ndarray     # bool [n]: whether the image was left out once
  left_out_logits: np.ndarray  # float32 [m, N], of the m images that were


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int,
        strengths: tuple[float, ...] = STRENGTHS) -> Head:
  """Fits a head to the features of images: a softmax, or ridge where that would take too long.

  Args:
    features: [n, d]; of any length, as they are brought to length 1.
    labels: int [n], each of 0 .. N - 1 at least once.
    num_classes: N, at least 2.
    strengths: values of C of the softmax, of which left-out images choose.

  Returns:
    A Head.

  Raises:
    ValueError: features that are not finite, fewer than two classes, or a class without an image.
  """
  labels = np.asarray(labels, int)
  _check(features, labels, num_classes)
  x, weights = softmax_head.unit_length(features), softmax_head.sample_weights(labels)
  several = np.bincount(labels)[labels] > 1
  with stages.stage(f'fitting {num_classes} classes to {len(x)} images'):
    if len(x) * min(x.shape) * num_classes > _MOST_WORK and several.any():
      return _fit_ridge(x, weights, labels, num_classes, several)
    return _fit_softmax(x, weights, labels, num_classes, several, strengths)


def logits(head: Head, features: np.ndarray) -> np.ndarray:
  """Computes the logits of images.

  Args:
    head: of `fit`.
    features: [n, d].

  Returns:
    float32 [n, N].
  """
  return softmax_head.unit_length(features) @ head.weights


def _fit_softmax(x, weights, labels, num_classes, judged, strengths) -> Head:
  num_rows = leave_one_out.padded(len(x))
  basis = softmax_head.make_basis(x, weights, num_rows, min(num_rows, x.shape[1]))
  strength, temperature = _ALONE
  chosen = np.zeros((0, num_classes), np.float32)
  if judged.any():
    found = leave_one_out.all_logits(basis, weights, labels, num_classes, strengths)
    strength, temperature, chosen = _most_likely(
        {strength: values[judged] for strength, values in found.items()}, labels[judged])
  padded_weights, targets = leave_one_out.pad(weights, labels, num_rows, num_classes)
  w = np.asarray(softmax_head.fit(basis.rows, basis.curvature, padded_weights, targets,
                                  jnp.float32(strength), _STEPS))[:, :num_classes]
  return Head('softmax', _of_features(basis, w), strength, temperature, labels, judged, chosen)


def _fit_ridge(x, weights, labels, num_classes, several) -> Head:
  # Evenly spaced over the classes.
  order = np.argsort(labels, kind='stable')
  order = order[several[order]]
  which = np.sort(order[np.linspace(0, len(order) - 1, min(len(order), _MOST_JUDGED)).astype(int)])
  basis = softmax_head.make_basis(x, weights, *x.shape)
  sums = ridge_head.class_sums(basis, weights, labels, num_classes)
  strength, temperature, chosen = _most_likely(
      {strength: ridge_head.left_out_scores(basis, weights, labels,
                                            ridge_head.fit(basis, sums, strength), strength, which)
       for strength in RIDGE_STRENGTHS}, labels[which])
  judged = np.zeros(len(labels), bool)
  judged[which] = True
  w = ridge_head.fit(basis, sums, strength)
  return Head('ridge', _of_features(basis, w), strength, temperature, labels, judged, chosen)


def _most_likely(logits_by_strength, labels) -> tuple[float, float, np.ndarray]:
  """The strength and the temperature of the highest likelihood, and the logits of that strength."""
  found = {}
  for strength, values in logits_by_strength.items():
    temperature = calibration.best_temperature(values, labels)
    loss = calibration.negative_log_likelihood(values, labels, temperature)
    found[strength] = (loss, temperature)
  strength = min(found, key=lambda candidate: found[candidate][0])
  return strength, found[strength][1], logits_by_strength[strength]


def _of_features(basis: Basis, w: np.ndarray) -> np.ndarray:
  return basis.to_features @ w[:basis.to_features.shape[1]]


def _check(features, labels, num_classes):
  if not np.isfinite(features).all():
    broken = int(np.argmin(np.isfinite(features).all(axis=1)))
    raise ValueError(f'expected finite features, got NaN or infinity in row {broken}')
  if num_classes < 2:
    raise ValueError(f'expected at least 2 classes, got {num_classes}')
  counts = np.bincount(labels, minlength=num_classes)
  if len(counts) != num_classes or not counts.all():
    raise ValueError(f'expected labels 0 to {num_classes - 1}, each at least once')
