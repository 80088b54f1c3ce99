"""The figure of the transfer table's meta-trainings: validation accuracy against outer steps.

An outer step on hard tasks sees as many images as one on ordinary tasks, and the failures come from
the queries of those; so equal outer steps are equal images, and both axes stand in one figure.
"""
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mtl_jax.runs import figures, workdirs

from .transfer_rows import method_of


def write(workdir: str, cells: Sequence[Mapping[str, Any]]) -> bool:
  """Writes `curves.png` and `curves.svg`, where anything was meta-trained.

  Args:
    workdir: of the table.
    cells: of `transfer_table.summarize`.

  Returns:
    Whether there was anything to draw.
  """
  drawn = [cell for cell in cells if cell['part'] == 'all' and 'curve' in cell['facts'][0]]
  if drawn:
    figure = plot(drawn)
    for ending in ('png', 'svg'):
      workdirs.write_file(workdir, f'curves.{ending}', figures.encode(figure, ending))
  return bool(drawn)


def plot(cells: Sequence[Mapping[str, Any]]) -> Figure:
  """Draws a panel for each source, target and shot: a line per row, the mean over its seeds.

  Args:
    cells: with a `curve` (step -> accuracy in [0, 1]) among the facts of each seed; the band goes
      from the lowest seed to the highest.
  """
  panels: dict[tuple, list] = {}
  for cell in cells:
    panels.setdefault((cell['source'], cell['target'], cell['shot']), []).append(cell)
  figure = Figure(figsize=(5.5 * len(panels), 4.5), layout='constrained')
  for axes, ((source, _, shot), of_panel) in zip(
      figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
    for cell in of_panel:
      _draw(axes, cell)
    per_step = of_panel[0]['facts'][0]['images_per_step']
    above = axes.secondary_xaxis('top', functions=(
        functools.partial(np.multiply, per_step / 1000), functools.partial(
            np.multiply, 1000 / per_step)))
    above.set_xlabel('images seen, thousands')
    axes.set_xlabel('outer steps')
    target = of_panel[0]['facts'][0]['data']
    axes.set_title(f'{target}, {os.path.basename(source)}, {shot}-shot', fontsize='medium')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
  figure.axes[0].set_ylabel('accuracy on validation classes, %')
  return figure


def _draw(axes: Any, cell: Mapping[str, Any]) -> None:
  curves = [facts['curve'] for facts in cell['facts']]
  # A file of JSON has its steps as text.
  steps = [int(step) for step in curves[0]]
  percent = 100 * np.array([list(curve.values()) for curve in curves])
  [line] = axes.plot(steps, percent.mean(axis=0), marker='.', label=method_of(cell['row']))
  if len(curves) > 1:
    axes.fill_between(steps, percent.min(axis=0), percent.max(axis=0), alpha=0.2, linewidth=0,
                      color=line.get_color())
