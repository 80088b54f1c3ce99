"""The transfer table: accuracies pooled over seeds, gains over update θ, and the figure of classes.
"""
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mtl_jax.phases import meta_test
from mtl_jax.runs import figures, paired, workdirs

from . import table_runs, transfer_curves
from .table_runs import Section
from .transfer_rows import SCRATCH, method_of, without_hard_tasks

_BASELINE = 'update_theta'
# Data sets of which some classes are among those of ImageNet.
_SEEN_BEFORE = {'cifar_fs': 'most', 'fc100': 'most', 'mini_imagenet': 'all',
                'tiered_imagenet': 'all', 'folder': 'perhaps some'}
_HEADER = ('row', 'accuracy', 'gain over update θ', 'gain of HT', 'learned', 'rate', 'seconds')


def summarize(done: Iterable[tuple[Any, str, str, np.ndarray, Mapping[str, Any]]]
              ) -> list[dict[str, Any]]:
  """Pools the accuracies of the seeds of each cell, and compares cells task by task.

  Args:
    done: (place, row, part of the base classes, accuracies per task, facts of the training).

  Returns:
    One dict for each source, target, shot, row and part: `accuracy`, `ci95`, `by_seed`, `facts` of
    each seed; `gain` over update θ and, of rows with hard tasks, `ht_gain` over the row without,
    each as `paired.compare` returns it.
  """
  kept: dict[tuple, dict[int, tuple]] = {}
  for place, row, part, accuracies, facts in done:
    cell = (place.source, place.target, place.shot, row, part)
    kept.setdefault(cell, {})[place.seed] = (accuracies, facts)
  cells = []
  for (source, target, shot, row, part), seeds in kept.items():
    accuracy, ci95 = meta_test.summarize(np.concatenate([pair[0] for pair in seeds.values()]))
    found = {'source': source, 'target': target, 'shot': shot, 'row': row, 'part': part,
             'accuracy': accuracy, 'ci95': ci95,
             'by_seed': [float(np.mean(pair[0])) for pair in seeds.values()],
             'facts': [dict(pair[1]) for pair in seeds.values()]}
    others = {'gain': (_BASELINE, 'all')} if row != _BASELINE else {}
    if (plain := without_hard_tasks(row)) != row:
      others['ht_gain'] = (plain, part)
    for name, (other, other_part) in others.items():
      if (theirs := kept.get((source, target, shot, other, other_part))) is not None:
        found[name] = paired.compare([seeds[seed][0] for seed in seeds],
                                     [theirs[seed][0] for seed in seeds])
    cells.append(found)
  return cells


def write(workdir: str, results: Mapping[str, Any]) -> None:
  """Writes `table.md` and, as `.png` and `.svg`, `classes` and `curves`, where there are any.

  Args:
    workdir: of the table.
    results: as in its `results.json`.
  """
  lines = table_runs.markdown('Transfer', results, _caption(results), _HEADER, sections(results))
  if any(cell['part'] != 'all' for cell in results['cells']):
    figure = plot(results['cells'])
    for ending in ('png', 'svg'):
      workdirs.write_file(workdir, f'classes.{ending}', figures.encode(figure, ending))
    lines += ['', '![accuracy against the number of base classes](classes.png)']
  if transfer_curves.write(workdir, results['cells']):
    lines += ['', '![accuracy on validation classes against outer steps](curves.png)']
  table_runs.write(workdir, lines)


def show(results: Mapping[str, Any]) -> None:
  """Prints the tables, and how the figures came about.

  Args:
    results: of the table.
  """
  table_runs.show(_HEADER, sections(results), _caption(results))


def sections(results: Mapping[str, Any]) -> list[Section]:
  """Returns (title, rows of cells) for each source, target, number of shots and of base classes.

  Args:
    results: of the table.
  """
  found: dict[str, list[list[str]]] = {}
  for cell in results['cells']:
    of_part = '' if cell['part'] == 'all' else f', {cell["facts"][0]["base_classes"]} base classes'
    found.setdefault(_title(cell) + of_part, []).append(_line(cell))
  return list(found.items())


def _title(cell: Mapping[str, Any]) -> str:
  source = '4CONV pre-trained on it' if cell['source'] == SCRATCH else cell['source']
  title = f'{cell["facts"][0]["data"]}, {source}, 5-way {cell["shot"]}-shot'
  seen = _SEEN_BEFORE.get(cell['target'])
  if seen is None or not cell['facts'][0]['public']:
    return title
  return (f'{title} ({seen} of its classes are in ImageNet: transfer to a domain, not to new '
          'classes)')


def _line(cell: Mapping[str, Any]) -> list[str]:
  facts = cell['facts']
  size = facts[0].get('size', 0)
  return [method_of(cell['row']), f'{100 * cell["accuracy"]:.2f} ± {100 * cell["ci95"]:.2f}',
          _gain(cell, 'gain'), _gain(cell, 'ht_gain'), f'{size:,}' if size else '–',
          ', '.join(sorted({f'{of_seed["inner_lr"]:g}' for of_seed in facts})),
          f'{np.mean([of_seed["seconds"] for of_seed in facts]):.0f}']


def _gain(cell: Mapping[str, Any], name: str) -> str:
  return paired.text(cell[name]) if name in cell else '–'


def _caption(results: Mapping[str, Any]) -> str:
  return ('Accuracy in % on test classes, inductive, with its 95% interval over tasks; gains are '
          'over the same tasks; in brackets the interval over seeds, and each seed. The inner rate '
          'is the one at which update θ is best on validation tasks. '
          f'{results["device"]}, {results["seconds"] / 3600:.1f} h.')


def plot(cells: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws accuracy against the number of base classes: a panel for each source, target and shot.

  Networks that were pre-trained on the target itself have none.

  Args:
    cells: of `summarize`.
  """
  panels = list(dict.fromkeys((cell['source'], cell['target'], cell['shot']) for cell in cells
                              if cell['source'] != SCRATCH))
  figure = Figure(figsize=(4.5 * len(panels), 4), layout='constrained')
  for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
    of_panel = [cell for cell in cells
                if (cell['source'], cell['target'], cell['shot']) == panel]
    source, _, shot = panel
    for row in dict.fromkeys(cell['row'] for cell in of_panel):
      _draw(axes, row, [cell for cell in of_panel if cell['row'] == row])
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter('{x:.0f}')
    axes.set_xlabel('base classes of meta-training')
    target = of_panel[0]['facts'][0]['data']
    axes.set_title(f'{target}, {os.path.basename(source)}, {shot}-shot', fontsize='medium')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
  figure.axes[0].set_ylabel('accuracy on test classes, %')
  return figure


def _draw(axes: Any, row: str, cells: Sequence[Mapping[str, Any]]) -> None:
  """One line with error bars; update θ, which needs no base classes, as a level."""
  percent = [100 * cell['accuracy'] for cell in cells]
  if row == _BASELINE:
    axes.axhline(percent[0], color='0.5', linestyle='--', label=method_of(row))
    return
  classes = [cell['facts'][0]['base_classes'] for cell in cells]
  axes.errorbar(classes, percent, [100 * cell['ci95'] for cell in cells], marker='.', capsize=2,
                label=method_of(row))
