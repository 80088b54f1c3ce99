"""Flags of the network, of what tasks see of its features, and of its pre-training."""
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl.flags import FlagValues

from mtl_jax import backbones, types
from mtl_jax.configs import PretrainConfig

from . import data
from .declared import Flag, Flags, of_field, read, value_of

# With the rate of the others ResNet-12, whose shortcuts have no batch norm, diverges at once.
_LR = {'resnet12': 0.02}

BACKBONE = Flag('backbone', f'Network: one of {", ".join(backbones.NAMES)}; or one of your own, as '
                'package.module:function.', str, 'conv4')
OWN_BACKBONE = BACKBONE._replace(default=None, help='Of a run whose network is of your own: '
                                 'package.module:function, which made it.')
WIDTH = Flag('width', 'Channels of the first block of the network; by default as published.', int,
             least=1, most=2048)
NORM_AFFINE = Flag('norm_affine', 'Train a scale and an offset in batch norm, or none; by '
                   'default as published.', bool)
COMPUTE_DTYPE = Flag('compute_dtype', 'Precision of convolutions; all else is float32.', str,
                     'float32', shown='float32|bfloat16')

# Option of `backbones.read_out` -> its flag.
READOUT: dict[str, Flag] = {
    'norm': Flag('feature_norm', 'Length of the features in tasks: as it is (none), or one '
                 'for all (l2).', tuple(backbones.NORMS)),
    'mirror': Flag('mirror_features', 'Average features, in tasks, with those of the mirror '
                   'image.', bool),
    'temperature': Flag('temperature', 'With --feature_norm=l2: that length, 10 unless given.',
                        float, least=0.0),
    'shift': Flag('shift_features', 'Average features, in tasks, with those of the image moved by '
                  'this many pixels towards each of its corners; 0 for none.', int, least=0,
                  most=640),
}

PRETRAIN: Flags = (
    of_field(PretrainConfig, 'steps', 'Optimizer steps, rounded up to whole calls; 0: the network '
             'as it is initialised, for methods that start from random weights.', least=0,
             most=1_000_000_000),
    of_field(PretrainConfig, 'batch_size', 'Images per step.', least=2, most=65_536),
    of_field(PretrainConfig, 'lr', 'First learning rate of SGD, which falls along a cosine; by '
             f'default {PretrainConfig.lr}, of resnet12 {_LR["resnet12"]}.', default=None,
             least=0.0),
    of_field(PretrainConfig, 'weight_decay', 'Weight decay of kernels.', least=0.0),
    of_field(PretrainConfig, 'label_smoothing', 'Share of the target spread over all classes.',
             least=0.0, most=0.9),
    of_field(PretrainConfig, 'rotation_weight', 'Share of the loss for telling quarter turns apart '
             '(self-supervision).', least=0.0, most=1.0),
    of_field(PretrainConfig, 'hidden_units', 'Units of a hidden layer before the base classes; '
             "the authors' PyTorch code has 1000."
             , least=0, most=65_536),
    of_field(PretrainConfig, 'ema', 'Decay of an exponential moving average of weights and '
             'statistics, such as 0.999, which is validated and kept; 0: the last ones.', least=0.0,
             most=0.999999),
    of_field(PretrainConfig, 'distillation', 'With --teacher: share of the loss that its answers '
             f'have; by default {PretrainConfig.distillation}.', default=None, least=0.0, most=1.0),
    of_field(PretrainConfig, 'steps_per_call', 'Optimizer steps in one compiled call.', least=1,
             most=1_000_000),
)

TEACHER = Flag('teacher', 'Work directory of a finished pre-training on the same images, with its '
               'checkpoints, whose answers are learned too (born-again networks; Tian et al., ECCV '
               '2020).', pathlib.Path, shown='DIR')


def backbone_name(values: FlagValues) -> str | None:
  """Returns the network that --backbone names, and makes one of the user's own known.

  Its module is looked for in the current folder too.

  Args:
    values: parsed flags.

  Returns:
    Its name, or None where the flag has no value.

  Raises:
    ValueError: there is no such network.
  """
  name = values.backbone
  if name is not None and ':' in name:
    if os.getcwd() not in sys.path and '' not in sys.path:
      sys.path.insert(0, os.getcwd())  # a command that pip installed does not look there
    backbones.register_function(name)
  elif name is not None and name not in backbones.NAMES:
    raise ValueError(f'expected backbone to be one of {", ".join(backbones.NAMES)}, or '
                     f'package.module:function, got {name!r}')
  return name


def kept_from(run: str) -> Flags:
  """Declares the flags of what an earlier run has decided for a network, and may be changed.

  Args:
    run: the flag that names that run, such as '--pretrained'.
  """
  return tuple(flag._replace(default=None,
                             help=f'{flag.help.removesuffix(".")}; by default as in {run}.')
               for flag in (*READOUT.values(), COMPUTE_DTYPE))


def backbone_options(values: FlagValues) -> dict[str, Any]:
  """Returns the options of `backbones.create` that the flags of pre-training name.

  Args:
    values: parsed flags of pre-training.

  Raises:
    ValueError: there is no such network, or it is the user's own and has no such options.
  """
  name = backbone_name(values)
  if name is not None and ':' in name:
    if values.width is not None or values.norm_affine is not None:
      raise ValueError(f'--width and --norm_affine do not go with {name}, which is made by itself')
    return {'name': name}
  options = {'name': name, 'width': values.width, 'compute_dtype': values.compute_dtype}
  return options if values.norm_affine is None else options | {'norm_affine': values.norm_affine}


def check_backbone(options: Mapping[str, Any]) -> None:
  """Refuses options that a built-in network cannot be made with, whatever the images.

  Args:
    options: of `backbones.create`.

  Raises:
    ValueError: such an option.
  """
  if options['name'] in backbones.NAMES:
    size = backbones.published_size(options['name'])
    backbones.create(image_shape=(size, size, 3), **options)


def readout_options(values: FlagValues) -> dict[str, Any]:
  """Returns those options of `backbones.read_out` that were given.

  Args:
    values: parsed flags.
  """
  found = {option: value_of(values, flag) for option, flag in READOUT.items()}
  return {option: value for option, value in found.items() if value is not None}


def read_out(backbone: types.Backbone, values: FlagValues) -> types.Backbone:
  """Returns a backbone with the features in the form that the flags name, if any.

  Args:
    backbone: of a run, in the form that it was trained with.
    values: parsed flags; READOUT.
  """
  options = readout_options(values)
  return backbones.read_out(backbone, **options) if options else backbone


def pretrain_config(values: FlagValues, dataset: types.Dataset | None) -> PretrainConfig:
  """Returns the settings of pre-training that the flags name.

  Args:
    values: parsed flags of pre-training.
    dataset: decides the padding and the flips where no flag does; None before it is there.
  """
  lr = _LR.get(values.backbone, PretrainConfig.lr) if values.lr is None else values.lr
  return read(PretrainConfig, (*PRETRAIN, *data.PRETRAIN), values, lr=lr,
              **data.augmentation_of(values, dataset))
