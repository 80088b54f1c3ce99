"""Θ, the deep feature extractors: `create(name, image_shape)` returns a `Backbone`.

Networks are linen modules, one file per family, and stay private to this folder; everything
outside sees trees and functions. A network of your own comes in by `from_linen`, `from_nnx` or
`from_functions`.
"""
import functools
import importlib
import re
import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtl_jax.backbones.adapters import (
    ImageShape,
    from_functions,
    from_linen,
    from_nnx,
    with_twin,
)
from mtl_jax.backbones.basic_resnets import ResNet18Small, ResNet25
from mtl_jax.backbones.conv4 import Conv4
from mtl_jax.backbones.efficientnet_lite import EfficientNetLite
from mtl_jax.backbones.imagenet_resnets import ImageNetResNet
from mtl_jax.backbones.layers import conv_by_patches, conv_by_platform
from mtl_jax.backbones.modules import Conv
from mtl_jax.backbones.readout import NORMS, Norm, read_out
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.backbones.resnet12_wide import ResNet12Wide
from mtl_jax.backbones.vit import VisionTransformer
from mtl_jax.backbones.wide_resnet import WideResNet28
from mtl_jax.types import Backbone

__all__ = ['COMPUTE_DTYPES', 'NAMES', 'NORMS', 'ComputeDtype', 'ImageShape', 'Norm',
           'conv_by_patches', 'conv_by_platform', 'create', 'from_functions', 'from_linen',
           'from_nnx', 'published_grid', 'published_size', 'read_out', 'register',
           'register_function']

ComputeDtype = Literal['float32', 'bfloat16']
COMPUTE_DTYPES = typing.get_args(ComputeDtype)


class _Network(NamedTuple):
  """A built-in network."""
  module: Callable[..., nn.Module]
  last_block: str                  # the layers that count as its last block
  unscaled: tuple[str, ...] = ()   # names of layers that scale and shift leave alone
  least: int = 16                  # pixels of an image's side; four halvings then leave one
  size: int = 84                   # pixels of an image's side in pre-training, as published
  patch: int = 1                   # that divides the side
  grid: int = 0                    # patches per side in pre-training, of a transformer


def _lite(size: int, width_factor: float, depth_factor: float) -> _Network:
  module = functools.partial(EfficientNetLite, width_factor=width_factor,
                             depth_factor=depth_factor)
  return _Network(module, 'stage7', least=32, size=size)


def _resnet(*blocks: int, bottleneck: bool = False) -> _Network:
  module = functools.partial(ImageNetResNet, blocks, bottleneck)
  return _Network(module, 'stage4', least=32, size=224)


def _vit(patch: int, width: int, size: int = 224, **options: object) -> _Network:
  grid = size // patch
  module = functools.partial(VisionTransformer, patch, width=width, heads=width // 64, grid=grid,
                             **options)
  return _Network(module, 'block12', least=2 * patch, size=size, patch=patch, grid=grid)


_DINOV2 = {'size': 518, 'layer_scale': True, 'interpolation': 'offset'}
_CLIP = {'pre_norm': True, 'quick_gelu': True, 'projection': 512, 'norm_epsilon': 1e-5}

