"""Breaks everything on purpose, and prints a table of tries and failures.

  python -m tests.faults --kills=2 --signals=2 --places=2 --mutations=500 --cases=1000 --lines=100
"""
import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.faults import bombs, command_lines, damage, kills, places, readers, tally


class Numbers(NamedTuple):
  """How often each thing is tried; 0 leaves it out."""
  kills: int = 2        # of each phase, by SIGKILL
  signals: int = 2      # to each phase
  places: int = 2       # full disks, read-only ones, folders that are moved
  mutations: int = 500  # of each file of a work directory and of the cache
  cases: int = 1000     # damaged files of each reader
  lines: int = 100      # wrong command lines
  bombs: int = 1        # whether bombs are tried


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, default in Numbers()._asdict().items():
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--seed', type=int, default=0, help='Decides all of them.')
  values = vars(parser.parse_args())
  found = run(Numbers(**{name: values[name] for name in Numbers._fields}), values['seed'])
  print(tally.table(found))
  sys.exit(any(each.failures for each in found))


def run(numbers: Numbers, seed: int) -> list[tally.Tally]:
  """Tries everything; returns a row for each kind, and prints it as soon as it is there."""
  with tempfile.TemporaryDirectory() as name:
    def folder(part):
      (Path(name) / part).mkdir()
      return Path(name) / part

    parts = [
        (numbers.mutations, lambda: damage.of_workdir(numbers.mutations, seed)),
        (numbers.mutations, lambda: damage.of_cache(folder('cache'), numbers.mutations, seed)),
        (numbers.mutations,
         lambda: damage.of_artefacts(folder('artefacts'), numbers.mutations, seed)),
        (numbers.cases, lambda: readers.fuzz(folder('readers'), numbers.cases, seed)),
        (numbers.bombs, lambda: bombs.explode(folder('bombs'))),
        (numbers.lines, lambda: command_lines.of_registry(folder('lines'), numbers.lines, seed)),
        (numbers.places, lambda: places.of_runs(folder('places'), numbers.places, seed)),
        (numbers.kills + numbers.signals,
         lambda: kills.of_phases(folder('kills'), numbers.kills, numbers.signals, seed))]
    found: list[tally.Tally] = []
    for number, tried in parts:
      rows = tried() if number else []
      print(tally.table(rows), file=sys.stderr, flush=True)  # hours of it would be lost else
      found += rows
    return found


if __name__ == '__main__':
  main()
