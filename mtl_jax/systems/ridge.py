"""Ridge regression on the support, in closed form (R2-D2)."""
import jax
import jax.numpy as jnp

from mtl_jax.systems.metric import product
from mtl_jax.types import Array, Backbone, BackboneVars, Tree


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> Tree:
  """Returns θ: strength λ of 1, scale a of 1 and shift b of 0 of the scores.

  Args:
    backbone, backbone_vars, way: not read.

  Returns:
    {'log_strength', 'scale', 'shift'}, float32 scalars.
  """
  del backbone, backbone_vars, way
  return {'log_strength': jnp.float32(0.0), 'scale': jnp.float32(1.0), 'shift': jnp.float32(0.0)}


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
