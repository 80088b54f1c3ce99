"""What all reproductions share: runs that are gone on from, and how their tables are written."""
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from mtl_jax import episodes, runs
from mtl_jax.runs import tables, workdirs
from mtl_jax.types import Dataset

from .. import pretrain as pretrain_command
from ..flags import declared, method, network, task

_SPENT = 'spent.json'
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
    The content of `results.json`: the results, with the machine, and the seconds of all processes
    that worked on it, but for those that were killed.

  Raises:
    ValueError: a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  workdirs.claim(workdir, settings)
  if (results := workdirs.read_results(workdir)) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return results
  with workdirs.in_use(workdir):
    with _timed(workdir) as spent:
      results = compute()
    results |= {**spent, **workdirs.describe_machine()}
    write(workdir, results)
    workdirs.write_results(workdir, results)
  return results


@contextlib.contextmanager
def _timed(workdir: str) -> Iterator[dict[str, float]]:
  """Adds up what all processes have spent on a table, those that were stopped included."""
  earlier = workdirs.read_json(workdir, _SPENT) or {'seconds': 0.0, 'cpu_seconds': 0.0}
  began, began_cpu, spent = time.monotonic(), time.process_time(), {}
  try:
    yield spent
  finally:
    spent |= {'seconds': earlier['seconds'] + time.monotonic() - began,
              'cpu_seconds': earlier['cpu_seconds'] + time.process_time() - began_cpu}
    workdirs.write_json(workdir, _SPENT, spent)


def check_tasks(dataset: Dataset, *, way: int, shots: Sequence[int]) -> None:
  """Refuses data that could not give the tasks of a table: at once, and not after hours.

  Args:
    dataset: the images.
    way: N.
    shots: of all columns.

  Raises:
    ValueError: a split has too few classes, or classes with too few images.
  """
  for split in ('train', 'val', 'test'):
    episodes.check_episode(getattr(dataset, split), way=way, shot=max(shots), query=1, split=split)


def pretrain(flags: Sequence[str], dataset: Dataset, *, seed: int, workdir: str,
             machine: runs.Machine) -> dict[str, Any]:
  """Pre-trains a network once.

  Args:
    flags: of `launch.pretrain`; of a flag given twice the last counts.
    dataset: the images.
    seed: of the run.
    workdir: of the run; what is finished there is not run again.
    machine: where and how it computes.

  Returns:
    The content of its `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    OSError: something could not be written.
  """
  values = declared.parse(pretrain_command.FLAGS, flags, require=False)
  return runs.pretrain_run(dataset, backbone=network.backbone_options(values),
                           config=network.pretrain_config(values, dataset),
                           validation=task.validation(values, method.inner(values)), seed=seed,
                           workdir=workdir, readout=network.readout_options(values),
                           machine=machine)


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
