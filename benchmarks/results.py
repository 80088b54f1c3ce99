"""The files of a suite: JSON, tables in Markdown and plots; and all of them in benchmark.md."""
import json
import os

from benchmarks.plan import Suite
from mtl_jax.runs import figures, tables, workdirs

JOINED = 'benchmark.md'


def write(out: str, name: str, suite: Suite, results: dict) -> None:
  """Writes `name.json`, `.md`, `.png` and `.svg`.

  Args:
    out: folder, which exists.
    name: of the suite.
    suite: makes tables and plot of the results.
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
  """Formats the report of a suite.

  Args:
    name: of the suite.
    suite: makes the tables.
    results: as in `write`.

  Returns:
    Its Markdown.
  """
  lines = [f'## {name}', '', f'`{results["command"]}`', '',
           *(f'- {line}' for line in about(results))]
  for table in suite.tables(results):
    lines += ['', f'**{table.title}**', '', tables.markdown(table.header, table.rows)]
  if results['notes']:
    lines += ['', *(f'- {note}' for note in results['notes'])]
  return '\n'.join([*lines, '', f'![{name}]({name}.png)', ''])


def join(out: str, names: list[str]) -> str:
  """Joins the reports that exist in `benchmark.md`.

  Args:
    out: folder.
    names: of all suites, in order.

  Returns:
    The path of `benchmark.md`.

  Raises:
    OSError: a file cannot be read or written.
  """
  parts = ['# Benchmark\n\nMedians of interleaved rounds, with the least and the greatest in '
           'brackets; PyTorch over this library: above 1, this library is faster.\n']
  for name in names:
    path = os.path.join(out, f'{name}.md')
    if os.path.exists(path):
      with open(path, encoding='utf-8') as file:
        parts.append(file.read())
  workdirs.write_file(out, JOINED, '\n'.join(parts).encode())
  return os.path.join(out, JOINED)


def about(results: dict) -> list[str]:
  """Describes machine, date and sides in lines.

  Args:
    results: as in `write`.

  Returns:
    Lines.
  """
  pairs = results['settings']['pairs']
  lines = [f'{results["machine"]}; {results["date"]}; {pairs} round{"s" if pairs > 1 else ""}']
  for side, described in results['workers'].items():
    versions = ', '.join(f'{package} {version}'
                         for package, version in described['versions'].items())
    lines.append(f'{side}: {versions}; {described["device"]}, {described["threads"]} threads')
  return lines