# Scale and shift leave the shortcuts of ResNet-12 alone, as the authors' TensorFlow code does; in
# the networks of PyTorch's form they act on every convolution, stem and shortcuts too, as the
# authors' PyTorch code does.
_NETWORKS = {
    'conv4': _Network(Conv4, 'block4'),
    'resnet12': _Network(ResNet12, 'block4', ('shortcut',)),
    'resnet12_wide': _Network(ResNet12Wide, 'block4'),
    'resnet18_small': _Network(ResNet18Small, 'stage4'),
    'resnet25': _Network(ResNet25, 'stage3'),
    'wrn28_10': _Network(WideResNet28, 'stage3'),
    'efficientnet_lite0': _lite(224, 1.0, 1.0),
    'efficientnet_lite1': _lite(240, 1.0, 1.1),
    'efficientnet_lite2': _lite(260, 1.1, 1.2),
    'resnet18': _resnet(2, 2, 2, 2),
    'resnet34': _resnet(3, 4, 6, 3),
    'resnet50': _resnet(3, 4, 6, 3, bottleneck=True),
    'vit_small_16': _vit(16, 384),
    'vit_base_16': _vit(16, 768),
    'dinov2_small_14': _vit(14, 384, **_DINOV2),
    'dinov2_base_14': _vit(14, 768, **_DINOV2),
    'clip_base_32': _vit(32, 768, **_CLIP),
    'clip_base_16': _vit(16, 768, **_CLIP),
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


def register_function(name: str) -> None:
  """Registers a network of your own under the place of the function that makes it.

  Args:
    name: 'package.module:function', of a function as `register` takes it. The module is imported,
      so its code runs.

  Raises:
    ValueError: there is no such module or function.
  """
  module, _, function = name.partition(':')
  try:
    make = functools.reduce(getattr, function.split('.'), importlib.import_module(module))
  except (ImportError, AttributeError) as error:
    raise ValueError(f'expected backbone to be package.module:function, got {name!r}: '
                     f'{error}') from error
  if not callable(make):
    raise ValueError(f'expected {name} to be a function from the image shape to a Backbone, got '
                     f'{type(make).__name__}')
  register(name, make)


def published_size(name: str) -> int:
  """Returns the side of the images, in pixels, that a built-in network was published for.

  Args:
    name: one of `NAMES`.
  """
  return _NETWORKS[name].size


def published_grid(name: str) -> int:
  """Returns the patches per side that the positions of a transformer are for; 0 of other networks.

  Args:
    name: one of `NAMES`.
  """
  return _NETWORKS[name].grid


def create(name: str, image_shape: ImageShape, *, width: int | None = None,
           norm_affine: bool | None = None, norm_epsilon: float | None = None,
           grid: int | None = None, compute_dtype: ComputeDtype = 'float32',
           conv: Conv | None = None) -> Backbone:
  """Returns a built-in backbone, or one that was registered (which takes no further options).

  Args:
    name: one of `NAMES`, or as registered.
    image_shape: (H, W, C) of its images, in pixels; H and W from 16 up, of ImageNet's networks from
      32, of transformers multiples of the patch, from two up.
    width: channels of the first block, for small tests; None for the published width.
    norm_affine: whether batch norm has a scale and an offset; None as published, which is without
      for resnet12 (the authors' TensorFlow code) and with for the others.
    norm_epsilon: added to the variance in normalisation; None as published (the authors' TensorFlow
      code has 1e-3).
    grid: of a transformer: patches per side that its positions are for; None as published.
    compute_dtype: 'float32' or 'bfloat16', of convolutions and products; parameters, normalisation
      and features stay float32.
    conv: how convolutions of built-in networks are computed, such as `conv_by_platform` or
      `jax.lax.conv_general_dilated`; None for the form that is fast on this device.

  Returns:
    A Backbone; that of a convolutional network has its twin by patches.

  Raises:
    ValueError: an unknown name or dtype, an option that the network has not, an epsilon not above
      0, or an image size that it cannot take.
  """
  if name in _REGISTERED:
    rows, columns, channels = image_shape
    return _REGISTERED[name]((rows, columns, channels))
  _check_options(name, image_shape, norm_epsilon, compute_dtype)
  network = _NETWORKS[name]
  options = {'width': width, 'norm_affine': norm_affine, 'norm_epsilon': norm_epsilon,
             'grid': grid}
  given = {option: value for option, value in options.items() if value is not None}
  _check_has(name, network, given)
  if width is not None and width < 1:
    raise ValueError(f'expected width of at least 1, got {width}')
  if network.grid and width is not None:
    given['heads'] = max(1, width // 64)
  module = network.module(dtype=jnp.dtype(compute_dtype), **given)
  if conv is not None and not network.grid:
    module = module.clone(conv=conv)
  backbone = from_linen(module, image_shape, last_block=network.last_block,
                        unscaled=network.unscaled)
  # Op by op, linen would also compute features of which it only needs the shape. Networks of one's
  # own keep their `init` as it is: it may hold arrays, or have other bits when it is compiled.
  backbone = backbone._replace(init=jax.jit(backbone.init))
  return backbone if network.grid else with_twin(backbone, module.clone(conv=conv_by_patches))


def _check_has(name, network, given):
  wrong = [option for option in given
           if option == ('norm_affine' if network.grid else 'grid')]
  if wrong:
    raise ValueError(f'expected no {wrong[0]} with {name}, which has none')


def _check_options(name, image_shape, norm_epsilon, compute_dtype):
  if re.fullmatch(r'[\w.]+:[\w.]+', name) and name not in _NETWORKS:
    # No file of settings makes this library import a module.
    raise ValueError(f'the backbone {name} is not known in this process: give --backbone={name}, '
                     f'or call backbones.register_function({name!r})')
  if name not in _NETWORKS:
    raise ValueError(f'expected backbone to be one of {", ".join([*NAMES, *_REGISTERED])}, got '
                     f'{name!r}')
  if compute_dtype not in COMPUTE_DTYPES:
    raise ValueError(f"expected compute_dtype 'float32' or 'bfloat16', got {compute_dtype!r}")
  least, patch = _NETWORKS[name].least, _NETWORKS[name].patch
  height, width = image_shape[:2]
  if min(height, width) < least:
    smaller = ('; resnet18_small is made for small images' if name == 'resnet18' else '')
    raise ValueError(f'expected images of at least {least} pixels for {name}, got '
                     f'{height}x{width}{smaller}')
  if height % patch or width % patch:
    below = min(height, width) // patch * patch
    raise ValueError(f'expected an image size that the patches of {name}, of {patch} pixels, '
                     f'divide, such as {max(below, least)} or {below + patch}, got '
                     f'{height}x{width}')
  if norm_epsilon is not None and not norm_epsilon > 0:
    raise ValueError(f'expected norm_epsilon above 0, got {norm_epsilon}')
