"""The paper's plot: accuracy on validation classes against meta-iterations, with hard tasks or not.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mtl_jax.runs import figures, metrics, workdirs

_LABELS = {'ss_all': 'meta-batch', 'ss_all_ht': 'HT meta-batch'}
_COLORS = {'ss_all': 'tab:blue', 'ss_all_ht': 'tab:red'}


def read_curve(workdir: str) -> dict[int, float]:
  """Reads the accuracy on validation classes in the course of a meta-training.

  Args:
    workdir: of the meta-training.

  Returns:
    Step -> accuracy in [0, 1].

  Raises:
    ValueError: its metrics are damaged.
  """
  return {line['step']: line['validation_accuracy']
          for line in metrics.read(workdir, 'meta_train') if 'validation_accuracy' in line}


def plot(curves: Mapping[str, Mapping[str, Any]], title: str) -> Figure:
  """Draws curves, with the band from the lowest to the highest where there are several seeds.

  Args:
    curves: preset -> {'steps': [n], 'validation_accuracy': [seeds][n]}, accuracies in [0, 1].
    title: stands above.

  Returns:
    A Figure; each line is the mean over seeds, in percent.
  """
  figure = Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  for preset, curve in curves.items():
    percent, color = 100 * np.asarray(curve['validation_accuracy']), _COLORS[preset]
    axes.plot(curve['steps'], percent.mean(axis=0), color=color, label=_LABELS[preset],
              marker='.')
    if len(percent) > 1:
      axes.fill_between(curve['steps'], percent.min(axis=0), percent.max(axis=0), color=color,
                        alpha=0.2, linewidth=0)
  axes.set_xlabel('meta-iterations (outer steps)')
  axes.set_ylabel('accuracy on validation classes, %')
  axes.set_title(title, fontsize='medium')
  axes.grid(alpha=0.3)
  axes.legend()
  return figure


def write(workdir: str, jobs: Sequence[Any]) -> dict[str, dict[str, Any]]:
  """Draws `curves_Kshot.png` and `.svg` from the metrics of meta-trainings.

  Args:
    workdir: of the reproduction, with those of its rows in it.
    jobs: its rows, each a `rows.Job`; those of `ss_all` and `ss_all_ht` are drawn.

  Returns:
    Shot -> what was drawn, as `plot` takes it.

  Raises:
    OSError: a file cannot be read or written.
  """
  drawn = {}
  for shot in sorted({job.shot for job in jobs}):
    curves = {}
    for preset in _LABELS:
      of_seeds = [read_curve(os.path.join(workdir, job.folder)) for job in jobs
                  if (job.preset, job.shot) == (preset, shot)]
      curves[preset] = {'steps': list(of_seeds[0]),
                        'validation_accuracy': [list(curve.values()) for curve in of_seeds]}
    figure = plot(curves, f'SS[Θ;θ], 5-way {shot}-shot, {_seeds(curves)}')
    for ending in ('png', 'svg'):
      workdirs.write_file(workdir, f'curves_{shot}shot.{ending}', figures.encode(figure, ending))
    drawn[str(shot)] = curves
  return drawn


def _seeds(curves: Mapping[str, Mapping[str, Any]]) -> str:
  number = max(len(curve['validation_accuracy']) for curve in curves.values())
  return f'{number} seeds (band: all of them)' if number > 1 else '1 seed'
