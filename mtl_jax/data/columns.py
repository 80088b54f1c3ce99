"""Which column of a table holds the image, the class and the split, by what it is called."""
from collections.abc import Iterable, Sequence
from typing import NamedTuple

IMAGE = ('filename', 'file', 'path', 'image', 'image_path', 'filepath')
LABEL = ('label', 'class', 'class_name', 'category', 'target', 'y')
SPLIT = ('split', 'set', 'subset', 'partition')

_MOST_NAMED = 20


class Named(NamedTuple):
  """Columns that were named by the user."""
  image: str | None = None
  label: str | None = None


NONE_NAMED = Named()


def find(where: str, columns: Sequence[str], candidates: Iterable[str], named: str | None,
         what: str) -> str:
  """Finds the one column that holds something.

  Args:
    where: the table, for the message.
    columns: all columns, in any order; case and blanks around a name do not matter.
    candidates: what it may be called.
    named: what the user says that it is called, if so.
    what: 'image' or 'label', for the message.

  Returns:
    The column, as it stands in the table.

  Raises:
    ValueError: there is none, or there are several.
  """
  wanted = [named] if named is not None else list(candidates)
  found = matching(columns, wanted)
  if len(found) == 1:
    return found[0]
  listed = ', '.join(columns[:_MOST_NAMED]) or 'none'
  if named is not None:
    raise ValueError(f'{where}: expected one column {named!r} (--{what}_column), found the columns '
                     f'{listed}')
  problem = f'{len(found)} such ({", ".join(found)})' if found else 'none of them'
  raise ValueError(f'{where}: expected one column of {what}s, called {", ".join(wanted)}, found '
                   f'{problem} in the columns {listed}; name it with --{what}_column')


def find_split(where: str, columns: Sequence[str]) -> str | None:
  """Finds the column that says which split a row belongs to; None where there is none.

  Args:
    where: the table, for the message.
    columns: all columns.

  Raises:
    ValueError: there are several.
  """
  return find(where, columns, SPLIT, None, 'split') if matching(columns, SPLIT) else None


def matching(columns: Iterable[str], names: Iterable[str]) -> list[str]:
  """Lists the columns that are called by one of some names.

  Args:
    columns: of a table.
    names: in any case.
  """
  wanted = {name.strip().lower() for name in names}
  return [column for column in columns if column.strip().lower() in wanted]
