"""Flags as data: declared where they are read, defined only when a command starts.

A module that declares flags may be imported anywhere, beside any other: absl's global flags are
never touched. Each command parses its command line into `FlagValues` of its own.
"""
import dataclasses
import os
import pathlib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import flags

T = TypeVar('T')


class Flag(NamedTuple):
  """A flag of a command.

  Attributes:
    name: as it is typed.
    help: one line, which says by itself what happens where there is no default.
    kind: bool, int, float, str, list (of strings) or pathlib.Path; or the values to choose from.
    default: its value where it is not given.
    least: bound of a number.
    most: bound of a number.
    required: whether the command refuses to start without it.
    shown: what stands for the value in --help; by default as the kind has it.
    config: the dataclass that it is a setting of, if any.
    field: the field of `config` that it sets.
  """
  name: str
  help: str
  kind: type | tuple[str, ...] = str
  default: Any = None
  least: float | None = None
  most: float | None = None
  required: bool = False
  shown: str = ''
  config: type | None = None
  field: str = ''


Flags = tuple[Flag, ...]
Groups = Mapping[str, Flags]  # title of a group in --help -> its flags


def of_field(config: type, field: str, help: str, *, name: str | None = None,
             **changes: Any) -> Flag:
  """Declares the flag of a field of a config, with the default and the choices of that field.

  Args:
    config: a dataclass.
    field: one of its fields.
    help: one line.
    name: of the flag, where it is not that of the field.
    **changes: attributes of `Flag`.

  >>> from mtl_jax.configs import InnerLoop
  >>> of_field(InnerLoop, 'steps', 'Inner steps.', name='inner_steps').default
  20
  """
  kind = typing.get_type_hints(config)[field]  # annotations may be strings
  if typing.get_origin(kind) is typing.Literal:
    kind = typing.get_args(kind)
  default = next(f.default for f in dataclasses.fields(config) if f.name == field)
  flag = Flag(name or field, help, kind, default, config=config, field=field)
  return flag._replace(**changes)


def read(config: Callable[..., T], declared: Sequence[Flag], values: flags.FlagValues,
         **others: Any) -> T:
  """Makes a config of the flags that set its fields.

  Args:
    config: its class.
    declared: flags; those of other configs, and those that the command does not have, are passed
      over.
    values: parsed flags; one that has no value leaves the default of its field.
    **others: fields that no flag sets as it stands.
  """
  found = {flag.field: values[flag.name].value for flag in declared
           if flag.config is config and flag.name in values}
  given = {field: value for field, value in found.items() if value is not None}
  return config(**given | others)


def parse(groups: Groups, arguments: Sequence[str], *, require: bool = True) -> flags.FlagValues:
  """Parses a command line.

  Args:
    groups: the flags that may be given.
    arguments: '--name=value', '--name' or '--noname'; of a flag given twice the last counts.
    require: whether those flags that are required must be given.

  Returns:
    The values, as attributes; `values[name].present` says whether a flag was given.

  Raises:
    flags.Error: an unknown flag, a value that it may not have, or a required flag that is missing.
    ValueError: an argument that is no flag.
  """
  values = flags.FlagValues()
  for flag in flatten(groups):
    _define(flag, values)
    if flag.required and require:
      flags.mark_flag_as_required(flag.name, values)
  _, *rest = values(['', *arguments])  # absl takes the first one for the program's name
  if rest:
    raise ValueError(f'expected flags only, got {rest[0]!r}')
  return values


def flatten(groups: Groups) -> Iterator[Flag]:
  """Iterates over the flags of all groups.

  Args:
    groups: in the order of --help.
  """
  for group in groups.values():
    yield from group


def value_of(values: flags.FlagValues, flag: Flag) -> Any:
  """Returns the value of a flag; its default where the command does not have that flag.

  Args:
    values: parsed flags.
    flag: the flag.
  """
  return values[flag.name].value if flag.name in values else flag.default


def _define(flag: Flag, values: flags.FlagValues) -> None:
  name, default, help, kind = flag.name, flag.default, flag.help, flag.kind
  least: Any = flag.least  # of an int flag an int, of a float flag a float
  most: Any = flag.most
  # Each call names `values`: without it absl would define a flag of the whole process.
  if isinstance(kind, tuple):
    flags.DEFINE_enum(name, default, list(kind), help, flag_values=values)
  elif kind is bool:
    flags.DEFINE_bool(name, default, help, flag_values=values)
  elif kind is int:
    flags.DEFINE_integer(name, default, help, least, most, values)
  elif kind is float:
    flags.DEFINE_float(name, default, help, least, most, values)
  elif kind is list:
    flags.DEFINE_list(name, default, help, flag_values=values)
  elif kind is pathlib.Path:
    flags.DEFINE(_PathParser(), name, default, help, flag_values=values)
  elif kind is str:
    flags.DEFINE_string(name, default, help, flag_values=values)
  else:
    raise TypeError(f'expected a kind of flag for --{name}, got {kind!r}')


class _PathParser(flags.ArgumentParser):
  """Paths as strings, a leading ~ expanded: a shell leaves it alone in --workdir=~/runs."""

  def parse(self, argument: str) -> str:
    return os.path.expanduser(argument)
