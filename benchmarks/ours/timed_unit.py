"""What a measure hands to the worker: a unit to time, and what else it can do."""
from collections.abc import Callable, Collection
from typing import Any, NamedTuple


class TimedUnit(NamedTuple):
  """A piece of work that is timed as a whole."""
  run: Callable[[], Any]                      # returns the value to report, or what to wait for
  save: Callable[[str], float] | None = None  # writes what it computed to a file, returns the loss
  amount: float | None = None                 # where given, the value is this much per second
  about: dict = {}                            # goes into the answer to the setup


def check_mode(mode: str, modes: Collection[str]) -> None:
  """Refuses a mode that a measure has not.

  Args:
    mode: asked for.
    modes: all that the measure has.

  Raises:
    ValueError: `mode` is none of them.
  """
  if mode not in modes:
    raise ValueError(f'expected mode to be one of {", ".join(modes)}, got {mode!r}')
