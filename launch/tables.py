"""A table of accuracies on the terminal."""
from rich import box, console, table


def show(title: str, rows: list[tuple[str, float, float]]) -> None:
  """Prints accuracies with their 95% intervals, in percent.

  Args:
    title: stands above the table.
    rows: (method, accuracy, half-width of the interval), the last two in [0, 1].
  """
  shown = table.Table(title=title, title_justify='left', box=box.SIMPLE_HEAD)
  shown.add_column('method')
  shown.add_column('accuracy, %', justify='right')
  for method, accuracy, interval in rows:
    shown.add_row(method, f'{100 * accuracy:.2f} ± {100 * interval:.2f}')
  console.Console(width=100).print(shown)
