"""A command: flags as data, two worked examples, and the work; `start` makes a process of it."""
import csv
import difflib
import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags
from absl.flags import FlagValues

from mtl_jax.runs import preemption, xla

from . import terminal
from .flags import declared, presets
from .flags.help import HELP, help_text, terminal_width

_WRONG_USE = 2  # exit status


class Command(NamedTuple):
  """A command, with all that its process needs.

  Attributes:
    name: as in `mtl NAME`.
    about: what it does; the first line says it in short.
    examples: (what it is for, its flags) of two command lines that work.
    flags: those that it reads, in groups.
    run: the work, of the parsed flags; prints its result.
    otherwise: where to look for a flag that it does not have.
    positional: names of flags that may stand in front without their names, in this order.
    several: whether the last of these, a list, takes all arguments that are left.
  """
  name: str
  about: str | None
  examples: tuple[tuple[str, str], ...]
  flags: declared.Groups
  run: Callable[[FlagValues], None]
  otherwise: str = ''
  positional: tuple[str, ...] = ()
  several: bool = False


def start(command: Command, arguments: Sequence[str] | None = None,
          called: str | None = None) -> None:
  """Parses flags, prepares JAX, runs; ends the process with one line where something is wrong.

  Args:
    command: what to run.
    arguments: its command line without its name; None takes that of this process.
    called: how the user called it, for --help; None finds out.
  """
  arguments = sys.argv[1:] if arguments is None else arguments
  if not HELP.isdisjoint(arguments):  # whatever else is wrong with the command line
    print(help_text(command.about, command.examples, command.flags,
                    program=called or program(), width=terminal_width()))
    return
  debug = terminal.DEBUG in arguments
  arguments = [argument for argument in arguments if argument != terminal.DEBUG]
  with terminal.errors_in_one_line(debug):
    values = parse_or_stop(command, arguments)
  terminal.prepare()
  with terminal.lasting_output(), preemption.watched(), terminal.errors_in_one_line(debug):
    if 'compile_cache' in values:  # else nothing is computed
      xla.prepare(values.compile_cache, values.compile_cache_mb)
    command.run(values)


def parse(command: Command, arguments: Sequence[str]) -> FlagValues:
  """Parses a command line; flags of its presets count less than those beside them.

  Args:
    command: whose flags they are.
    arguments: as in `start`.

  Returns:
    The values, as attributes.

  Raises:
    flags.Error, ValueError: as `declared.parse`, and an unknown preset.
  """
  arguments = _named(command, arguments)
  if presets.PRESET not in declared.flatten(command.flags):
    return declared.parse(command.flags, arguments)
  found = presets.expand(arguments)
  # Of a flag given twice the last counts.
  return declared.parse(command.flags, [*found.settings, *found.others])


def parse_or_stop(command: Command, arguments: Sequence[str]) -> FlagValues:
  """Parses as `parse` does, but ends the process where that raises.

  Args:
    command: whose flags they are.
    arguments: as in `start`.
  """
  try:
    return parse(command, arguments)
  except flags.UnrecognizedFlagError as error:
    terminal.stop(f'{_unknown(command, error.flagname, arguments)}; see --help', _WRONG_USE)
  except (flags.Error, ValueError) as error:
    terminal.stop(f'{error}; see --help', _WRONG_USE)


def _named(command: Command, arguments: Sequence[str]) -> list[str]:
  """Names the arguments in front that have no name, by `Command.positional`."""
  given = list(itertools.takewhile(lambda argument: not argument.startswith('--'), arguments))
  rest = arguments[len(given):]
  if command.several and len(given) >= len(command.positional):
    last = len(command.positional) - 1
    given = [*given[:last], _joined(given[last:])]
  if len(given) > len(command.positional):
    raise ValueError(f'expected flags only, got {given[len(command.positional)]!r}')
  named = [f'--{name}={value}' for name, value in zip(command.positional, given, strict=False)]
  return [*named, *rest]


def _joined(values: Sequence[str]) -> str:
  """Writes a list as its flag reads it; values may hold commas and quotes."""
  line = io.StringIO()
  csv.writer(line, lineterminator='').writerow(values)
  return line.getvalue()


def program() -> str:
  """Returns how the user started this process, such as `python -m launch.pretrain` or `mtl`."""
  spec = getattr(sys.modules['__main__'], '__spec__', None)
  if spec is not None:
    return f'python -m {spec.name}'
  return os.path.basename(sys.argv[0]).removesuffix('.exe')


def _unknown(command: Command, name: str, arguments: Sequence[str]) -> str:
  """Says that a command has no such flag, and why it may have been given."""
  said = f'{command.name} has no --{name}'
  for preset in _presets_with(command, name, arguments):
    return f'{said}, which is in --preset={preset}: that is for another command'
  known = [flag.name for flag in declared.flatten(command.flags)]
  if close := difflib.get_close_matches(name, known, n=1):
    return f'{said} (did you mean --{close[0]}?)'
  return f'{said}: {command.otherwise}' if command.otherwise else said


def _presets_with(command: Command, name: str, arguments: Sequence[str]) -> list[str]:
  """The presets of a command line that give a flag."""
  if presets.PRESET not in declared.flatten(command.flags):
    return []
  return [preset for preset in presets.expand(arguments).names
          if f'--{name}' in (setting.partition('=')[0] for setting in presets.read(preset))]
