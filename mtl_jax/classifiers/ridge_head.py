"""A ridge classifier in closed form, for more images and classes than a softmax is fitted to.

    min_W  Σ_i w_i |W x_i - y_i|² + ||W||² / C,      x_i and w_i as in `softmax_head`, y_i one-hot

In the eigenbasis of Σ w_i x_i x_iᵀ the solution needs no more than one product of matrices. What it
would say of an image that was left out follows without another fit (Allen, 1974):

    W = diag(1 / (curvature + 1/C)) Σ_i w_i x_i y_iᵀ
    s_i = (W x_i - h_i y_i) / (1 - h_i),      h_i = w_i Σ_k x_ik² / (curvature_k + 1/C)
"""
import numpy as np

from mtl_jax.classifiers.softmax_head import Basis


def class_sums(basis: Basis, weights: np.ndarray, labels: np.ndarray, num_classes: int
               ) -> np.ndarray:
  """Computes Σ_i w_i x_i y_iᵀ, which serves for every strength.

  Args:
    basis: of n images, without padding.
    weights: [n].
    labels: int [n].
    num_classes: N.

  Returns:
    float32 [r, N].
  """
  rows = np.asarray(basis.rows)
  sums = np.zeros((num_classes, rows.shape[1]), np.float32)
  np.add.at(sums, labels, weights[:, None] * rows)
  return sums.T


def fit(basis: Basis, sums: np.ndarray, strength: float) -> np.ndarray:
  """Minimises the loss.

  Args:
    basis: of n images, without padding.
    sums: of `class_sums`.
    strength: C.

  Returns:
    float32 W [r, N].
  """
  return sums / (np.asarray(basis.curvature) + 1 / strength)[:, None]


def left_out_scores(basis: Basis, weights: np.ndarray, labels: np.ndarray, w: np.ndarray,
                    strength: float, which: np.ndarray) -> np.ndarray:
  """Computes what a classifier that was fitted without an image says of that image.

  Args:
    basis: of n images, without padding.
    weights: [n].
    labels: int [n].
    w: [r, N], as `fit` returns it for the same strength.
    strength: C.
    which: int [m], the images that are left out, one at a time.

  Returns:
    float32 [m, N].
  """
  rows, of = np.asarray(basis.rows)[which], labels[which]
  scores = rows @ w
  leverage = weights[which] * (rows**2 / (np.asarray(basis.curvature) + 1 / strength)).sum(axis=1)
  scores[np.arange(len(which)), of] -= leverage
  return scores / (1 - leverage)[:, None]
