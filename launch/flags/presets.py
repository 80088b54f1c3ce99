"""Settings kept under a name: files of flags in launch/presets, which are installed too."""
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from . import flag_files
from .declared import Flag

_FOLDER = pathlib.Path(__file__).parent.parent / 'presets'
_FLAG = '--preset'

PRESET = Flag('preset', 'Settings kept under a name, such as fc100_conv4_1shot; flags beside it '
              'count more. A wrong name lists all.')


class Expanded(NamedTuple):
  """A command line with its presets taken apart."""
  names: tuple[str, ...]    # of the presets
  settings: tuple[str, ...]  # their flags
  others: tuple[str, ...]   # the other arguments, with those of --flagfile in its place


def names() -> list[str]:
  """Lists the presets, those of the ablation last."""
  paths = [path.relative_to(_FOLDER).with_suffix('') for path in _FOLDER.rglob('*.flags')]
  return [path.as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def read(name: str) -> tuple[str, ...]:
  """Returns the flags of a preset, such as '--outer=ss'.

  Args:
    name: of a file in launch/presets, without its ending.

  Raises:
    ValueError: there is no such preset.
  """
  if name not in names():
    raise ValueError(f'expected --preset to be one of {", ".join(names())}, got {name!r}')
  return tuple(flag_files.expand([f'--flagfile={_FOLDER / name}.flags']))


def expand(arguments: Sequence[str]) -> Expanded:
  """Takes the presets out of a command line.

  Args:
    arguments: of the command line; --preset=NAME or --preset NAME, as often as one likes.

  Raises:
    ValueError: there is no such preset.

  >>> expand(['--shot=5', '--preset=ablation/ss_all']).settings
  ('--outer=ss', '--scope=all', '--inner=head', '--nohard_tasks')
  """
  found: list[str] = []
  others: list[str] = []
  rest = iter(flag_files.expand(arguments))
  for argument in rest:
    flag, equals, name = argument.partition('=')
    if flag in (_FLAG, _FLAG[1:]):
      found.append(name if equals else next(rest, ''))
    else:
      others.append(argument)
  settings = tuple(setting for name in found for setting in read(name))
  return Expanded(tuple(found), settings, tuple(others))
