"""Breaks everything on purpose, and prints a table of tries and failures.

  python -m tests.faults --kills=5 --mutations=500 --cases=1000
"""
import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults import damage, kills, readers, tally


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kills', type=int, default=5, help='Kills and signals of each phase.')
  parser.add_argument('--mutations', type=int, default=500, help='Damages of each file.')
  parser.add_argument('--cases', type=int, default=1000, help='Damaged files of each reader.')
  parser.add_argument('--seed', type=int, default=0, help='Decides all of them.')
  arguments = parser.parse_args()
  found = run(arguments.kills, arguments.mutations, arguments.cases, arguments.seed)
  print(tally.table(found))
  sys.exit(any(each.failures for each in found))


def run(num_kills: int, mutations: int, cases: int, seed: int) -> list[tally.Tally]:
  """Tries everything; returns a row for each kind."""
  with tempfile.TemporaryDirectory() as name:
    folders = [Path(name) / part for part in ('cache', 'readers', 'kills')]
    for folder in folders:
      folder.mkdir()
    return [*(damage.of_workdir(mutations, seed) if mutations else ()),
            *(damage.of_cache(folders[0], mutations, seed) if mutations else ()),
            *(readers.fuzz(folders[1], cases, seed) if cases else ()),
            *(kills.of_phases(folders[2], num_kills, seed) if num_kills else ())]


if __name__ == '__main__':
  main()
