"""Ridge regression on the support, in closed form (R2-D2)."""
import jax
import jax.numpy as jnp

from mtl_jax.base_learner import product
from mtl_jax.types import Array, Tree

# θ at the start: log λ, a and b.
START = {'log_strength': 0.0, 'scale': 1.0, 'shift': 0.0}


def score(theta: Tree, support: Array, classes: Array, query: Array) -> jax.Array:
  """Fits the classes by ridge regression, and scales its answers.

      z = a x Xᵀ (X Xᵀ + λ I)⁻¹ Y + b

  which is x W with W = argmin |X W - Y|² + λ |W|², by a system of n equations in place of d.

  Args:
    theta: {'log_strength': log λ, 'scale': a, 'shift': b}.
    support: X [n, d].
    classes: Y [n, N].
    query: [m, d].

  Returns:
    Logits [m, N].

  References: Bertinetto et al., ICLR 2019, equations 4 to 6.
  """
  gram = product(support, support.T)
  strength = jnp.exp(theta['log_strength'])
  dual = jax.scipy.linalg.solve(gram + strength * jnp.eye(len(gram)), classes, assume_a='pos')
  return theta['scale'] * product(product(query, support.T), dual) + theta['shift']
