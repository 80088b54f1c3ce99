"""A linen network in two parts, cut where its last block is called.

Flax can intercept the call of a submodule: the lower part keeps the maps that enter the block, and
the upper part replaces them. What one part does not need is still traced, on dummy values, and
dropped by the compiler.
"""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.types import Array, BackboneVars, Cut


def before_block(apply: Callable[..., Any], path: tuple[str, ...],
                 image_shape: tuple[int, ...]) -> Cut:
  """Returns the network below and above the entry of a block; batch norms are in running mode.

  The parts equal the network unless a path leads around the block
  (`execution.frozen_prefix.is_exact` finds out).

  Args:
    apply: (backbone_vars, images, batch_stats_mode) -> (features, batch_stats), by a linen module.
    path: names of the submodule, from the top; it takes the maps as its first argument.
    image_shape: (H, W, C).

  Returns:
    A Cut.
  """
  def is_entry(context):
    return context.module.path == path and context.method_name == '__call__'

  def below(backbone_vars: BackboneVars, images: Array) -> jax.Array:
    seen = []

    def keep_input(next_function, arguments, keywords, context):
      if is_entry(context):
        seen.append(arguments[0])
      return next_function(*arguments, **keywords)

    with nn.intercept_methods(keep_input):
      apply(backbone_vars, images, 'running')
    return seen[0]

  def last(backbone_vars: BackboneVars, maps: Array) -> jax.Array:
    def replace_input(next_function, arguments, keywords, context):
      if is_entry(context):
        arguments = (maps, *arguments[1:])
      return next_function(*arguments, **keywords)

    dummy_images = jnp.zeros((maps.shape[0], *image_shape))
    with nn.intercept_methods(replace_input):
      features, _ = apply(backbone_vars, dummy_images, 'running')
    return features.astype(jnp.promote_types(features.dtype, jnp.float32))

  return Cut(below, last)
