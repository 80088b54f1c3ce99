"""Tables of accuracies on the terminal and in Markdown."""
from collections.abc import Sequence

from rich import box, console, markup, table

# Columns of the terminal that a table may take; wide tables have four columns or more.
_NARROW, _WIDE = 100, 130


def show(title: str, rows: Sequence[tuple[str, float, float]]) -> None:
  """Prints accuracies with their 95% intervals, in percent.

  Args:
    title: stands above the table.
    rows: (method, accuracy, half-width of the interval), the last two in [0, 1].
  """
  cells = [[method, f'{100 * accuracy:.2f} ± {100 * interval:.2f}']
           for method, accuracy, interval in rows]
  show_columns(title, ['method', 'accuracy, %'], cells)


def show_columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
  """Prints a table; its first column is aligned to the left, the others to the right.

  Args:
    title: stands above the table.
    header: names of the columns.
    rows: cells, as many in each row as the header has.
  """
  shown = table.Table(box=box.SIMPLE_HEAD)
  for index, name in enumerate(header):
    shown.add_column(name, justify='right' if index else 'left')
  for row in rows:
    shown.add_row(*map(markup.escape, row))
  _print(title, shown, _NARROW if len(header) < 4 else _WIDE)


def show_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
  """Prints what is known of a thing; long values go on in the next line.

  Args:
    title: stands above them.
    facts: (what, its value).
  """
  shown = table.Table(box=box.SIMPLE_HEAD, show_header=False)
  shown.add_column(no_wrap=True)
  shown.add_column(overflow='fold')
  for fact in facts:
    shown.add_row(*map(markup.escape, fact))
  _print(title, shown, _NARROW)


def _print(title: str, shown: table.Table, width: int) -> None:
  # A title of the table itself would be wrapped at the table's width.
  terminal = console.Console(width=width)
  terminal.print(title, style='table.title', markup=False, highlight=False, soft_wrap=True)
  terminal.print(shown)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a table in Markdown, without a line break at the end.

  The first column is aligned to the left, the others to the right.

  Args:
    header: names of the columns.
    rows: cells, as many in each row as the header has; a '|' in them is escaped.

  >>> print(markdown(['row', 'accuracy'], [['a|b', '1 ± 0']]))
  | row | accuracy |
  |---|---:|
  | a\\|b | 1 ± 0 |
  """
  def line(cells):
    return '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |'

  rule = '|---' + '|---:' * (len(header) - 1) + '|'
  return '\n'.join([line(header), rule, *map(line, rows)])
