"""Arrays of the host copied to where compiled calls want them: one device, or several."""
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_jax.sharding import AXIS, Layout
from mtl_jax.types import Array, ImagePool

T = TypeVar('T')


def replicate(tree: T, layout: Layout | None) -> T:
  """Copies each array to each device; several processes must hold the same arrays.

  Args:
    tree: of arrays, NumPy's or JAX's.
    layout: devices of the run.

  Returns:
    The tree as JAX arrays.
  """
  if layout is None:
    return jax.tree.map(jnp.asarray, tree)
  return jax.tree.map(lambda x: put(x, layout.replicated), tree)


def place_pool(pool: ImagePool, layout: Layout | None) -> ImagePool:
  """Copies a pool to the devices, all of it to each or a part to each.

  Args:
    pool: of any arrays.
    layout: devices of the run.

  Returns:
    The pool as JAX arrays; where it is split, black images follow the last one, up to a multiple of
    the devices.
  """
  if layout is None or layout.pool == 'replicated':
    return replicate(pool, layout)
  places = replicate(pool._replace(images=()), layout)
  return places._replace(images=split_rows(pool.images, layout))


def split_rows(rows: Array, layout: Layout) -> jax.Array:
  """Copies an equal part of the rows to each device.

  Args:
    rows: [n, ...]; of several processes, each reads only what its devices get.
    layout: devices of the run.

  Returns:
    [n rounded up to a multiple of the devices, ...]; rows of zeros follow the last one.
  """
  sharding, per_device = NamedSharding(layout.mesh, P(AXIS)), -(-len(rows) // layout.size)
  if isinstance(rows, jax.Array) and _is_there(rows, sharding):
    return rows

  def part(index):
    start = index[0].start or 0
    found = np.asarray(rows[start:start + per_device])
    missing = per_device - len(found)
    return np.concatenate([found, np.zeros((missing, *rows.shape[1:]), rows.dtype)])

  shape = (per_device * layout.size, *rows.shape[1:])
  return jax.make_array_from_callback(shape, sharding, part)


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """Copies an array to where `sharding` says.

  `jax.device_put` would do the same, but compare the arrays of several processes with each other,
  at the cost of sending them.

  Args:
    x: any array, or typed random key; the same in every process.
    sharding: over devices of any process.

  Returns:
    A JAX array; `x` itself where it lies so already.
  """
  if isinstance(x, jax.Array):
    if _is_there(x, sharding):
      return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      data = put(jax.random.key_data(x), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
  host = np.asarray(x)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _is_there(x: jax.Array, sharding: jax.sharding.Sharding) -> bool:
  return x.sharding.is_equivalent_to(sharding, x.ndim)
