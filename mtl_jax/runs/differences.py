"""What differs between two settings, each setting by its dotted name, such as `config.inner.lr`."""
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MOST_NAMED = 5  # differences in one message; more than that are not read

_NOT_SET = object()


class Difference(NamedTuple):
  """A setting whose values differ."""
  name: str   # dotted
  there: Any  # value in the first of the two settings
  here: Any   # value in the second

  def __str__(self) -> str:
    return f'{self.name}: {_text(self.there)} there, {_text(self.here)} here'


def find(there: Mapping[str, Any], here: Mapping[str, Any], within: str = '') -> list[Difference]:
  """Compares two nested settings.

  Args:
    there: the settings found, of values that JSON can hold.
    here: the settings to compare with.
    within: what to put before each name.

  Returns:
    The settings that differ, sorted by name.

  >>> [str(each) for each in find({'way': 5, 'inner': {'lr': 0.1}}, {'way': 5, 'inner': {}})]
  ['inner.lr: 0.1 there, not set here']
  """
  found = []
  for key in sorted(there.keys() | here.keys()):
    name, a, b = f'{within}{key}', there.get(key, _NOT_SET), here.get(key, _NOT_SET)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      found += find(a, b, f'{name}.')
    elif a is _NOT_SET or b is _NOT_SET or a != b:
      found.append(Difference(name, a, b))
  return found


def find_shared(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
  """Compares two nested settings as far as both say something.

  Args:
    there: as in `find`.
    here: likewise; a part of all settings will do.

  Returns:
    As `find`.

  >>> [str(each) for each in find_shared({'way': 5, 'inner': {'lr': 0.1}}, {'inner': {'lr': 0.2}})]
  ['inner.lr: 0.1 there, 0.2 here']
  """
  return [each for each in find(there, here) if _NOT_SET not in (each.there, each.here)]


def summarize(differences: Sequence[Difference]) -> str:
  """Returns the first differences in one line, and how many more there are.

  Args:
    differences: of `find`.
  """
  named = [str(difference) for difference in differences[:MOST_NAMED]]
  more = len(differences) - len(named)
  return '; '.join(named + ([f'and {more} more'] if more else []))


def _text(value: Any) -> str:
  if value is _NOT_SET:
    return 'not set'
  # What nests is not printed whole: its other side is no such thing, which says enough.
  return '{...}' if isinstance(value, Mapping) and value else json.dumps(value)
