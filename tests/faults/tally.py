"""What was tried and what failed, as a table."""
import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOST_SECONDS = 10.0  # that one try of a reader may take
MOST_BYTES = 1e9     # that it may take of memory


@dataclasses.dataclass
class Tally:
  """Tries of one kind.

  Attributes:
    name: of the kind.
    tries: how many there were.
    refused: how many ended in one line.
    failures: what went wrong, one line each.
    slowest: seconds of the longest try.
    largest: bytes of memory of the largest try; 0 where they were not measured.
  """
  name: str
  tries: int = 0
  refused: int = 0
  failures: list[str] = dataclasses.field(default_factory=list)
  slowest: float = 0.0
  largest: float = 0.0

  def read(self, what: str, read: Callable[[], Any], sound: Callable[[Any], bool]) -> None:
    """Tries to read something damaged: it must be refused in one line, or read as if it were whole.

    Args:
      what: describes the damage.
      read: reads it.
      sound: whether what was read is right all the same.
    """
    self.tries += 1
    before = _forget_peak()
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
    self._measure(what, time.monotonic() - began, _memory('VmHWM') - before)

  def _measure(self, what: str, seconds: float, size: float) -> None:
    self.slowest, self.largest = max(self.slowest, seconds), max(self.largest, size)
    if seconds > MOST_SECONDS:
      self.failures.append(f'{what}: took {seconds:.1f} s')
    if size > MOST_BYTES:
      self.failures.append(f'{what}: took {size / 1e6:.0f} MB')


def _forget_peak() -> float:
  """Bytes of memory of this process now, from which Linux then counts its peak anew."""
  try:
    Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
  except OSError:
    return float('inf')
  return _memory('VmRSS')


def _memory(name: str) -> float:
  try:
    status = Path('/proc/self/status').read_text(encoding='ascii')
  except OSError:
    return 0.0
  return 1024.0 * int(re.search(rf'^{name}:\s+(\d+)', status, re.MULTILINE)[1])


def table(tallies: list[Tally]) -> str:
  """Returns the table, and the failures below it.

  Args:
    tallies: in the order of the rows.
  """
  lines = ['| what | tries | refused in one line | failures | longest, s | most memory, MB |',
           '|---|---|---|---|---|---|']
  lines += [f'| {tally.name} | {tally.tries:,} | {tally.refused:,} | {len(tally.failures)} | '
            f'{tally.slowest:.2f} | {max(tally.largest, 0) / 1e6:.0f} |' for tally in tallies]
  lines += [f'{tally.name}: {failure}' for tally in tallies for failure in tally.failures[:20]]
  return '\n'.join(lines)
