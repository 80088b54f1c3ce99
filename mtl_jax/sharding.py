"""Several devices: the tasks of a step are spread over them, parameters are on each of them.

Meta-training and meta-test run once per device (`per_device`), each copy on its own tasks; what is
learned from them meets in one sum over the devices (`pmean_and_gather`). Pre-training is one
program over a batch that is spread (`constrain_batch`), so that batch norm sees all of it. The
functions take `layout=None` for one device, and leave everything as it is then.
"""
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mtl_jax.types import Array, ImagePool

AXIS = 'tasks'
Pool = Literal['replicated', 'sharded']

T = TypeVar('T')


class Layout(NamedTuple):
  """How a run lies on its devices."""
  mesh: Mesh                 # of one axis, AXIS
  pool: Pool = 'replicated'  # all images on each device, or a part of them ('sharded')

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.mesh.size

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of an array with a copy on each device."""
    return NamedSharding(self.mesh, P())


def make_layout(num: int | str | None = None, pool: str = 'replicated') -> Layout | None:
  """Chooses the devices of a run.

  Args:
    num: how many; 'all'; or None for one, or for all where the run has several processes.
    pool: 'replicated' or 'sharded'.

  Returns:
    A Layout, or None for one device.

  Raises:
    ValueError: there are not as many; a run of several processes does not use all; an unknown
      `pool`.
  """
  available, several = jax.devices(), jax.process_count() > 1
  if pool not in get_args(Pool):
    raise ValueError(f'expected pool to be one of {", ".join(get_args(Pool))}, got {pool!r}')
  num = num or ('all' if several else 1)
  if num != 'all' and not (str(num).isdecimal() and 1 <= int(num) <= len(available)):
    raise ValueError(f"expected devices to be 'all' or from 1 to {len(available)}, the "
                     f'{available[0].platform} devices there are, got {num}')
  count = len(available) if num == 'all' else int(num)
  if several and count != len(available):
    raise ValueError(f"expected devices to be 'all' or {len(available)}, those of all "
                     f'{jax.process_count()} processes, got {count}')
  if count == 1:
    return None
  mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])
  return Layout(mesh, 'sharded' if pool == 'sharded' else 'replicated')


def num_devices(layout: Layout | None) -> int:
  """Returns the number of devices of a layout.

  Args:
    layout: devices of the run; None for one device.
  """
  return 1 if layout is None else layout.size


def num_pool_parts(layout: Layout | None) -> int:
  """Returns the number of parts in which the images of a pool lie on the devices.

  Args:
    layout: devices of the run; None for one device.
  """
  return layout.size if layout is not None and layout.pool == 'sharded' else 1


def check_divisible(name: str, value: int, layout: Layout | None) -> None:
  """Refuses what cannot be spread evenly.

  Args:
    name: of the setting.
    value: of the setting.
    layout: devices of the run.

  Raises:
    ValueError: `value` is no multiple of the number of devices.
  """
  if layout is not None and value % layout.size:
    raise ValueError(f'expected {name} to be a multiple of the number of devices, {layout.size}, '
                     f'got {value}; choose another --{name} or --devices')


# --- One program per device: its tasks are its own, its results are those of all. ---

def per_device(function: Callable, layout: Layout | None, *, pools: tuple[int, ...] = (),
               rows: tuple[int, ...] = ()) -> Callable:
  """Maps a function over the devices; its results must not differ between them.

  Args:
    function: pure, with a keyword `layout`; calls `local_shard`, `pmean_and_gather` and so on.
    layout: devices of the run; None returns the function as it is.
    pools: places of the arguments that are an ImagePool of `placement.place_pool`.
    rows: places of the arguments of which each device gets its part of axis 0. All others are the
      same everywhere.

  Returns:
    The function without `layout`, of positional arrays and static keywords.
  """
  if layout is None:
    return function
  images = P(AXIS) if layout.pool == 'sharded' else P()
  pool = ImagePool(images, P(), P(), P())  # pyright: ignore[reportArgumentType]

  def mapped(*arguments, **options):
    specs = tuple(pool if i in pools else P(AXIS) if i in rows else P()
                  for i in range(len(arguments)))
    # Whether values differ between devices is not tracked (check_vma): networks and inner loops of
    # the user need not know of it.
    shard = jax.shard_map(lambda *a: function(*a, layout=layout, **options), mesh=layout.mesh,
                          in_specs=specs, out_specs=P(), check_vma=False)
    return shard(*arguments)

  return mapped


def local_shard(tree: T, layout: Layout | None) -> T:
  """Returns this device's part of axis 0 of each array.

  Args:
    tree: of arrays [n, ...], the same on each device.
    layout: devices of the run.

  Returns:
    The tree of arrays [n / devices rounded up, ...]; where n does not divide evenly, the last
    devices repeat the last row.
  """
  if layout is None:
    return tree

  def part(x):
    per_device = -(-x.shape[0] // layout.size)
    places = jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)
    return x[jnp.minimum(places, x.shape[0] - 1)]

  return jax.tree.map(part, tree)


def local_images(images: Array, layout: Layout | None) -> tuple[Array, int]:
  """Returns this device's part of all images of a pool, for work done once per image.

  Args:
    images: [n, ...] of a pool, as this device holds them.
    layout: devices of the run.

  Returns:
    (those of this device, the number of images in all), for `all_gather_rows` to put together what
    is made of them.
  """
  if layout is not None and layout.pool == 'sharded':
    return images, len(images) * layout.size
  return local_shard(images, layout), len(images)


def all_gather_rows(rows: jax.Array, total: int, layout: Layout | None) -> jax.Array:
  """Joins the rows of all devices: the inverse of `local_shard`.

  Args:
    rows: [n, ...], those of this device.
    total: number of rows in all.
    layout: devices of the run.

  Returns:
    [total, ...], the same on each device.
  """
  return rows if layout is None else jax.lax.all_gather(rows, AXIS, tiled=True)[:total]


def pmean_and_gather(means: T, rows: jax.Array, layout: Layout | None) -> tuple[T, jax.Array]:
  """Computes the pmean of `means` and the all-gather of `rows`, fused into one psum of one vector.

  Args:
    means: floats; of each device over its own, equally many tasks.
    rows: int [n], one per task of this device, below 2^24 (they travel as floats).
    layout: devices of the run.

  Returns:
    (the means over all tasks; [n * devices], the rows of all tasks), the same on each device.
  """
  if layout is None:
    return means, rows
  slots = jnp.zeros((layout.size, *rows.shape), rows.dtype)
  slots = slots.at[jax.lax.axis_index(AXIS)].set(rows)
  vector, unravel = ravel_pytree((jax.tree.map(lambda x: x / layout.size, means), slots))
  means, every = unravel(jax.lax.psum(vector, AXIS))
  return means, every.reshape(-1)


def take(images: Array, indices: jax.Array, layout: Layout | None) -> jax.Array:
  """Fetches the images that this device wants, from whichever device holds them.

  Where each device holds a part of the images, each says what it wants, all send what they have of
  it, and one reduce-scatter of bytes brings it.

  Args:
    images: [n, ...] of a pool, as this device holds them.
    indices: int [k], into all images of the pool; equally many on each device.
    layout: devices of the run.

  Returns:
    [k, ...].
  """
  if layout is None or layout.pool == 'replicated':
    return _take_local(images, indices)
  first = jax.lax.axis_index(AXIS) * images.shape[0]
  wanted = jax.lax.all_gather(indices, AXIS, tiled=True) - first
  here = (wanted >= 0) & (wanted < images.shape[0])
  found = _take_local(images, jnp.where(here, wanted, 0))
  found = jnp.where(here.reshape(-1, *[1] * (images.ndim - 1)), found, 0)
  return jax.lax.psum_scatter(found, AXIS, tiled=True)


def _take_local(images, indices):
  # Indices are in range by construction; saying so spares a bounds check per element.
  return jnp.asarray(images).at[indices].get(mode='promise_in_bounds')


# --- One program for all devices. ---

def constrain_batch(tree: T, layout: Layout | None) -> T:
  """Lays axis 0 of each array over the devices, by a constraint for the compiler.

  Args:
    tree: of arrays [n, ...], n a multiple of the devices.
    layout: devices of the run.

  Returns:
    The same tree.
  """
  if layout is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(layout.mesh, P(AXIS)))


def take_batch(images: Array, indices: jax.Array, layout: Layout | None) -> jax.Array:
  """Fetches images in a program for all devices; each gets an equal part of them.

  Args:
    images: [n, ...] of a pool of `placement.place_pool`.
    indices: int [k], into all images of the pool, k a multiple of the devices.
    layout: devices of the run.

  Returns:
    [k, ...].
  """
  if layout is None:
    return jnp.asarray(images)[indices]
  held = P(AXIS) if layout.pool == 'sharded' else P()
  fetch = jax.shard_map(lambda i, n: take(i, n, layout), mesh=layout.mesh,
                        in_specs=(held, P(AXIS)), out_specs=P(AXIS), check_vma=False)
  return fetch(images, indices)
