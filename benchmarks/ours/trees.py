"""Between the flat files of README.md and the trees and networks of this library."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import backbones
from mtl_jax.backbones.basic_resnets import ResNet25
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.types import Array, Backbone, Tree

_FIRST_KERNELS = {'resnet12': 'block1/conv1/kernel', 'resnet25': 'stage1/block1/conv1/kernel'}


def nest(arrays: dict[str, np.ndarray]) -> Tree:
  """Converts names with slashes to nested dicts.

  Args:
    arrays: 'block1/conv1/kernel' -> array.

  Returns:
    {'block1': {'conv1': {'kernel': array}}}.
  """
  tree = {}
  for name, array in arrays.items():
    *parents, last = name.split('/')
    functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = array
  return tree


def flat(tree: Tree) -> dict[str, np.ndarray]:
  """Converts a tree to names with slashes: the inverse of `nest`.

  Args:
    tree: of arrays.

  Returns:
    Name with slashes -> NumPy array.
  """
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in leaves}


def write_gradients(path: str, loss: Array, gradients: Tree) -> float:
  """Writes loss and gradients.

  Args:
    path: of an npz file.
    loss: scalar.
    gradients: tree of arrays.

  Returns:
    The loss.
  """
  np.savez(path, loss=np.asarray(loss), **flat(gradients))
  return float(loss)


def backbone_of(network: str, arrays: dict[str, np.ndarray], image_shape: tuple[int, int, int],
                dtype: str, norm_epsilon: float | None) -> Backbone:
  """Makes the network that an inputs file has the weights of.

  Args:
    network: 'resnet12' or 'resnet25'.
    arrays: of the file; the width is that of its first kernel.
    image_shape: (H, W, C).
    dtype: 'float32', 'bfloat16', or 'float64', to compare gradients.
    norm_epsilon: of batch norm; None for the library's own.

  Returns:
    A Backbone.

  Raises:
    ValueError: an unknown network.
  """
  if network not in _FIRST_KERNELS:
    raise ValueError(f'expected network to be one of {", ".join(_FIRST_KERNELS)}, '
                     f'got {network!r}')
  width = arrays[_FIRST_KERNELS[network]].shape[-1]
  return make_backbone(network, image_shape, width, dtype, norm_epsilon)


def make_backbone(network: str, image_shape: tuple[int, int, int], width: int | None, dtype: str,
                  norm_epsilon: float | None = None) -> Backbone:
  """Makes a network, in float64 too, which the library itself does not offer.

  Args:
    network: any of the library's; in float64 'resnet12' or 'resnet25'.
    image_shape: (H, W, C).
    width: channels of the first block; None as published.
    dtype: 'float32', 'bfloat16' or 'float64'.
    norm_epsilon: of batch norm; None for the library's own.

  Returns:
    A Backbone, with its twin by patches.

  Raises:
    ValueError: a network that is not known, or not in float64.
  """
  # Users have no use for float64, so `create` refuses it; comparisons need it.
  if dtype != 'float64':
    return backbones.create(network, image_shape, width=width, norm_epsilon=norm_epsilon,
                            compute_dtype=dtype)
  if network not in _FIRST_KERNELS:
    raise ValueError(f'expected network in float64 to be one of {", ".join(_FIRST_KERNELS)}, '
                     f'got {network!r}')
  options = {'dtype': jnp.float64, 'norm_epsilon': norm_epsilon or 1e-5}
  options |= {'width': width} if width else {}
  if network == 'resnet12':
    module, parts = ResNet12(**options), {'last_block': 'block4', 'unscaled': ('shortcut',)}
  else:
    module, parts = ResNet25(**options), {'last_block': 'stage3'}
  twin = module.clone(conv=backbones.conv_by_patches)
  return backbones.from_linen(module, image_shape, by_patches=twin, **parts)
