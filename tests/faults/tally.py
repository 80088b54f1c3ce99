"""What was tried and what failed, as a table."""
import dataclasses
import time
from collections.abc import Callable
from typing import Any

MOST_SECONDS = 10.0  # that one try of a reader may take


@dataclasses.dataclass
class Tally:
  """Tries of one kind.

  Attributes:
    name: of the kind.
    tries: how many there were.
    refused: how many ended in one line.
    failures: what went wrong, one line each.
  """
  name: str
  tries: int = 0
  refused: int = 0
  failures: list[str] = dataclasses.field(default_factory=list)

  def read(self, what: str, read: Callable[[], Any], sound: Callable[[Any], bool]) -> None:
    """Tries to read something damaged: it must be refused in one line, or read as if it were whole.

    Args:
      what: describes the damage.
      read: reads it.
      sound: whether what was read is right all the same.
    """
    self.tries += 1
    began = time.monotonic()
    try:
      found = read()
    except (ValueError, OSError) as error:
      self.refused += 1
      if len(str(error).splitlines()) > 1:
        self.failures.append(f'{what}: several lines: {str(error)[:200]!r}')
    except Exception as error:
      self.failures.append(f'{what}: {type(error).__name__}: {str(error)[:200]!r}')
    else:
      if not sound(found):
        self.failures.append(f'{what}: read without a word')
    if time.monotonic() - began > MOST_SECONDS:
      self.failures.append(f'{what}: took more than {MOST_SECONDS} s')


def table(tallies: list[Tally]) -> str:
  """Returns the table, and the failures below it.

  Args:
    tallies: in the order of the rows.
  """
  lines = ['| what | tries | refused in one line | failures |', '|---|---|---|---|']
  lines += [f'| {tally.name} | {tally.tries:,} | {tally.refused:,} | {len(tally.failures)} |'
            for tally in tallies]
  lines += [f'{tally.name}: {failure}' for tally in tallies for failure in tally.failures[:20]]
  return '\n'.join(lines)
