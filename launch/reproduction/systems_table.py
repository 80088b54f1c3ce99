"""The table of systems: each beside what was published of it, and its gain over update θ."""
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mtl_jax.phases import meta_test
from mtl_jax.runs import paired

from . import table_runs
from .system_rows import PUBLISHED_ONLY, SYSTEMS
from .table_runs import Section

_BASELINE, _NONE = 'update_theta', '–'
_HEADER = ('system', 'starts from', 'published', 'accuracy', 'gain over update θ', 'rate',
           'seconds')


def summarize(done: Iterable[tuple[str, int, int, np.ndarray, Mapping[str, Any]]]
              ) -> list[dict[str, Any]]:
  """Pools the accuracies of the seeds of each system, and compares it with update θ task by task.

  Args:
    done: (system, shots, seed, accuracies per task, facts of its training).

  Returns:
    One dict for each system and shot: `accuracy`, `ci95`, `by_seed`, `facts` of each seed and,
    where update θ was run, `gain` over it (`paired.compare`). A row of fewer tasks has the first
    ones of the others.
  """
  kept: dict[tuple[str, int], dict[int, tuple]] = {}
  for name, shot, seed, accuracies, facts in done:
    kept.setdefault((name, shot), {})[seed] = (accuracies, facts)
  cells = []
  for (name, shot), seeds in kept.items():
    accuracy, ci95 = meta_test.summarize(np.concatenate([pair[0] for pair in seeds.values()]))
    cell = {'system': name, 'shot': shot, 'accuracy': accuracy, 'ci95': ci95,
            'by_seed': [float(np.mean(pair[0])) for pair in seeds.values()],
            'facts': [dict(pair[1]) for pair in seeds.values()]}
    if name != _BASELINE and (theirs := kept.get((_BASELINE, shot))) is not None:
      cell['gain'] = paired.compare([pair[0] for pair in seeds.values()],
                                    [theirs[seed][0] for seed in seeds])
    cells.append(cell)
  return cells


def write(workdir: str, results: Mapping[str, Any]) -> None:
  """Writes `table.md`.

  Args:
    workdir: of the table.
    results: as in its `results.json`.
  """
  table_runs.write(workdir, table_runs.markdown('Systems', results, _caption(results), _HEADER,
                                                sections(results)))


def show(results: Mapping[str, Any]) -> None:
  """Prints the tables, and how the figures came about.

  Args:
    results: of the table.
  """
  table_runs.show(_HEADER, sections(results), _caption(results))


def sections(results: Mapping[str, Any]) -> list[Section]:
  """Returns (title, rows of cells) for each number of shots.

  Args:
    results: of the table.
  """
  found = []
  for shot in results['shots']:
    column = (results['dataset'], shot)
    rows = [_line(cell, column) for cell in results['cells'] if cell['shot'] == shot]
    rows += [[name, _NONE, figures[column], *[_NONE] * 4]
             for name, figures in PUBLISHED_ONLY.items() if column in figures]
    found.append((f'{results["dataset"]}, 5-way {shot}-shot', rows))
  return found


def _line(cell: Mapping[str, Any], column: tuple[str, int]) -> list[str]:
  facts, system = cell['facts'], SYSTEMS[cell['system']]
  start = 'the pre-training' if system.start == 'pretrained' else 'random weights'
  return [system.method, start, system.published.get(column, _NONE),
          f'{100 * cell["accuracy"]:.2f} ± {100 * cell["ci95"]:.2f}',
          paired.text(cell['gain']) if 'gain' in cell else _NONE,
          ', '.join(sorted({f'{of_seed["inner_lr"]:g}' for of_seed in facts})),
          f'{np.mean([of_seed["seconds"] for of_seed in facts]):.0f}']


def _caption(results: Mapping[str, Any]) -> str:
  tasks = sorted({of_seed['num_tasks'] for cell in results['cells'] for of_seed in cell['facts']})
  return ('Accuracy in % on test classes with its 95% interval over tasks '
          f'({" or ".join(map(str, tasks))} for each seed); gains are over the same tasks, each '
          'seed in brackets. Rows from random weights normalise support and query by their own '
          'statistics. Rows that adapt θ alone are tested at the inner rate that is best for each '
          f'on validation tasks. {results["device"]}, {results["seconds"] / 3600:.1f} h.')
