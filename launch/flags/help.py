"""The text of --help: worked examples first, then the flags in groups, as wide as the terminal."""
import pathlib
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from .declared import Flag, Groups

HELP = frozenset({'--help', '-help', '-h', '-?', '--helpshort', '--helpfull'})

_TITLES = {'task': 'Task: classes and images of the tasks, how many there are, and the seed',
           'data': 'Data: images, and what the run reads and writes',
           'method': 'Method: network, inner loop, outer loop',
           'machine': 'Machine: devices, memory, processes; changes no figure, but by rounding'}
_VALUES = {int: 'N', float: 'X', str: 'NAME', list: 'A,B', pathlib.Path: 'PATH'}

_LEAST_WIDTH, _MOST_WIDTH = 60, 120
_NO_BREAK = '\N{NO-BREAK SPACE}'  # textwrap breaks no line there
_COLUMN = 26  # where the explanations begin; a longer flag has a line of its own
_CLOSING = ('--flagfile=FILE reads flags from a file, one a line; --help shows this; --debug '
            'shows where an error comes from. Of a flag given twice the last counts.')


def terminal_width() -> int:
  """Returns how many columns help may take, COLUMNS or else those of the terminal."""
  return max(_LEAST_WIDTH, min(_MOST_WIDTH, shutil.get_terminal_size((80, 24)).columns))


def help_text(about: str | None, examples: Iterable[tuple[str, str]], groups: Groups, *,
              program: str, width: int) -> str:
  """Returns what --help prints.

  Args:
    about: what the command does.
    examples: (what it is for, its flags) of command lines that work.
    groups: the flags, in groups.
    program: how the command is called, such as 'mtl pretrain'.
    width: columns.
  """
  blocks = [_example(text, f'{program} {arguments}', width) for text, arguments in examples]
  blocks += [_paragraphs(about or '', width)]
  for title, flags in groups.items():
    lines = [line for flag in flags for line in _explained(flag, width)]
    blocks.append('\n'.join([_TITLES.get(title, title), *lines]))
  blocks.append(textwrap.fill(_CLOSING, width))
  return '\n\n'.join(blocks)


def _example(text: str, command: str, width: int) -> str:
  """A comment and a command line that a shell takes as it stands, on several lines if need be."""
  lines = textwrap.wrap(command, width - 2, break_long_words=False, break_on_hyphens=False,
                        subsequent_indent='    ')
  return '\n'.join([*textwrap.wrap(text, width, initial_indent='# ', subsequent_indent='# '),
                    ' \\\n'.join(lines)])


def _paragraphs(text: str, width: int) -> str:
  return '\n\n'.join(textwrap.fill(' '.join(part.split()), width) for part in text.split('\n\n'))


def _explained(flag: Flag, width: int) -> Iterator[str]:
  """The lines of one flag: how it is typed, then what it is for, and its default."""
  typed = f'  {_typed(flag)}'
  indent = ' ' * _COLUMN
  lines = textwrap.wrap(flag.help + _default(flag), width, initial_indent=indent,
                        subsequent_indent=indent, break_on_hyphens=False)
  lines = [line.replace(_NO_BREAK, ' ') for line in lines]
  if len(typed) < _COLUMN - 1:
    lines[0] = typed.ljust(_COLUMN) + lines[0].strip()
  else:
    yield typed
  yield from lines


def _typed(flag: Flag) -> str:
  if flag.kind is bool:
    return f'--[no]{flag.name}'
  if isinstance(flag.kind, tuple):
    return f'--{flag.name}={flag.shown or "|".join(flag.kind)}'
  return f'--{flag.name}={flag.shown or _VALUES[flag.kind]}'


def _default(flag: Flag) -> str:
  if flag.required:
    return ' (required)'
  if flag.default in (None, []):
    return ''
  return f' (default:{_NO_BREAK}{_written(flag.default)})'


def _written(value: Any) -> str:
  """A value as it is typed on the command line."""
  if isinstance(value, bool):
    return 'on' if value else 'off'
  return ','.join(value) if isinstance(value, list) else str(value)
