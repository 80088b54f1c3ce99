"""A linear support vector machine on the support, by its dual (MetaOptNet)."""
import jax
import jax.numpy as jnp

from mtl_jax.base_learner import product
from mtl_jax.types import Array, Tree

_COST = 0.1   # C, of the authors' code
_STEPS = 50   # of accelerated projected ascent
START = {'scale': 1.0}  # θ


def score(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Fits the support vector machine of Crammer and Singer, and scales its answers.

      z = a x Xᵀ A,   A = argmax -½ tr(Aᵀ X Xᵀ A) + tr(Yᵀ A)   with A_ik <= C y_ik, Σ_k A_ik = 0

  Args:
    theta: {'scale': a}.
    support: X [n, d].
    classes: Y [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Lee et al., CVPR 2019, equations 4 to 6; Crammer & Singer, JMLR 2001.
  """
  dual = solve(product(support, support.T), classes)
  return theta['scale'] * product(product(query, support.T), dual)


def solve(gram: Array, classes: Array, *, cost: float = _COST, steps: int = _STEPS) -> jax.Array:
  """Solves the dual by accelerated projected gradient ascent; gradients go through all steps.

  Args:
    gram: X Xᵀ [n, n].
    classes: Y [n, N].
    cost: C.
    steps: of the ascent.

  Returns:
    A [n, N].

  References: Beck & Teboulle, SIAM J. Imaging Sciences 2009 (FISTA).
  """
  # The largest row sum of absolute values bounds the largest eigenvalue.
  rate = 1 / (jnp.max(jnp.sum(jnp.abs(gram), axis=1)) + 1e-6)

  def step(carry, _):
    dual, ahead, momentum = carry
    moved = project(ahead + rate * (classes - product(gram, ahead)), cost * classes)
    after = (1 + jnp.sqrt(1 + 4 * momentum ** 2)) / 2
    return (moved, moved + (momentum - 1) / after * (moved - dual), after), None

  start = jnp.zeros_like(classes)
  (dual, _, _), _ = jax.lax.scan(step, (start, start, jnp.ones((), classes.dtype)), length=steps)
  return dual


def project(dual: Array, most: Array) -> jax.Array:
  """Returns the nearest point with A <= M and rows that sum to zero: A_ik = min(A_ik - t_i, M_ik).

  Rows sum to zero for one t_i, which is found exactly: with k entries below their bound, t is the
  sum of their excess over k, for the one k that agrees with itself.

  Args:
    dual: [n, N].
    most: M [n, N], no entry below zero.

  Returns:
    [n, N].
  """
  gap = dual - most                                    # capped where above t
  ordered = -jnp.sort(-gap, axis=1)                    # the largest are capped first
  rows, way = gap.shape
  capped = jnp.arange(way)[None]                       # how many are
  free = jnp.sum(dual, axis=1, keepdims=True) - jnp.concatenate(
      [jnp.zeros((rows, 1), gap.dtype), jnp.cumsum(ordered, axis=1)[:, :-1]], axis=1)
  shift = free / (way - capped)
  # t with the first `capped` capped: right where the next gap is at most t.
  right = (ordered <= shift) & jnp.concatenate(
      [jnp.ones((rows, 1), bool), ordered[:, :-1] >= shift[:, 1:]], axis=1)
  found = jnp.take_along_axis(shift, jnp.argmax(right, axis=1)[:, None], axis=1)
  return jnp.minimum(dual - found, most)
