"""Θ, the deep feature extractors: `create(name, image_shape)` returns a `Backbone`.

Networks are linen modules, one file per family, and stay private to this folder; everything
outside sees trees and functions. A network of your own comes in by `from_linen`, `from_nnx` or
`from_functions`.
"""
import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones.adapters import (
    ImageShape,
    from_functions,
    from_linen,
    from_nnx,
    with_twin,
)
from mtl_jax.backbones.basic_resnets import ResNet18, ResNet25
from mtl_jax.backbones.conv4 import Conv4
from mtl_jax.backbones.layers import conv_by_patches
from mtl_jax.backbones.readout import NORMS, Norm, read_out
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.backbones.resnet12_wide import ResNet12Wide
from mtl_jax.backbones.wide_resnet import WideResNet28
from mtl_jax.types import Backbone

__all__ = ['COMPUTE_DTYPES', 'NAMES', 'NORMS', 'ComputeDtype', 'ImageShape', 'Norm',
           'conv_by_patches', 'create', 'from_functions', 'from_linen', 'from_nnx', 'read_out',
           'register']

ComputeDtype = Literal['float32', 'bfloat16']
COMPUTE_DTYPES = typing.get_args(ComputeDtype)
_MIN_SIZE = 16  # pixels; four halvings then leave one


class _Network(NamedTuple):
  """A built-in network, with the layers that count as its last block or are not scaled."""
  module: Callable[..., nn.Module]
  last_block: str
  unscaled: tuple[str, ...] = ()


# Scale and shift leave the shortcuts of ResNet-12 alone, as the authors' TensorFlow code does; in
# the networks of PyTorch's form they act on every convolution, stem and shortcuts too, as the
# authors' PyTorch code does.
_NETWORKS = {
    'conv4': _Network(Conv4, 'block4'),
    'resnet12': _Network(ResNet12, 'block4', ('shortcut',)),
    'resnet12_wide': _Network(ResNet12Wide, 'block4'),
    'resnet18': _Network(ResNet18, 'stage4'),
    'resnet25': _Network(ResNet25, 'stage3'),
    'wrn28_10': _Network(WideResNet28, 'stage3'),
}
NAMES = tuple(sorted(_NETWORKS))
_REGISTERED: dict[str, Callable[[ImageShape], Backbone]] = {}


def register(name: str, make: Callable[[ImageShape], Backbone]) -> None:
  """Registers a network of your own under a name, by which whole runs take it.

  A run keeps the name in its settings; register the network again before the run is resumed or
  tested.

  Args:
    name: any that is not taken.
    make: image shape (H, W, C) -> Backbone, as `from_linen`, `from_nnx` and `from_functions` return
      it.

  Raises:
    ValueError: the name is taken by another network.
  """
  if name in _NETWORKS or _REGISTERED.get(name, make) is not make:
    raise ValueError('expected a name for the backbone other than '
                     f'{", ".join([*NAMES, *_REGISTERED])}, got {name!r}')
  _REGISTERED[name] = make


def create(name: str, image_shape: ImageShape, *, width: int | None = None,
           norm_affine: bool | None = None, norm_epsilon: float | None = None,
           compute_dtype: ComputeDtype = 'float32') -> Backbone:
  """Returns a built-in backbone, or one that was registered (which takes no further options).

  Args:
    name: one of `NAMES`, or as registered.
    image_shape: (H, W, C) of its images, in pixels; H and W from 16 up.
    width: channels of the first block, for small tests; None for the published width.
    norm_affine: whether batch norm has a scale and an offset; None as published, which is without
      for resnet12 (the authors' TensorFlow code) and with for the others.
    norm_epsilon: added to the variance in batch norm; None for 1e-5 (the authors' TensorFlow code
      has 1e-3).
    compute_dtype: 'float32' or 'bfloat16', of convolutions; parameters, batch norm and features
      stay float32.

  Returns:
    A Backbone, with its twin by patches.

  Raises:
    ValueError: an unknown name or dtype, an epsilon not above 0, or an image too small for four
      halvings.
  """
  if name in _REGISTERED:
    return _REGISTERED[name](image_shape)
  _check_options(name, image_shape, norm_epsilon, compute_dtype)
  network = _NETWORKS[name]
  options = {'width': width, 'norm_affine': norm_affine, 'norm_epsilon': norm_epsilon}
  given = {option: value for option, value in options.items() if value is not None}
  module = network.module(dtype=jnp.dtype(compute_dtype), **given)
  backbone = from_linen(module, image_shape, last_block=network.last_block,
                        unscaled=network.unscaled)
  return with_twin(backbone, module.clone(conv=conv_by_patches))


def _check_options(name, image_shape, norm_epsilon, compute_dtype):
  if name not in _NETWORKS:
    raise ValueError(f'expected backbone to be one of {", ".join([*NAMES, *_REGISTERED])}, got '
                     f'{name!r}')
  if compute_dtype not in COMPUTE_DTYPES:
    raise ValueError(f"expected compute_dtype 'float32' or 'bfloat16', got {compute_dtype!r}")
  if min(image_shape[:2]) < _MIN_SIZE:
    raise ValueError(f'expected images of at least {_MIN_SIZE} pixels for {name}, got '
                     f'{image_shape[0]}x{image_shape[1]}')
  if norm_epsilon is not None and not norm_epsilon > 0:
    raise ValueError(f'expected norm_epsilon above 0, got {norm_epsilon}')
