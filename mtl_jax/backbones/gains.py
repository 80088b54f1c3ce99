"""A gain and an offset on what the layers of a linen network return.

Φ_S per channel, put there, needs no gradient of a kernel, and tasks that each have gains of their
own still share every kernel, so that all of them stay one convolution.
"""
import contextlib
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.types import Tree


def find(params: Tree) -> dict[tuple[str, ...], Tree]:
  """Returns path -> layer, of the layers that hold a `gain` and an `offset`.

  Args:
    params: nested dict of arrays.
  """
  found = {}
  for name, child in params.items():
    if isinstance(child, Mapping):
      if 'gain' in child and 'offset' in child:
        found[(name,)] = child
      found |= {(name, *path): layer for path, layer in find(child).items()}
  return found


@contextlib.contextmanager
def applied(params: Tree) -> Iterator[None]:
  """Within this context, linen modules multiply what they return by their gain, and add the offset.

      y <- gain y + offset

  Args:
    params: of the network; where no layer holds a gain, nothing is changed.
  """
  layers = find(params)
  if not layers:
    yield
    return

  def scale(next_function, arguments, keywords, context):
    y = next_function(*arguments, **keywords)
    layer = layers.get(context.module.path) if context.method_name == '__call__' else None
    if layer is None:
      return y
    gain, offset = (jnp.expand_dims(layer[name], tuple(range(y.ndim - layer[name].ndim)))
                    for name in ('gain', 'offset'))
    return (y * gain + offset).astype(y.dtype)

  with nn.intercept_methods(scale):
    yield
