"""Which data a command reads: what its flags say, and else what the run says that it goes on from.
"""
import os
from collections.abc import Mapping
from typing import Any

from absl.flags import FlagValues

from mtl_jax import data
from mtl_jax.data import division, pools

# Options of `data.load` that say what is loaded -> the flags that set them.
OPTIONS = {'data_dir': 'data_dir', 'split': 'split', 'split_seed': 'split_seed',
           'split_file': 'split_file', 'called': 'name', 'image_column': 'image_column',
           'label_column': 'label_column'}
_DIVIDE = ('split', 'split_seed', 'split_file')


def given(values: FlagValues) -> dict[str, Any]:
  """Returns the options of `data.load` that flags give.

  Args:
    values: parsed flags; those of `OPTIONS`.

  Raises:
    ValueError: --split has no three fractions.
  """
  found: dict[str, Any] = {option: values[flag].value for option, flag in OPTIONS.items()
                           if values[flag].value is not None}
  if found.get('split') in pools.SPLITS:  # of a meta-test: which classes the tasks come from
    del found['split']
  if 'split' in found:
    found['split'] = list(division.parse(found['split']))
  return found


def options(values: FlagValues, name: str | None = None,
            run: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Returns the options of `data.load`, with `dataset` for its name.

  Without --dataset and --data_dir the data are those of the run; with --data_dir alone they are a
  folder. Own data that the run was trained on are divided as there, so that none of its classes are
  taken for new ones.

  Args:
    values: parsed flags.
    name: of the data set, where --dataset is not what decides it.
    run: settings of the run that is gone on from.

  Raises:
    ValueError: the flags divide those data in another way.
  """
  found, name = given(values), name or values.dataset
  recorded = (run or {}).get('data') or {}
  there = {option: recorded[option] for option in ('dataset', *OPTIONS) if option in recorded}
  if name is None and 'data_dir' not in found and there:
    return _divided_as_there({**{option: value for option, value in there.items()
                                 if option not in _DIVIDE}, **found}, there)
  chosen = {'dataset': name or ('folder' if 'data_dir' in found else data.DRAWN), **found}
  if there and _place(chosen) == _place(there):
    return _divided_as_there(chosen, there)
  return chosen


def _place(chosen: Mapping[str, Any]) -> tuple[str, str, str | None]:
  """Where the files of a data set are."""
  kind, _, path = chosen['dataset'].partition(':')
  folder = chosen.get('data_dir')
  return (kind, os.path.abspath(os.path.expanduser(path)) if kind in ('csv', 'hf') else path,
          os.path.abspath(folder) if folder else None)


def _divided_as_there(chosen: dict[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
  """Divides the classes as the run did; refuses another way."""
  before = {option: there[option] for option in _DIVIDE if option in there}
  if 'split_file' not in chosen and not ('split' in chosen and 'split_file' in before):
    chosen = before | chosen
  now = {option: chosen[option] for option in _DIVIDE if option in chosen}
  if 'split' in now:
    now = {'split_seed': 0} | now
  by_files = 'split_file' in now and 'split_file' in before  # the same one may have been moved
  if now != before and not by_files:
    raise ValueError('expected classes divided as in the run that is gone on from, '
                     f'{_typed(before)}, got {_typed(now)}: classes that it was trained on would '
                     'be taken for new ones')
  return chosen


def _typed(divided: Mapping[str, Any]) -> str:
  """The flags that divide the classes so."""
  def text(value):
    return ','.join(f'{each:g}' for each in value) if isinstance(value, list) else str(value)

  said = [f'--{name}={text(divided[name])}' for name in _DIVIDE if name in divided]
  return ' '.join(said) or 'as the data say'
