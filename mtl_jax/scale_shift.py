"""Φ_S, the scale and shift of a frozen network's neurons: the first idea of meta-transfer learning.

A function from tree to tree in front of an unmodified network:
`features(modulate(params, scale_shift), images)`. It works on any parameter tree whose layers are
dicts with a `kernel` and perhaps a `bias`.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax.configs import ScalePer
from mtl_jax.types import Tree

Path = tuple[str, ...]


def layer_paths(params: Tree) -> tuple[Path, ...]:
  """Lists the paths of all layers: the dicts that hold a `kernel`.

  Args:
    params: nested dict of arrays.

  Returns:
    One tuple of keys per layer, in the order of the tree.

  >>> layer_paths({'conv1': {'kernel': jnp.ones((3, 3, 1, 2))}, 'bn1': {'scale': jnp.ones(2)}})
  (('conv1',),)
  """
  if not isinstance(params, Mapping):
    return ()
  below = tuple((name, *path) for name, child in params.items() for path in layer_paths(child))
  return (((),) if 'kernel' in params else ()) + below


def init(params: Tree, layers: tuple[Path, ...] | None = None, *, replace_bias: bool = False,
         per: ScalePer = 'slice', on_outputs: bool = False) -> Tree:
  """Makes the identity Φ_S: every scale 1, every shift 0.

  Args:
    params: nested dict of arrays, the network that will be modulated.
    layers: paths of the layers to scale and shift; None for all of them, () for none.
    replace_bias: shifts start at minus the bias, which cancels it: the shift *replaces* the bias.
    per: 'slice', one scale for each pair of an input and an output channel (the paper's); or
      'channel', one for each output channel, which is light on 1x1 and dense kernels too.
    on_outputs: of 'channel': whether the network applies gains to what its layers return
      (`Backbone.scales_outputs`); layers without a bias then have a shift too, and no gradient of a
      kernel is needed.

  Returns:
    A nested dict with, at each of those paths, `scale` of the kernel's shape with extents of 1
    where it does not vary (slice: convolution [1, 1, c_in, c_out], dense [c_in, c_out]; channel:
    [1, 1, 1, c_out], [1, c_out]) or, `on_outputs`, `gain` [c_out]; and `shift` [c_out] where the
    layer has a bias or a gain.

  Raises:
    ValueError: a path does not name a layer with a kernel.

  References: Sun et al., CVPR 2019, section 4.2, equations 3-5; channel: Lian et al., NeurIPS 2022,
    arXiv 2210.08823.
  """
  tree: dict[str, Any] = {}
  for path in layer_paths(params) if layers is None else layers:
    layer, axes = _layer_at(params, path)
    kernel, outputs = layer['kernel'], layer['kernel'].shape[axes.first_output:]
    has_gain = per == 'channel' and on_outputs
    leaf = ({'gain': jnp.ones(outputs, kernel.dtype)} if has_gain else
            {'scale': jnp.ones(_scale_shape(kernel, axes, per), kernel.dtype)})
    if 'bias' in layer:
      leaf['shift'] = -layer['bias'] if replace_bias else jnp.zeros_like(layer['bias'])
    elif has_gain:
      leaf['shift'] = jnp.zeros(outputs, kernel.dtype)
    _insert(tree, path, leaf)
  return tree


def modulate(params: Tree, scale_shift: Tree) -> Tree:
  """Applies Φ_S to a network: W * Φ_S1 and b + Φ_S2, layer by layer.

      SS(x; W, b; Φ_S) = conv(x, W * Φ_S1) + (b + Φ_S2)

  With a gain in place of the scale the layer keeps its kernel, and holds a `gain` and an `offset`
  that the network applies to what it returns, which is the same function:

      Φ_S1 (conv(x, W) + b) + b (1 - Φ_S1) + Φ_S2

  Args:
    params: nested dict of arrays; never changed.
    scale_shift: nested dict as made by `init` for this tree.

  Returns:
    A tree like `params`; leaves that Φ_S does not name are the same arrays. At the initial Φ_S all
    values are bitwise those of `params`, and gains are 1, offsets 0.

  Raises:
    ValueError: Φ_S names a layer that `params` has not, or has another shape.
  """
  return _modulate(params, scale_shift, '', {})


def _modulate(params, scale_shift, name, parent):
  if any(key in scale_shift and not isinstance(scale_shift[key], Mapping)
         for key in ('scale', 'gain')):
    return _modulate_layer(params, scale_shift, _axes(params, name, parent))
  missing = sorted(set(scale_shift) - set(params))
  if missing:
    raise ValueError(f'scale_shift names the layers {missing}, expected some of {sorted(params)}')
  changed = {child: _modulate(params[child], scale_shift[child], child, params)
             for child in scale_shift}
  return {**params, **changed}


def count(tree: Tree) -> int:
  """Counts the parameters of a tree: the sum of the sizes of its leaves.

  Args:
    tree: of arrays.
  """
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


class _Axes(NamedTuple):
  """Which axes of a kernel are which: places first, then inputs, then outputs."""
  first_input: int
  first_output: int


def _axes(layer: Tree, name: str, parent: Tree) -> _Axes:
  """Finds the inputs and outputs of a kernel.

  A kernel is [places ..., c_in, c_out], but for those of an attention in flax: [d, heads, d/heads]
  of query, key and value, [heads, d/heads, d] of what joins the heads.
  """
  ndim, bias = layer['kernel'].ndim, layer.get('bias')
  if ndim > 2 and {'query', 'key', 'value'} <= set(parent):
    return _Axes(0, ndim - 1 if name == 'out' else 1)
  if bias is not None and bias.ndim > 1:  # a dense layer to several axes
    return _Axes(0, ndim - bias.ndim)
  return _Axes(max(ndim - 2, 0), ndim - 1)


def _scale_shape(kernel, axes, per):
  # A scale per slice (in, out) of a kernel, the same at all of its places; or one per output.
  first = axes.first_input if per == 'slice' else axes.first_output
  return (1,) * first + kernel.shape[first:]


def _modulate_layer(layer, leaf, axes):
  unknown = sorted(set(leaf) - {'scale', 'shift', 'gain'})
  if unknown or {'scale', 'gain'} <= set(leaf):
    raise ValueError('expected a scale or a gain, and perhaps a shift, of a layer, got '
                     f'{", ".join(sorted(leaf))}')
  _check_shift(layer, leaf, axes)
  kernel = layer['kernel']
  if 'gain' in leaf:
    gain = leaf['gain']
    if gain.shape != kernel.shape[axes.first_output:]:
      raise ValueError(f'expected a gain of shape {kernel.shape[axes.first_output:]} for a kernel '
                       f'{kernel.shape}, got {gain.shape}')
    offset = layer['bias'] * (1 - gain) if 'bias' in layer else 0
    return {**layer, 'gain': gain, 'offset': offset + leaf['shift']}
  scale, shapes = leaf['scale'], [_scale_shape(kernel, axes, per) for per in ('slice', 'channel')]
  if scale.shape not in shapes:
    raise ValueError(f'expected a scale of shape {shapes[0]} (per slice) or {shapes[1]} (per '
                     f'channel) for a kernel {kernel.shape}, got {scale.shape}')
  if scale.shape == shapes[0]:
    scale = _at_all_places(scale, kernel.shape[:axes.first_input])
  changed = {**layer, 'kernel': kernel * scale}
  return changed | {'bias': layer['bias'] + leaf['shift']} if 'shift' in leaf else changed


def _check_shift(layer, leaf, axes):
  if 'shift' not in leaf:
    return
  shape = leaf['shift'].shape
  expected = layer['kernel'].shape[axes.first_output:]
  if ('bias' not in layer and 'gain' not in leaf) or shape != expected:
    found = f'a bias of shape {layer["bias"].shape}' if 'bias' in layer else 'no bias'
    raise ValueError(f'expected a shift only for a bias of its shape, got a shift of shape {shape} '
                     f'for {found}')


def _at_all_places(scale, places):
  # Concatenated, not broadcast: the gradient is then a sum of slices, where that of a broadcast is
  # a reduction, which takes 20 times as long on a CPU.
  for axis, extent in enumerate(places):
    scale = jnp.concatenate([scale] * extent, axis)
  return scale


def _layer_at(tree, path):
  where, parent, name = '/'.join(path), {}, ''
  for name in path:
    if not isinstance(tree, Mapping) or name not in tree:
      raise ValueError(f'expected a layer at {where}, got none there')
    parent, tree = tree, tree[name]
  if not isinstance(tree, Mapping) or 'kernel' not in tree:
    raise ValueError(f'expected a layer with a kernel at {where}, got none there')
  return tree, _axes(tree, name, parent)


def _insert(tree, path, leaf):
  if not path:
    tree.update(leaf)
    return
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = leaf
