"""A gain and an offset on what the layers of a linen network return.

Φ_S per channel, put there, needs no gradient of a kernel, and tasks that each have gains of their
own still share every kernel, so that all of them stay one convolution.
"""
import contextlib
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.types import BackboneVars, Tree


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


def folded(variables: BackboneVars) -> BackboneVars:
  """Takes gains and offsets into the weights, for files and programs that know of none.

      gain (W x + b) + offset = (gain W) x + (gain b + offset)

  Without a bias, the offset moves the mean of the batch norm behind the layer, which is named after
  it: `conv1` and `bn1`, `stem` and `stem_bn`. That is exact with running statistics; those of a
  batch take an offset out again.

  Args:
    variables: of a network, as `learnable.network` returns it.

  Returns:
    The same network without gains; other leaves as they are.

  Raises:
    ValueError: a layer has neither a bias nor a batch norm that could take its offset.
  """
  params, batch_stats = _folded(variables.params, variables.batch_stats, ())
  return BackboneVars(params, batch_stats)


def _folded(params, batch_stats, path):
  params, batch_stats = dict(params), dict(batch_stats)
  for name, child in params.items():
    if not isinstance(child, Mapping):
      continue
    if not ('gain' in child and 'offset' in child):
      params[name], inner = _folded(child, batch_stats.get(name, {}), (*path, name))
      batch_stats |= {name: inner} if inner else {}
      continue
    layer = {key: leaf for key, leaf in child.items() if key not in ('gain', 'offset')}
    kernel, gain, offset = layer['kernel'], child['gain'], child['offset']
    layer['kernel'] = kernel * jnp.expand_dims(gain, tuple(range(kernel.ndim - gain.ndim)))
    params[name] = layer
    if 'bias' in layer:
      layer['bias'] = gain * layer['bias'] + offset
      continue
    norm = next((norm for norm in (f'{name}_bn', name.replace('conv', 'bn'))
                 if 'mean' in batch_stats.get(norm, {})), None)
    if norm is None:
      raise ValueError(f'{"/".join((*path, name))} has no bias, and no batch norm behind it, that '
                       'could take its offset')
    batch_stats[norm] = {**batch_stats[norm], 'mean': batch_stats[norm]['mean'] - offset}
  return params, batch_stats
