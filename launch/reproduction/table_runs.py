"""What all reproductions share: a run that is gone on from, and how its tables are written."""
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from mtl_jax.runs import tables, workdirs

Section = tuple[str, list[list[str]]]  # title, rows of cells


def run(workdir: str, settings: dict[str, Any], compute: Callable[[], dict[str, Any]],
        write: Callable[[str, dict[str, Any]], None]) -> dict[str, Any]:
  """Computes a table once: where the work directory holds its results, these are returned.

  Args:
    workdir: claimed for this table.
    settings: all that decides its figures.
    compute: returns the results; what it finds finished under `workdir` it takes.
    write: writes the table, from its work directory and its results.

  Returns:
    The content of `results.json`: the results, with the seconds of this process and the machine.

  Raises:
    ValueError: a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  workdirs.claim(workdir, settings)
  if (results := workdirs.read_results(workdir)) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return results
  began, began_cpu = time.monotonic(), time.process_time()
  with workdirs.in_use(workdir):
    results = compute()
    results |= {'seconds': time.monotonic() - began, 'cpu_seconds': time.process_time() - began_cpu,
                **workdirs.describe_machine()}
    write(workdir, results)
    workdirs.write_results(workdir, results)
  return results


def markdown(title: str, results: Mapping[str, Any], caption: str, header: Sequence[str],
             sections: Sequence[Section]) -> list[str]:
  """Returns the lines of a `table.md`: command line, caption, and a table for each section.

  Args:
    title: of the whole.
    results: its `command_line` is read.
    caption: how the figures came about.
    header: of all tables.
    sections: title and rows of each.
  """
  lines = [f'# {title}', '', f'`{results["command_line"]}`', '', caption]
  for name, rows in sections:
    lines += ['', f'## {name}', '', tables.markdown(header, rows)]
  return lines


def write(workdir: str, lines: Sequence[str]) -> None:
  """Writes `table.md`.

  Args:
    workdir: of the table.
    lines: of the file.

  Raises:
    OSError: it cannot be written.
  """
  workdirs.write_file(workdir, 'table.md', ('\n'.join(lines) + '\n').encode())


def show(header: Sequence[str], sections: Sequence[Section], caption: str) -> None:
  """Prints the tables, and how the figures came about.

  Args:
    header: of all tables.
    sections: title and rows of each.
    caption: how the figures came about.
  """
  for title, rows in sections:
    tables.show_columns(title, header, rows)
  print(caption)
