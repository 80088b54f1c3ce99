"""Several devices: the tasks of a step are spread over them, parameters are on each of them.

`meta_train` and `meta_test` run once per device (`on_each`), each copy on its own tasks; what is learned from them
meets in one sum over the devices (`meet`). Pre-training is one program over a batch that is spread (`spread`), so that
batch norm sees all of it. The functions take `layout=None` for one device, and leave everything as it is then.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_jax.types import ImagePool, Tree

AXIS = 'tasks'
POOLS = ('replicated', 'sharded')


class Layout(NamedTuple):
  """How a run lies on its devices."""
  mesh: Mesh                # of one axis, AXIS
  pool: str = 'replicated'  # all images on each device, or a part of them ('sharded')

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.mesh.size

  @property
  def everywhere(self) -> NamedSharding:
    """The sharding of an array with a copy on each device."""
    return NamedSharding(self.mesh, P())


def layout(num: int | str | None = None, pool: str = 'replicated') -> Layout | None:
  """Chooses the devices of a run.

  Args:
    num: how many; 'all'; or None for one, or for all where the run has several processes.
    pool: one of POOLS.

  Returns:
    A Layout, or None for one device.

  Raises:
    ValueError: there are not as many; a run of several processes does not use all; an unknown `pool`.
  """
  available, several = jax.devices(), jax.process_count() > 1
  if pool not in POOLS:
    raise ValueError(f'expected pool to be one of {", ".join(POOLS)}, got {pool!r}')
  num = num or ('all' if several else 1)
  if num != 'all' and not (str(num).isdecimal() and 1 <= int(num) <= len(available)):
    raise ValueError(f"expected devices to be 'all' or from 1 to {len(available)}, the {available[0].platform} devices "
                     f'there are, got {num}')
  num = len(available) if num == 'all' else int(num)
  if several and num != len(available):
    raise ValueError(f"expected devices to be 'all' or {len(available)}, those of all {jax.process_count()} processes, "
                     f'got {num}')
  if num == 1:
    return None
  return Layout(jax.make_mesh((num,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:num]), pool)


def pool_parts(layout: Layout | None) -> int:
  """Tells in how many parts the images lie on the devices."""
  return layout.size if layout is not None and layout.pool == 'sharded' else 1


def check_divisible(name: str, value: int, layout: Layout | None) -> None:
  """Refuses what cannot be spread evenly.

  Args:
    name: of the setting.
    value: of the setting.
    layout: of the run.

  Raises:
    ValueError: `value` is no multiple of the number of devices.
  """
  if layout is not None and value % layout.size:
    raise ValueError(f'expected {name} to be a multiple of the number of devices, {layout.size}, got {value}; choose '
                     f'another --{name} or --devices')


# --- On the host: putting arrays where the compiled calls want them. ---

def replicate(tree: Tree, layout: Layout | None) -> Tree:
  """Puts a copy of each array on each device; several processes must hold the same arrays.

  Args:
    tree: of arrays, NumPy's or JAX's.
    layout: of the run.

  Returns:
    The tree as JAX arrays.
  """
  if layout is None:
    return jax.tree.map(jnp.asarray, tree)
  return jax.tree.map(lambda x: put(x, layout.everywhere), tree)


def place_pool(pool: ImagePool, layout: Layout | None) -> ImagePool:
  """Puts a pool on the devices, all of it on each or a part on each.

  Args:
    pool: of any arrays.
    layout: of the run.

  Returns:
    The pool as JAX arrays; where it is split, black images follow the last one, up to a multiple of the devices.
  """
  if layout is None or layout.pool == 'replicated':
    return replicate(pool, layout)
  return replicate(pool._replace(images=()), layout)._replace(images=split(pool.images, layout))


def split(rows: np.ndarray, layout: Layout) -> jax.Array:
  """Puts an equal part of the rows on each device; where they are too few, rows of zeros follow the last one.

  Args:
    rows: [n, ...]; of several processes, each reads only what its devices get.
    layout: of the run.

  Returns:
    [n rounded up to a multiple of the devices, ...].
  """
  sharding, per_device = NamedSharding(layout.mesh, P(AXIS)), -(-len(rows) // layout.size)
  if _is_there(rows, sharding):
    return rows

  def part(index):
    start = index[0].start or 0
    found = np.asarray(rows[start:start + per_device])
    return np.concatenate([found, np.zeros((per_device - len(found), *rows.shape[1:]), rows.dtype)])

  return jax.make_array_from_callback((per_device * layout.size, *rows.shape[1:]), sharding, part)


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """Puts an array where `sharding` says.

  As `jax.device_put`, which would compare the arrays of several processes with each other, at the cost of sending them.

  Args:
    x: any array, or typed random key; the same in every process.
    sharding: over devices of any process.

  Returns:
    A JAX array; `x` itself where it lies so already.
  """
  if _is_there(x, sharding):
    return x
  if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _is_there(x: Any, sharding: NamedSharding) -> bool:
  return isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim)


# --- One program per device. ---

def on_each(function: Callable, layout: Layout | None, *, pools: tuple[int, ...] = (),
            rows: tuple[int, ...] = ()) -> Callable:
  """Makes a function run once per device; its results must not differ between devices.

  Args:
    function: pure, with a keyword `layout`; calls `own`, `meet` and so on.
    layout: of the run; None gives the function as it is.
    pools: places of the arguments that are an ImagePool of `place_pool`.
    rows: places of the arguments of which each device gets its part of axis 0. All others are the same everywhere.

  Returns:
    The function without `layout`, of positional arrays and static keywords.
  """
  if layout is None:
    return function
  images = P(AXIS) if layout.pool == 'sharded' else P()

  def mapped(*arguments, **options):
    specs = tuple(ImagePool(images, P(), P()) if i in pools else P(AXIS) if i in rows else P()
                  for i in range(len(arguments)))
    # Whether values differ between devices is not tracked: networks and inner loops of the user need not know of it.
    return jax.shard_map(lambda *a: function(*a, layout=layout, **options), mesh=layout.mesh, in_specs=specs,
                         out_specs=P(), check_vma=False)(*arguments)

  return mapped


def own(tree: Tree, layout: Layout | None) -> Tree:
  """Takes this device's part of axis 0 of each array; the last devices repeat the last row where it does not go even.

  Args:
    tree: of arrays [n, ...], the same on each device.
    layout: of the run.

  Returns:
    The tree of arrays [n / devices rounded up, ...].
  """
  if layout is None:
    return tree

  def part(x):
    per_device = -(-x.shape[0] // layout.size)
    places = jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)
    return x[jnp.minimum(places, x.shape[0] - 1)]

  return jax.tree.map(part, tree)


def own_images(images: jax.Array, layout: Layout | None) -> tuple[jax.Array, int]:
  """Takes this device's part of all images of a pool, for work that is done once per image.

  Args:
    images: [n, ...] of a pool, as this device holds them.
    layout: of the run.

  Returns:
    (those of this device, the number of images in all), for `everyone` to put together what is made of them.
  """
  if layout is not None and layout.pool == 'sharded':
    return images, len(images) * layout.size
  return own(images, layout), len(images)


def everyone(rows: jax.Array, total: int, layout: Layout | None) -> jax.Array:
  """Puts the rows of all devices together again: the inverse of `own`.

  Args:
    rows: [n, ...], those of this device.
    total: number of rows in all.
    layout: of the run.

  Returns:
    [total, ...], the same on each device.
  """
  return rows if layout is None else jax.lax.all_gather(rows, AXIS, tiled=True)[:total]


def meet(means: Tree, rows: jax.Array, layout: Layout | None) -> tuple[Tree, jax.Array]:
  """Averages over devices and puts rows together, in one sum over the devices of one vector.

  Args:
    means: floats; of each device over its own, equally many tasks.
    rows: int [n], one per task of this device, below 2^24 (they travel as floats).
    layout: of the run.

  Returns:
    (the means over all tasks; [n * devices], the rows of all tasks), the same on each device.
  """
  if layout is None:
    return means, rows
  mine = jnp.zeros((layout.size, *rows.shape), rows.dtype).at[jax.lax.axis_index(AXIS)].set(rows)
  vector, unravel = ravel_pytree((jax.tree.map(lambda x: x / layout.size, means), mine))
  means, every = unravel(jax.lax.psum(vector, AXIS))
  return means, every.reshape(-1)


def take(images: jax.Array, indices: jax.Array, layout: Layout | None) -> jax.Array:
  """Fetches the images that this device wants, from wherever they are.

  Where each device holds a part of the images, each says what it wants, all send what they have of it, and one
  reduce-scatter of bytes brings it.

  Args:
    images: [n, ...] of a pool, as this device holds them.
    indices: int [k], into all images of the pool; equally many on each device.
    layout: of the run.

  Returns:
    [k, ...].
  """
  if layout is None or layout.pool == 'replicated':
    # Indices are in range by construction; saying so spares a bounds check per element.
    return images.at[indices].get(mode='promise_in_bounds')
  wanted = jax.lax.all_gather(indices, AXIS, tiled=True) - jax.lax.axis_index(AXIS) * images.shape[0]
  here = (wanted >= 0) & (wanted < images.shape[0])
  found = images.at[jnp.where(here, wanted, 0)].get(mode='promise_in_bounds')
  found = jnp.where(here.reshape(-1, *[1] * (images.ndim - 1)), found, 0)
  return jax.lax.psum_scatter(found, AXIS, tiled=True)


# --- One program for all devices. ---

def spread(tree: Tree, layout: Layout | None) -> Tree:
  """Tells the compiler to lay axis 0 of each array over the devices.

  Args:
    tree: of arrays [n, ...], n a multiple of the devices.
    layout: of the run.

  Returns:
    The same tree.
  """
  return tree if layout is None else jax.lax.with_sharding_constraint(tree, NamedSharding(layout.mesh, P(AXIS)))


def take_spread(images: jax.Array, indices: jax.Array, layout: Layout | None) -> jax.Array:
  """Fetches images in a program for all devices; each gets an equal part of them.

  Args:
    images: [n, ...] of a pool of `place_pool`.
    indices: int [k], into all images of the pool, k a multiple of the devices.
    layout: of the run.

  Returns:
    [k, ...].
  """
  if layout is None:
    return images[indices]
  held = P(AXIS) if layout.pool == 'sharded' else P()
  return jax.shard_map(lambda i, n: take(i, n, layout), mesh=layout.mesh, in_specs=(held, P(AXIS)), out_specs=P(AXIS),
                       check_vma=False)(images, indices)
