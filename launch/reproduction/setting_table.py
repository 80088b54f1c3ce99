"""The table of the paper's setting: eight settings, and what each factor does to the gain.

    gain(s) = accuracy of SS[Θ;θ] in setting s - accuracy of update θ in s, task by task
    effect of a factor = mean over the levels of the other two of
                         gain(the paper's level) - gain(the level here)
"""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax.phases import meta_test
from mtl_jax.runs import paired, tables

from . import table_runs
from .setting_rows import FACTORS, OURS, PAPERS, ROWS, SAYS, SETTINGS, Setting
from .table_runs import Section

BASELINE = 'update_theta'
LEARNED = tuple(row for row in ROWS if row != BASELINE)
_HEADER = ('setting', *(ROWS[row] if row == BASELINE else f'{ROWS[row]}: gain' for row in ROWS),
           'inner rates', 'seconds')
_Done = tuple[Setting, str, int, int, np.ndarray, Mapping[str, Any]]


def summarize(done: Iterable[_Done]) -> dict[str, Any]:
  """Compares scale and shift with update θ in each setting, and the settings with each other.

  Args:
    done: (setting, row, shots, seed, accuracies per task, facts of its training) of every cell; the
      tasks of a seed are the same in all settings.

  Returns:
    `cells`: one dict for each setting, row and shot, with `accuracy`, `ci95`, `facts` of each seed
    and, but for update θ, `gain` over it. `effects`: one dict for each factor, row and shot, and
    for all factors at once, with `effect`. Comparisons are those of `paired.compare`.
  """
  kept: dict[tuple[Setting, str, int], tuple[list, list]] = {}
  for setting, row, shot, _, accuracies, facts in done:
    of_seeds = kept.setdefault((setting, row, shot), ([], []))
    of_seeds[0].append(np.asarray(accuracies, np.float64))
    of_seeds[1].append(dict(facts))
  cells = []
  for (setting, row, shot), (accuracies, facts) in kept.items():
    accuracy, ci95 = meta_test.summarize(np.concatenate(accuracies))
    cell = {'setting': list(setting), 'row': row, 'shot': shot, 'accuracy': accuracy, 'ci95': ci95,
            'facts': facts}
    if row != BASELINE:
      cell['gain'] = paired.compare(accuracies, kept[setting, BASELINE, shot][0])
    cells.append(cell)
  gains = {key: [ours - theirs for ours, theirs in zip(
      accuracies, kept[key[0], BASELINE, key[2]][0], strict=True)]
      for key, (accuracies, _) in kept.items() if key[1] != BASELINE}
  effects = [{'factor': factor, 'row': row, 'shot': shot,
              'effect': paired.compare(*_levels(gains, factor, row, shot))}
             for shot in sorted({key[2] for key in kept}) for row in LEARNED
             for factor in (*FACTORS, 'all')]
  return {'cells': cells, 'effects': effects}


def _levels(gains: Mapping[tuple[Setting, str, int], Sequence[np.ndarray]], factor: str, row: str,
            shot: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """The gains at the paper's level of a factor and at ours, of each seed, averaged over others."""
  if factor == 'all':
    return list(gains[PAPERS, row, shot]), list(gains[OURS, row, shot])

  def averaged(level):
    found = [gains[setting, row, shot] for setting in SETTINGS if getattr(setting, factor) == level]
    return [np.mean(of_seed, axis=0) for of_seed in zip(*found, strict=True)]

  papers, ours = FACTORS[factor]
  return averaged(papers), averaged(ours)


def write(workdir: str, results: Mapping[str, Any]) -> None:
  """Writes `table.md`.

  Args:
    workdir: of the table.
    results: as in its `results.json`.
  """
  lines = table_runs.markdown("The paper's setting taken apart", results, _caption(results),
                              _HEADER, sections(results))
  for title, rows in effects(results):
    lines += ['', f'## {title}', '', tables.markdown(_effect_header(), rows)]
  table_runs.write(workdir, lines)


def show(results: Mapping[str, Any]) -> None:
  """Prints the tables, and how the figures came about.

  Args:
    results: of the table.
  """
  for (title, rows), (effect_title, effect_rows) in zip(
      sections(results), effects(results), strict=True):
    tables.show_columns(title, _HEADER, rows)
    tables.show_columns(effect_title, _effect_header(), effect_rows)
  print(_caption(results))


def sections(results: Mapping[str, Any]) -> list[Section]:
  """Returns (title, a row for each setting) for each number of shots.

  Args:
    results: of the table.
  """
  return [(f'{results["dataset"]}, 5-way {shot}-shot',
           [_line([cell for cell in results['cells']
                   if cell['shot'] == shot and tuple(cell['setting']) == setting])
            for setting in SETTINGS]) for shot in results['shots']]


def effects(results: Mapping[str, Any]) -> list[Section]:
  """Returns (title, a row for each factor and one for all of them) for each number of shots.

  Args:
    results: of the table.
  """
  found = []
  for shot in results['shots']:
    of_shot = {(effect['factor'], effect['row']): paired.text(effect['effect'])
               for effect in results['effects'] if effect['shot'] == shot}
    rows = [[SAYS.get(factor, "all three: the paper's setting over ours"),
             *(of_shot[factor, row] for row in LEARNED)] for factor in (*FACTORS, 'all')]
    found.append((f'{results["dataset"]}, 5-way {shot}-shot: what a factor adds to the gain', rows))
  return found


def _effect_header() -> tuple[str, ...]:
  return ('factor', *(ROWS[row] for row in LEARNED))


def _line(cells: Sequence[Mapping[str, Any]]) -> list[str]:
  by_row = {cell['row']: cell for cell in cells}
  base = by_row[BASELINE]
  rates = [', '.join(sorted({f'{facts["inner_lr"]:g}' for facts in by_row[row]['facts']}))
           for row in ROWS]
  seconds = np.mean([facts['seconds'] for row in LEARNED for facts in by_row[row]['facts']])
  return [', '.join(base['setting']),
          f'{100 * base["accuracy"]:.2f} ± {100 * base["ci95"]:.2f}',
          *(paired.text(by_row[row]['gain']) for row in LEARNED), '; '.join(rates),
          f'{seconds:.0f}']


def _caption(results: Mapping[str, Any]) -> str:
  return (f'Accuracy in % on test classes with its 95% interval over {results["num_tasks"]} tasks '
          f'for each seed; gains over update θ of the same setting, over the same tasks, each seed '
          'in brackets. Every row is tested at the inner rate that is best for it on validation '
          'tasks; in meta-training that of update θ. Levels in the order pre-training, features, '
          f'batch norm. {results["device"]}, {results["seconds"] / 3600:.1f} h.')
