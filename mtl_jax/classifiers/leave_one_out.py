"""What a classifier says of each image when it was fitted without it."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.classifiers import softmax_head
from mtl_jax.classifiers.softmax_head import Basis

# Images are left out one at a time where all fits together take seconds; else in groups.
_MOST_WORK, _LEAST_GROUPS = 2e8, 10  # fits * images * dimensions * classes
_FITS_AT_ONCE = 16


def padded(number: int) -> int:
  """Rounds a number of images or classes up, so that few programs serve all numbers.

  Args:
    number: at least 1.

  Returns:
    A power of two, at least 8, or one and a half of it.

  >>> [padded(number) for number in (3, 40, 41, 192, 600)]
  [8, 48, 48, 192, 768]
  """
  power = max(8, 1 << (number - 1).bit_length())
  return power * 3 // 4 if number <= power * 3 // 4 and power > 8 else power


def pad(weights: np.ndarray, labels: np.ndarray, num_rows: int, num_classes: int
        ) -> tuple[np.ndarray, np.ndarray]:
  """Pads the weights of images, and their labels as one-hot rows, by zeros.

  Args:
    weights: [n].
    labels: int [n].
    num_rows: n or more.
    num_classes: N.

  Returns:
    (weights [num_rows], targets [num_rows, padded(N)]), float32.
  """
  targets = np.zeros((num_rows, padded(num_classes)), np.float32)
  targets[np.arange(len(labels)), labels] = 1
  return np.pad(weights, (0, num_rows - len(weights))), targets


def left_out(labels: np.ndarray, most_fits: int) -> np.ndarray:
  """Groups the images that are left out together; one at a time where they are few.

  An image that is the only one of its class is never left out: nothing would be known of it.

  Args:
    labels: int [n], sorted or not.
    most_fits: number of groups that is not exceeded; `most_fits` says how many are worth it.

  Returns:
    int [n], the group of each image, -1 where it stays in all fits.
  """
  alone = np.bincount(labels)[labels] < 2
  number = np.count_nonzero(~alone)
  groups = np.full(len(labels), -1)
  # Images of a class go to groups that follow each other, so that no group empties a class.
  order = np.argsort(labels, kind='stable')
  order = order[~alone[order]]
  groups[order] = np.arange(number) % min(number, most_fits) if number else groups[order]
  return groups


def most_fits(num_images: int, num_dimensions: int, num_classes: int) -> int:
  """Returns how many fits are worth their time: one for each image, or fewer, at least ten.

  Args:
    num_images: n.
    num_dimensions: r of the Basis.
    num_classes: N.

  >>> most_fits(192, 192, 16), most_fits(1000, 1000, 50)
  (192, 10)
  """
  affordable = _MOST_WORK / (num_images * num_dimensions * num_classes)
  return min(num_images, max(_LEAST_GROUPS, int(affordable)))


@functools.partial(jax.jit, static_argnames='num_groups')
def logits(basis_rows: jax.Array, curvature: jax.Array, weights: jax.Array, targets: jax.Array,
           strength: jax.Array, steps: jax.Array | int, groups: jax.Array, num_groups: int
           ) -> jax.Array:
  """Computes the logits of each image by the classifier that was fitted without its group.

  Args:
    basis_rows: [n, r] of a Basis.
    curvature: [r].
    weights: [n], 0 of padded images.
    targets: [n, N], one-hot.
    strength: C, scalar.
    steps: of each fit.
    groups: int [n], as `left_out` returns them.
    num_groups: how many; empty ones cost a fit.

  Returns:
    [n, N]; zero where an image was never left out.
  """
  def one_group(group):
    is_out = groups == group
    w = softmax_head.fit(basis_rows, curvature, jnp.where(is_out, 0, weights), targets, strength,
                         steps)
    return jnp.where(is_out[:, None], basis_rows @ w, 0)

  def some(total, first):
    parts = jax.vmap(one_group)(first + jnp.arange(_FITS_AT_ONCE))
    return total + parts.sum(axis=0), None

  starts = jnp.arange(0, num_groups, _FITS_AT_ONCE)
  total, _ = jax.lax.scan(some, jnp.zeros(targets.shape), starts)
  return total


def all_logits(basis: Basis, weights: np.ndarray, labels: np.ndarray, num_classes: int,
               strengths: tuple[float, ...]) -> dict[float, np.ndarray]:
  """Computes `logits` for several strengths.

  Args:
    basis: of the images, padded.
    weights: [n].
    labels: int [n].
    num_classes: N.
    strengths: C.

  Returns:
    Strength -> logits [n, N], zero where an image was never left out.
  """
  n, (num_rows, num_dimensions) = len(labels), basis.rows.shape
  weights, targets = pad(weights, labels, num_rows, num_classes)
  fits = most_fits(num_rows, num_dimensions, targets.shape[1])
  groups = np.pad(left_out(labels, fits), (0, num_rows - n), constant_values=-1)
  return {strength: np.asarray(logits(
      basis.rows, basis.curvature, weights, targets, jnp.float32(strength),
      softmax_head.steps_for(strength), groups, fits))[:n, :num_classes]
      for strength in strengths}
