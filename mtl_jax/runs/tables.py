"""Tables of accuracies on the terminal and in Markdown."""
from rich import box, console, table


def show(title: str, rows: list[tuple[str, float, float]]) -> None:
  """Prints accuracies with their 95% intervals, in percent.

  Args:
    title: stands above the table.
    rows: (method, accuracy, half-width of the interval), the last two in [0, 1].
  """
  show_columns(title, ['method', 'accuracy, %'],
               [[method, f'{100 * accuracy:.2f} ± {100 * interval:.2f}'] for method, accuracy, interval in rows])


def show_columns(title: str, header: list[str], rows: list[list[str]]) -> None:
  """Prints a table; its first column is aligned to the left, the others to the right.

  Args:
    title: stands above the table.
    header: names of the columns.
    rows: cells.
  """
  shown = table.Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
  for index, name in enumerate(header):
    shown.add_column(name, justify='right' if index else 'left')
  for row in rows:
    shown.add_row(*row)
  console.Console(width=100 if len(header) < 4 else 130).print(shown)


def markdown(header: list[str], rows: list[list[str]]) -> str:
  """Writes a table in Markdown; its first column is aligned to the left, the others to the right.

  Args:
    header: names of the columns.
    rows: cells.

  Returns:
    Lines without a break at the end.

  >>> print(markdown(['row', 'accuracy'], [['a|b', '1 ± 0']]))
  | row | accuracy |
  |---|---:|
  | a\\|b | 1 ± 0 |
  """
  lines = [header, None, *rows]
  return '\n'.join('|---' + '|---:' * (len(header) - 1) + '|' if line is None else
                   '| ' + ' | '.join(cell.replace('|', r'\|') for cell in line) + ' |' for line in lines)
