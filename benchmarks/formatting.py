"""Figures as text: in the cells of the tables, beside the bars of the plots, and in logs."""
import numpy as np

NONE = '–'  # the cell of a side without a figure


def number(value: float) -> str:
  """Formats a number with three significant digits.

  Args:
    value: any.

  Returns:
    Such as '0.0123', '4.56', '1,234'.
  """
  if value == 0 or not np.isfinite(value):
    return f'{value:g}'
  digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
  return f'{value:,.{min(digits, 9)}f}'


def seconds(record: dict | None, scale: float = 1.0, *, brief: bool = False) -> str:
  """Formats the time of a side.

  Args:
    record: of `rounds.in_turn`; None where there is none.
    scale: 1 for seconds, 1000 for milliseconds.
    brief: whether to leave out the spread.

  Returns:
    '10.4 (10.2-10.9)', '> 300 s' where it took too long, '–' where there is no figure.
  """
  if record is None or 'median' not in record:
    why = (record or {}).get('skip', '')
    return why.split(' to ')[0] if why.startswith('>') else NONE
  median, least, most = (number(scale * record[key]) for key in ('median', 'min', 'max'))
  return median if brief else f'{median} ({least}-{most})'


def ratio(found: dict | None) -> str:
  """Formats a quotient of two sides.

  Args:
    found: of `rounds.ratios`; None where there is none.

  Returns:
    Such as '12.3 (11.9-12.8)'.
  """
  return seconds(found)
