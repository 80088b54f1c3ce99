"""Θ, the deep feature extractors: `create(name, image_shape)` gives a `Backbone` of pure functions.

Networks are linen modules, one file per family, and stay private to this folder; everything outside sees trees and
functions. A network of your own comes in by `from_linen`, `from_nnx` or `from_functions`.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from mtl_jax.backbones.adapters import from_functions, from_linen, from_nnx
from mtl_jax.backbones.basic_resnets import ResNet18, ResNet25
from mtl_jax.backbones.conv4 import Conv4
from mtl_jax.backbones.readout import NORMS, read_out
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.backbones.resnet12_wide import ResNet12Wide
from mtl_jax.backbones.wide_resnet import WideResNet28
from mtl_jax.types import Backbone

__all__ = ['NAMES', 'NORMS', 'create', 'from_functions', 'from_linen', 'from_nnx', 'read_out', 'register']


class _Network(NamedTuple):
  module: type
  last_block: str
  unscaled: tuple[str, ...] = ()


# Scale and shift leave the shortcuts of ResNet-12 alone, as the authors' TensorFlow code does; in the networks of
# PyTorch's form they act on every convolution, stem and shortcuts too, as the authors' PyTorch code does.
_NETWORKS = {
    'conv4': _Network(Conv4, 'block4'),
    'resnet12': _Network(ResNet12, 'block4', ('shortcut',)),
    'resnet12_wide': _Network(ResNet12Wide, 'block4'),
    'resnet18': _Network(ResNet18, 'stage4'),
    'resnet25': _Network(ResNet25, 'stage3'),
    'wrn28_10': _Network(WideResNet28, 'stage3'),
}
NAMES = tuple(sorted(_NETWORKS))
_REGISTERED: dict[str, Callable[[tuple[int, int, int]], Backbone]] = {}


def register(name: str, make: Callable[[tuple[int, int, int]], Backbone]) -> None:
  """Makes a network of your own known by name, so that whole runs take it: `mtl_jax.runs` keeps names in its files.

  Args:
    name: any that is not taken; register it again under the same name before a run is resumed or tested.
    make: image shape (H, W, C) -> Backbone, as `from_linen`, `from_nnx` and `from_functions` give it.

  Raises:
    ValueError: the name is taken by another network.
  """
  if name in _NETWORKS or _REGISTERED.get(name, make) is not make:
    raise ValueError(f'expected a name for the backbone other than {", ".join([*NAMES, *_REGISTERED])}, got {name!r}')
  _REGISTERED[name] = make


def create(name: str, image_shape: tuple[int, int, int], *, width: int | None = None,
           norm_affine: bool | None = None, norm_epsilon: float | None = None,
           compute_dtype: str = 'float32') -> Backbone:
  """Makes one of the built-in backbones, or one that was registered (which takes no further options).

  Args:
    name: one of `NAMES`, or as registered.
    image_shape: (H, W, C) of its images, in pixels; H and W from 16 up.
    width: channels of the first block, for small tests; None for the published width.
    norm_affine: whether batch norm has a scale and an offset; None as published, which is without for resnet12 (the
      authors' TensorFlow code) and with for the others.
    norm_epsilon: added to the variance in batch norm; None for 1e-5 (the authors' TensorFlow code has 1e-3).
    compute_dtype: 'float32' or 'bfloat16', of convolutions; parameters, batch norm and features stay float32.

  Returns:
    A Backbone.

  Raises:
    ValueError: an unknown name or dtype, an epsilon not above 0, or an image too small for four halvings.
  """
  if name in _REGISTERED:
    return _REGISTERED[name](image_shape)
  if name not in _NETWORKS:
    raise ValueError(f'expected backbone to be one of {", ".join([*NAMES, *_REGISTERED])}, got {name!r}')
  if compute_dtype not in ('float32', 'bfloat16'):
    raise ValueError(f"expected compute_dtype 'float32' or 'bfloat16', got {compute_dtype!r}")
  if min(image_shape[:2]) < 16:
    raise ValueError(f'expected images of at least 16 pixels for {name}, got {image_shape[0]}x{image_shape[1]}')
  network = _NETWORKS[name]
  if norm_epsilon is not None and not norm_epsilon > 0:
    raise ValueError(f'expected norm_epsilon above 0, got {norm_epsilon}')
  options = {'width': width, 'norm_affine': norm_affine, 'norm_epsilon': norm_epsilon}
  given = {option: value for option, value in options.items() if value is not None}
  return from_linen(network.module(dtype=jnp.dtype(compute_dtype), **given), image_shape,
                    last_block=network.last_block, unscaled=network.unscaled)
