"""Results of a suite as JSON, as tables in Markdown and as plots; and all of them together in benchmark.md."""
import json
import os

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from benchmarks.plan import Suite
from launch.reproduction import figures
from mtl_jax.runs import tables, workdirs

NONE = '–'
JOINED = 'benchmark.md'
# Warm colours for this library, cold ones for PyTorch.
_COLORS = {'jax dual': 'tab:red', 'jax float32': 'tab:red', 'jax scan': 'tab:orange', 'jax unrolled': 'tab:brown',
           'pytorch unrolled': 'tab:blue', 'pytorch batched': 'tab:cyan', 'pytorch func': 'tab:green',
           'pytorch compile': 'tab:purple'}


def write(out: str, name: str, suite: Suite, results: dict) -> None:
  """Writes `name.json`, `.md`, `.png` and `.svg`, and `benchmark.md` of all suites that are there.

  Args:
    out: folder, which exists.
    name: of the suite.
    suite: what makes tables and plot.
    results: `settings`, `rows`, `notes`, `workers`, `machine`, `date`, `command`.

  Raises:
    OSError: a file cannot be written.
  """
  figure = suite.plot(results)
  for ending in ('png', 'svg'):
    workdirs.write_file(out, f'{name}.{ending}', figures.encode(figure, ending))
  workdirs.write_file(out, f'{name}.md', markdown(name, suite, results).encode())
  # The JSON file last: where it is, the suite is complete.
  workdirs.write_file(out, f'{name}.json', (json.dumps(results, indent=1) + '\n').encode())


def markdown(name: str, suite: Suite, results: dict) -> str:
  """Writes the report of a suite.

  Args:
    name: of the suite.
    suite: what makes its tables.
    results: as in `write`.

  Returns:
    Its Markdown.
  """
  lines = [f'## {name}', '', f'`{results["command"]}`', '', *(f'- {line}' for line in about(results))]
  for table in suite.tables(results):
    lines += ['', f'**{table.title}**', '', tables.markdown(table.header, table.rows)]
  if results['notes']:
    lines += ['', *(f'- {note}' for note in results['notes'])]
  return '\n'.join([*lines, '', f'![{name}]({name}.png)', ''])


def join(out: str, names: list[str]) -> str:
  """Joins the reports that exist to `benchmark.md`.

  Args:
    out: folder.
    names: of all suites, in order.

  Returns:
    The path of `benchmark.md`.

  Raises:
    OSError: a file cannot be read or written.
  """
  parts = ['# Benchmark\n\nMedians of interleaved rounds, with the least and the greatest in brackets; PyTorch over '
           'this library: above 1, this library is faster.\n']
  for name in names:
    path = os.path.join(out, f'{name}.md')
    if os.path.exists(path):
      with open(path, encoding='utf-8') as file:
        parts.append(file.read())
  workdirs.write_file(out, JOINED, '\n'.join(parts).encode())
  return os.path.join(out, JOINED)


def about(results: dict) -> list[str]:
  """Describes machine, sides and date in lines.

  Args:
    results: as in `write`.

  Returns:
    Lines.
  """
  pairs = results['settings']['pairs']
  lines = [f'{results["machine"]}; {results["date"]}; {pairs} round{"s" if pairs > 1 else ""}']
  for side, described in results['workers'].items():
    versions = ', '.join(f'{package} {version}' for package, version in described['versions'].items())
    lines.append(f'{side}: {versions}; {described["device"]}, {described["threads"]} threads')
  return lines


def say(suite: str, row: dict, sides: dict) -> None:
  """Logs what was just measured.

  Args:
    suite: its name.
    row: what decides it.
    sides: name -> record of `rounds.in_turn`.
  """
  logging.info('%s %s: %s', suite, ', '.join(f'{name} {value}' for name, value in row.items()),
               ', '.join(f'{name} {seconds(record, 1e3, brief=True)} ms' for name, record in sides.items()))


# --- Cells. ---

