"""Parts of a network, as nested dicts of its arrays: blocks, normalisation, gains; and their union.
"""
from collections.abc import Mapping

from mtl_jax import scale_shift
from mtl_jax.scale_shift import Path
from mtl_jax.types import Backbone, Tree


def within(params: Tree, blocks: tuple[Path, ...] | None) -> Tree:
  """Selects whole blocks of a network.

  Args:
    params: nested dict of arrays.
    blocks: their paths; None for all of the network.

  Returns:
    A nested dict of the same arrays.
  """
  if blocks is None:
    return params
  selected = {}
  for path in blocks:
    child = params
    for name in path:
      child = child[name]
    for name in reversed(path):
      child = {name: child}
    selected = merge(selected, child)
  return selected


def merge(tree: Tree, over: Tree) -> Tree:
  """Replaces leaves of a tree by those of another.

  Args:
    tree: nested dict.
    over: nested dict, whose leaves are taken in place of those of `tree`, or added.

  Returns:
    A nested dict.
  """
  merged = dict(tree)
  for name, child in over.items():
    is_tree = isinstance(child, Mapping)
    merged[name] = merge(tree.get(name, {}), child) if is_tree else child
  return merged


def affine(tree: Tree) -> Tree:
  """Selects the affine parameters of normalisation.

  Args:
    tree: nested dict of arrays.

  Returns:
    A nested dict of the same arrays.
  """
  if _is_norm(tree):
    return tree
  parts = {name: affine(child) for name, child in tree.items() if isinstance(child, Mapping)}
  return {name: part for name, part in parts.items() if part}


def without_affine(tree: Tree) -> Tree:
  """Selects all but the affine parameters of normalisation.

  Args:
    tree: nested dict of arrays.

  Returns:
    A nested dict of the same arrays.
  """
  if _is_norm(tree):
    return {}
  parts = {name: without_affine(child) if isinstance(child, Mapping) else child
           for name, child in tree.items()}
  return {name: part for name, part in parts.items() if not isinstance(part, Mapping) or part}


def film_part(params: Tree, backbone: Backbone) -> Tree:
  """Selects what the inner loop 'film' adapts.

  Args:
    params: of the network, scaled and shifted.
    backbone: its scaled layers are read.

  Returns:
    A nested dict: the gains and offsets of Φ_S per channel where there are some; else the affine
    parameters of normalisation; else gains of 1 and offsets of 0 for every scaled layer.

  Raises:
    ValueError: there is neither, and the network cannot hold gains.
  """
  found = _gains(params) or affine(params)
  if found:
    return found
  if not backbone.scales_outputs:
    raise ValueError('cannot adapt with adapts=film: expected a backbone with affine parameters of '
                     'normalisation, or a linen module, got neither')
  start = scale_shift.init(params, backbone.scaled_layers, per='channel', on_outputs=True)
  return _gains(scale_shift.modulate(params, start))


def _gains(tree: Tree) -> Tree:
  found = {name: tree[name] for name in ('gain', 'offset') if name in tree}
  parts = {name: _gains(child) for name, child in tree.items() if isinstance(child, Mapping)}
  return found | {name: part for name, part in parts.items() if part}


def _is_norm(layer: Tree) -> bool:
  """Whether a dict is a batch or layer norm: arrays, `scale` of one dimension, and no `kernel`."""
  holds_layers = any(isinstance(child, Mapping) for child in layer.values())
  is_vector = getattr(layer.get('scale'), 'ndim', 0) == 1
  return is_vector and not holds_layers and 'kernel' not in layer
