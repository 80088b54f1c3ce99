"""--flagfile=FILE: flags from a file, one a line; it may name further files."""
import os
import stat
from collections.abc import Iterator, Sequence

_FLAG = '--flagfile'
_MOST_BYTES = 1 << 20
_MOST_DEPTH = 10


def expand(arguments: Sequence[str]) -> list[str]:
  """Replaces --flagfile by the flags of its file; blank lines and those with # are left out.

  Args:
    arguments: of a command line; --flagfile=FILE or --flagfile FILE.

  Raises:
    ValueError: a file cannot be read, or holds other things than flags.
  """
  return list(_expanded(arguments, 0))


def _expanded(arguments: Sequence[str], depth: int) -> Iterator[str]:
  rest = iter(arguments)
  for argument in rest:
    flag, equals, path = argument.partition('=')
    if flag not in (_FLAG, _FLAG[1:]):
      yield argument
      continue
    path = os.path.expanduser(path if equals else next(rest, ''))
    if depth >= _MOST_DEPTH:
      raise ValueError(f'expected {_FLAG} within {_MOST_DEPTH} others at most, got {path}: it may '
                       'name itself')
    yield from _expanded(_lines(path), depth + 1)


def _lines(path: str) -> list[str]:
  """The lines of a file that are flags."""
  expected = f'expected {_FLAG} to be a file of flags, one a line, got {path!r}'
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      raise ValueError(f'{expected}, which is no file')
    with open(path, 'rb') as file:
      content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
      raise ValueError(f'{expected}, which has more than {_MOST_BYTES:,} bytes')
    lines = [line.strip() for line in content.decode().splitlines()]
  except OSError as error:
    raise ValueError(f'{expected}: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise ValueError(f'{expected}, which is no text') from error
  found = [line for line in lines if line and not line.startswith(('#', '//'))]
  for line in found:
    if not line.startswith('-') or '\0' in line:
      raise ValueError(f'{expected}, which has the line {line[:40]!r}')
  return found
