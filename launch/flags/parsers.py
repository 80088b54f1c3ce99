"""What the text behind a flag may be; every refusal names the flag, in one line.

Numbers are finite and bounded: what NaN, infinity or 2^64 would come to is found only after
minutes, or never.
"""
import math
import os
import re
import stat
from typing import Any

from absl import flags

MOST_INT = 2**31 - 1  # steps, tasks and images are counted in 32 bits

# ~ or ~/FOLDER at the start of a text, or of a part of it as in csv:~/x.csv or a.npy,~/b.npy.
_HOME = re.compile(r'(?<![^,:=])~(?=/|$|,)')


class Refused(flags.Error):
  """A flag has a value that it may not have."""


class Parser(flags.ArgumentParser):
  """Base of all parsers.

  Args:
    name: of the flag.
    least: bound of a number; None for none.
    most: bound of a number; None for none.
  """

  def __init__(self, name: str, least: float | None = None, most: float | None = None):
    super().__init__()
    self.name, self.least, self.most = name, least, most

  def refuse(self, expected: str, argument: object) -> Refused:
    """Returns the error for a value that is not as expected."""
    return Refused(f'expected --{self.name} to be {expected}, got {str(argument)[:100]!r}')

  def _bounds(self) -> str:
    if self.least is not None and self.most is not None:
      return f' from {self.least:,} to {self.most:,}'
    if self.least is not None:
      return f' of at least {self.least:,}'
    return '' if self.most is None else f' of at most {self.most:,}'

  def _bounded(self, value: Any, kind: str, argument: object) -> Any:
    if ((self.least is not None and value < self.least)
        or (self.most is not None and value > self.most)):
      raise self.refuse(f'{kind}{self._bounds()}', argument)
    return value


class IntParser(Parser):
  """Whole numbers."""

  def parse(self, argument: str | int) -> int:
    try:
      value = int(argument)
    except ValueError:
      raise self.refuse(f'a whole number{self._bounds()}', argument) from None
    return self._bounded(value, 'a whole number', argument)


class FloatParser(Parser):
  """Finite numbers.

  Args:
    name: of the flag.
    least: bound; None for none.
    most: bound; None for none.
    words: that may stand for a number, and are returned as they are.
  """

  def __init__(self, name: str, least: float | None = None, most: float | None = None,
               words: tuple[str, ...] = ()):
    super().__init__(name, least, most)
    self._words = words

  def parse(self, argument: str | float) -> float | str:
    if argument in self._words:
      return argument
    try:
      value = float(argument)
    except (ValueError, OverflowError):
      value = math.nan
    if not math.isfinite(value):
      raise self.refuse(self._kind() + self._bounds(), argument)
    return self._bounded(value, self._kind(), argument)

  def _kind(self) -> str:
    return ' or '.join([*self._words, 'a number'])


class TextParser(Parser):
  """Texts, ~ expanded where a path may stand in them; an empty one is no value."""

  def parse(self, argument: str) -> str:
    if not argument:
      raise Refused(f'expected a value for --{self.name}, got none')
    if '\0' in argument:
      raise self.refuse('a text without NUL', argument)
    home = os.path.expanduser('~')
    return _HOME.sub(lambda _: home, argument)


class PathParser(TextParser):
  """Paths, ~ expanded: a shell leaves it alone in --workdir=~/runs.

  Args:
    name: of the flag.
    folder: whether a file that is there is refused.
  """

  def __init__(self, name: str, folder: bool):
    super().__init__(name)
    self._folder = folder

  def parse(self, argument: str) -> str:
    path = os.path.expanduser(super().parse(argument))
    if path.startswith('~'):  # a folder of that name would be made here
      raise Refused(f'expected --{self.name} with a ~ of somebody who is known here, or ./~ for a '
                    f'name that begins so, got {path}')
    try:
      mode = os.stat(path).st_mode
    except (OSError, ValueError):  # it may be made later
      if self._folder and os.path.islink(path):
        raise Refused(f'expected --{self.name} to be a folder, got {path}, which is a link to '
                      'nothing') from None
      return path
    if self._folder and not stat.S_ISDIR(mode):
      raise Refused(f'expected --{self.name} to be a folder, got {path}, which is '
                    f'{"a file" if stat.S_ISREG(mode) else "no file either"}')
    return path


class SwitchParser(Parser):
  """True or false, as --NAME and --noNAME say, or a text."""

  def parse(self, argument: str | bool) -> str | bool:
    if isinstance(argument, bool) or argument in ('true', 'false'):
      return argument in (True, 'true')
    return TextParser(self.name).parse(argument)


class ListParser(flags.ListParser):
  """Texts separated by commas, ~ expanded in each.

  Args:
    name: of the flag.
  """

  def __init__(self, name: str):
    super().__init__()
    self._text = TextParser(name)

  def parse(self, argument: str | list[str]) -> list[str]:
    if isinstance(argument, list):
      return argument
    try:
      return super().parse(self._text.parse(argument))
    except ValueError:
      raise self._text.refuse('texts separated by commas', argument) from None


class ChoiceParser(Parser):
  """One of some words.

  Args:
    name: of the flag.
    choices: the words.
  """

  def __init__(self, name: str, choices: tuple[str, ...]):
    super().__init__(name)
    self._choices = choices

  def parse(self, argument: str) -> str:
    if argument not in self._choices:
      raise self.refuse(f'one of {", ".join(self._choices)}', argument)
    return argument


def reworded(error: Exception) -> str:
  """Returns what absl says of a command line in our words.

  Args:
    error: of absl; any but that of an unknown flag.
  """
  text = str(error)
  if found := re.match(r'flag --(\w+)=(.*?): .*Non-boolean argument', text, re.DOTALL):
    return f'expected --{found[1]} to be true or false, got {found[2][:100]!r}'
  if found := re.search(r'--(\w+)=.* does not take an argument', text, re.DOTALL):
    return f'expected --{found[1]} without a value'
  if found := re.match(r'Missing value for flag --(\w+)', text):
    return f'expected a value for --{found[1]}, got none'
  return text
