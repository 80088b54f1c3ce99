"""Flags as data: declared where they are read, defined only when a command starts.

A module that declares flags may be imported anywhere, beside any other: absl's global flags are
never touched. Each command parses its command line into `FlagValues` of its own.
"""
import dataclasses
import pathlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import flags

from . import flag_files, parsers

T = TypeVar('T')


class Flag(NamedTuple):
  """A flag of a command.

  Attributes:
    name: as it is typed.
    help: one line, which says by itself what happens where there is no default.
    kind: bool, int, float, str, list (of strings) or pathlib.Path; `bool | str` for a switch that
      may have a value; or the values to choose from.
    default: its value where it is not given.
    least: bound of a number.
    most: bound of a number; of whole numbers 2^31 - 1 where there is none.
    required: whether the command refuses to start without it.
    shown: what stands for the value in --help; by default as the kind has it.
    config: the dataclass that it is a setting of, if any.
    field: the field of `config` that it sets.
    words: words that may stand for a number.
  """
  name: str
  help: str
  kind: type | types.UnionType | tuple[str, ...] = str
  default: Any = None
  least: float | None = None
  most: float | None = None
  required: bool = False
  shown: str = ''
  config: type | None = None
  field: str = ''
  words: tuple[str, ...] = ()


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
    flags.Error: an unknown flag, or a value that it may not have.
    ValueError: a required flag is missing, or an argument is no flag.
  """
  values = flags.FlagValues()
  for flag in flatten(groups):
    _define(flag, values)
  expanded = flag_files.expand(arguments)
  try:
    _, *rest = values(['', *expanded])  # absl takes the first one for the program's name
  except (flags.UnrecognizedFlagError, parsers.Refused):
    raise
  except (flags.Error, ValueError) as error:
    raise parsers.Refused(parsers.reworded(error)) from error
  if rest:
    raise ValueError(f'expected flags only, got {rest[0]!r}')
  for flag in flatten(groups):
    if require and flag.required and values[flag.name].value is None:
      raise ValueError(f'expected --{flag.name}, which is required, got none')
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
  name, help, kind = flag.name, flag.help, flag.kind
  if kind is bool:
    # Each call names `values`: without it absl would define a flag of the whole process.
    flags.DEFINE_bool(name, flag.default, help, flag_values=values)
    return
  serializer = flags.ArgumentSerializer()
  if kind == bool | str:
    switch = flags.Flag(parsers.SwitchParser(name), serializer, name, flag.default, help,
                        boolean=True)
    flags.DEFINE_flag(switch, values)
  else:
    flags.DEFINE(_parser(flag), name, flag.default, help, values, serializer)


def _parser(flag: Flag) -> flags.ArgumentParser:
  """Returns what reads the value of a flag."""
  name, kind = flag.name, flag.kind
  if isinstance(kind, tuple):
    return parsers.ChoiceParser(name, kind)
  if kind is int:
    most = parsers.MOST_INT if flag.most is None else flag.most
    return parsers.IntParser(name, -parsers.MOST_INT if flag.least is None else flag.least, most)
  if kind is float:
    return parsers.FloatParser(name, flag.least, flag.most, flag.words)
  if kind is list:
    return parsers.ListParser(name)
  if kind is pathlib.Path:
    return parsers.PathParser(name, folder=flag.shown == 'DIR')
  if kind is str:
    return parsers.TextParser(name)
  raise TypeError(f'expected a kind of flag for --{name}, got {kind!r}')
