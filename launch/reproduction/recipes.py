"""Flags of the launchers, as in the files of launch/presets, read as settings of the library.

`launch.reproduce` runs several phases in one process, where only one of them could take the command line.
"""
import pathlib

from absl import flags

from launch.flags import options
from mtl_jax import types
from mtl_jax.phases.meta_train import MetaTrainConfig
from mtl_jax.phases.pretrain import PretrainConfig
from mtl_jax.runs import runs

_PRESETS = pathlib.Path(__file__).parent.parent / 'presets'

# Flags whose name is not that of the field.
_META_TRAIN = {'outer': 'learn', 'inner': 'adapts', 'num_ordinary_tasks': 'ordinary_tasks',
               'num_hard_tasks': 'hard_tasks', 'batch_stats': 'batch_stats_mode'}
_VALIDATION = {'validate_every': 'every', 'validation_tasks': 'num_tasks', 'test_inner_steps': 'inner_steps',
               'way': 'way', 'shot': 'shot', 'inner_lr': 'inner_lr'}
# Options of a network and of what tasks see of it: flag -> (option, type).
_BACKBONE = {'backbone': ('name', str), 'width': ('width', int), 'norm_affine': ('norm_affine', bool),
             'compute_dtype': ('compute_dtype', str)}
_READOUT = {'feature_norm': ('norm', str), 'mirror_features': ('mirror', bool), 'temperature': ('temperature', float)}


def preset(name: str) -> tuple[str, ...]:
  """Reads a preset.

  Args:
    name: of a file in launch/presets, without its ending.

  Returns:
    Its flags, such as '--outer=ss'.
  """
  return tuple(flags.FlagValues().read_flags_from_files([f'--flagfile={_PRESETS / name}.flags']))


def parse(arguments: tuple[str, ...]) -> dict[str, str]:
  """Splits flags into names and values.

  Args:
    arguments: '--name=value', '--name' or '--noname'; of a flag given twice the last counts.

  Returns:
    Name -> value; 'true' and 'false' for flags that are switches.

  Raises:
    ValueError: a flag that no phase has.

  >>> parse(('--outer=ss', '--hard_tasks', '--shot=1', '--nohard_tasks'))
  {'outer': 'ss', 'hard_tasks': 'false', 'shot': '1'}
  """
  values = {}
  for argument in arguments:
    name, _, value = argument.removeprefix('--').partition('=')
    if name not in _known() and name.startswith('no'):
      name, value = name.removeprefix('no'), 'false'
    if name not in _known():
      raise ValueError(f'expected a flag of pre-training or meta-training, got {argument!r}')
    values[name] = value or 'true'
  return values


def _known():
  return {*PretrainConfig._fields, *MetaTrainConfig._fields, *_META_TRAIN, *_VALIDATION, *_BACKBONE, *_READOUT,
          'dataset'}


def backbone(values: dict[str, str]) -> dict:
  """Gives the options of `backbones.create`.

  Args:
    values: of flags, as `parse` gives them.

  Returns:
    Those that `launch.pretrain` would take.
  """
  return {'name': 'conv4', 'width': None, 'compute_dtype': 'float32'} | _options(values, _BACKBONE)


def readout(values: dict[str, str]) -> dict:
  """Gives the options of `backbones.read_out` among `values`."""
  return _options(values, _READOUT)


def pretrain(values: dict[str, str], dataset: types.Dataset) -> PretrainConfig:
  """Gives the settings of pre-training.

  Args:
    values: of flags, as `parse` gives them.
    dataset: its image size and whether it may be mirrored decide defaults.

  Returns:
    A PretrainConfig.
  """
  return PretrainConfig(**_by_data(dataset) | _fields(values, PretrainConfig, {}))


def meta_train(values: dict[str, str], dataset: types.Dataset) -> MetaTrainConfig:
  """Gives the settings of meta-training.

  Args:
    values: of flags, as `parse` gives them; with --nohard_tasks there are none, whatever their number.
    dataset: its image size and whether it may be mirrored decide defaults.

  Returns:
    A MetaTrainConfig.
  """
  switch = values.get('hard_tasks', 'true')
  values = {name: value for name, value in values.items() if name != 'hard_tasks'}
  if switch == 'false':
    values['num_hard_tasks'] = '0'
  defaults = {'over_tasks': 'auto'} | _by_data(dataset)  # those of launch.meta_train that differ from the library's
  return MetaTrainConfig(**defaults | _fields(values, MetaTrainConfig, _META_TRAIN))


def validation(values: dict[str, str]) -> runs.Validation:
  """Gives the validation tasks; they adapt θ alone, by running statistics.

  Args:
    values: of flags, as `parse` gives them.

  Returns:
    A Validation.
  """
  values = {name: value for name, value in values.items() if name in _VALIDATION}
  return runs.Validation(**_fields(values, runs.Validation, _VALIDATION))


def _by_data(dataset):
  return {'crop_padding': options.crop_padding(None, dataset.train.images.shape[1]), 'flip': dataset.flip}


def _fields(values, settings, renamed):
  """The values whose flag is a field of `settings`, perhaps under another name."""
  found = {renamed.get(name, name): value for name, value in values.items()}
  return {name: _as(type(settings._field_defaults[name]), value) for name, value in found.items()
          if name in settings._fields}


def _options(values, table):
  return {table[name][0]: _as(table[name][1], value) for name, value in values.items() if name in table}


def _as(kind, text):
  return text == 'true' if kind is bool else kind(text)
