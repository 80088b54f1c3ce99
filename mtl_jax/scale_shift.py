"""Φ_S, the scale and shift of a frozen network's neurons: the first idea of meta-transfer learning.

A function from tree to tree in front of an unmodified network:
`features(modulate(params, scale_shift), images)`. It works on any parameter tree whose layers are
dicts with a `kernel` and perhaps a `bias`.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp

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


def init(params: Tree, layers: tuple[Path, ...] | None = None, *,
         replace_bias: bool = False) -> Tree:
  """Makes the identity Φ_S: every scale 1, every shift 0.

  Args:
    params: nested dict of arrays, the network that will be modulated.
    layers: paths of the layers to scale and shift; None for all of them, () for none.
    replace_bias: shifts start at minus the bias, which cancels it: the shift *replaces* the bias.

  Returns:
    A nested dict with, at each of those paths, `scale` of the kernel's shape with spatial extents 1
    (convolution [1, 1, c_in, c_out], dense [c_in, c_out]) and, where the layer has a bias, `shift`
    [c_out].

  Raises:
    ValueError: a path does not name a layer with a kernel.

  References: Sun et al., CVPR 2019, section 4.2, equations 3-5.
  """
  tree = {}
  for path in layer_paths(params) if layers is None else layers:
    layer = _layer_at(params, path)
    kernel = layer['kernel']
    leaf = {'scale': jnp.ones(_scale_shape(kernel), kernel.dtype)}
    if 'bias' in layer:
      leaf['shift'] = -layer['bias'] if replace_bias else jnp.zeros_like(layer['bias'])
    _insert(tree, path, leaf)
  return tree


def modulate(params: Tree, scale_shift: Tree) -> Tree:
  """Applies Φ_S to a network: W * Φ_S1 and b + Φ_S2, layer by layer.

      SS(x; W, b; Φ_S) = conv(x, W * Φ_S1) + (b + Φ_S2)

  Args:
    params: nested dict of arrays; never changed.
    scale_shift: nested dict as made by `init` for this tree.

  Returns:
    A tree like `params`; leaves that Φ_S does not name are the same arrays. At the initial Φ_S all
    values are bitwise those of `params`.

  Raises:
    ValueError: Φ_S names a layer that `params` has not, or has another shape.
  """
  if 'scale' in scale_shift and not isinstance(scale_shift['scale'], dict):
    return _modulate_layer(params, scale_shift)
  missing = sorted(set(scale_shift) - set(params))
  if missing:
    raise ValueError(f'scale_shift names the layers {missing}, expected some of {sorted(params)}')
  changed = {name: modulate(params[name], scale_shift[name]) for name in scale_shift}
  return {**params, **changed}


def count(tree: Tree) -> int:
  """Counts the parameters of a tree: the sum of the sizes of its leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _scale_shape(kernel):
  # One scalar per slice (in, out) of a kernel, the same at all of its pixels.
  return (1,) * (kernel.ndim - 2) + kernel.shape[-2:]


def _modulate_layer(layer, leaf):
  kernel, scale = layer['kernel'], leaf['scale']
  if scale.shape != _scale_shape(kernel):
    raise ValueError(f'expected a scale of shape {_scale_shape(kernel)} for a kernel '
                     f'{kernel.shape}, got {scale.shape}')
  changed = {**layer, 'kernel': kernel * _at_all_pixels(scale, kernel.shape[:-2])}
  if 'shift' in leaf:
    shape = leaf['shift'].shape
    if 'bias' not in layer or layer['bias'].shape != shape:
      found = f'a bias of shape {layer["bias"].shape}' if 'bias' in layer else 'no bias'
      raise ValueError(f'expected a shift only for a bias of its shape, got a shift of shape '
                       f'{shape} for {found}')
    changed['bias'] = layer['bias'] + leaf['shift']
  return changed


def _at_all_pixels(scale, spatial):
  # Concatenated, not broadcast: the gradient is then a sum of slices, where that of a broadcast is
  # a reduction, which takes 20 times as long on a CPU.
  for axis, extent in enumerate(spatial):
    scale = jnp.concatenate([scale] * extent, axis)
  return scale


def _layer_at(tree, path):
  where = '/'.join(path)
  for name in path:
    if not isinstance(tree, Mapping) or name not in tree:
      raise ValueError(f'expected a layer at {where}, got none there')
    tree = tree[name]
  if not isinstance(tree, Mapping) or 'kernel' not in tree:
    raise ValueError(f'expected a layer with a kernel at {where}, got none there')
  return tree


def _insert(tree, path, leaf):
  if not path:
    tree.update(leaf)
    return
  for name in path[:-1]:
    tree = tree.setdefault(name, {})
  tree[path[-1]] = leaf