def number(value: float) -> str:
  """Writes a number with three digits that count.

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
  """Writes the time of a side.

  Args:
    record: of `rounds.in_turn`; None where there is none.
    scale: 1 for seconds, 1000 for milliseconds.
    brief: leave out the spread.

  Returns:
    '10.4 (10.2-10.9)', '> 300 s' where it took too long, '–' where there is no figure.
  """
  if record is None or 'median' not in record:
    why = (record or {}).get('skip', '')
    return why.split(' to ')[0] if why.startswith('>') else NONE
  if brief:
    return number(scale * record['median'])
  return f'{number(scale * record["median"])} ({number(scale * record["min"])}-{number(scale * record["max"])})'


def ratio(found: dict | None) -> str:
  """Writes a quotient of two sides.

  Args:
    found: of `rounds.ratios`; None where there is none.

  Returns:
    Such as '12.3 (11.9-12.8)'.
  """
  return seconds(found)


# --- Plots. ---

def line(axes, name: str, points: list[tuple[float, dict]], *, scale: float = 1.0, legend: str | None = None,
         **style) -> None:
  """Draws medians with their spread; sides without a figure are left out.

  Args:
    axes: of matplotlib.
    name: of the side.
    points: (x, record of `rounds.in_turn`).
    scale: of the times.
    legend: what it is called; None for its name.
    **style: of the line.
  """
  found = [(x, record) for x, record in points if 'median' in record]
  if not found:
    return
  xs = [x for x, _ in found]
  low, middle, high = (scale * np.array([record[key] for _, record in found]) for key in ('min', 'median', 'max'))
  axes.errorbar(xs, middle, (middle - low, high - middle), color=_COLORS[name], label=legend or name, marker='.',
                capsize=2, **style)
  axes.set_yscale('log')
  axes.grid(alpha=0.3)


def bars(axes, records: dict[str, dict], *, scale: float = 1.0, key: str = 'median', log: bool = False) -> None:
  """Draws a bar per side with its figure beside it; sides without one are left out.

  Args:
    axes: of matplotlib.
    records: name -> record with `key`, and `min` and `max` where that is 'median'.
    scale: of the figures.
    key: what is drawn.
    log: logarithmic axis.
  """
  found = {name: record for name, record in records.items() if record.get(key) is not None}
  values = scale * np.array([record[key] for record in found.values()])
  places = np.arange(len(found))[::-1]
  spread, ends = None, values
  if key == 'median':
    low, ends = (scale * np.array([record[end] for record in found.values()]) for end in ('min', 'max'))
    spread = (values - low, ends - values)
  axes.barh(places, values, xerr=spread, height=0.7,
            color=['tab:red' if name.startswith('jax') else 'tab:blue' for name in found],
            error_kw={'capsize': 2, 'linewidth': 1})
  for place, value, end in zip(places, values, ends, strict=True):
    axes.annotate(number(value), (end, place), xytext=(4, 0), textcoords='offset points', va='center',
                  fontsize='small')
  axes.set_yticks(places, list(found))
  axes.margins(x=0.25)  # for the figures
  if log and len(values):
    axes.set_xscale('log')
    axes.set_xlim(values.min() / 10, values.max() * 5)
  else:
    axes.locator_params(axis='x', nbins=5)  # large numbers would touch
  axes.grid(axis='x', alpha=0.3)


def label(figure: Figure, panels, x: str, y: str) -> None:
  """Puts names at the outer axes and one legend below all panels.

  Args:
    figure: of matplotlib.
    panels: array of axes [rows, columns].
    x: name of the horizontal axis.
    y: name of the vertical one.
  """
  for axes in panels[-1]:
    axes.set_xlabel(x)
  for axes in panels[:, 0]:
    axes.set_ylabel(y)
  named = {}
  for axes in panels.flat:
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
      named.setdefault(name, handle)
  figure.legend(named.values(), named.keys(), loc='outside lower center', ncols=3, fontsize='small')
