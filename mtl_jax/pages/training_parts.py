"""Parts of a page about trainings: their curves, and what scale and shift became."""
import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax.pages import charts
from mtl_jax.pages.charts import Line
from mtl_jax.pages.markup import Html, Section, element, folded, join, note, section, table
from mtl_jax.pages.sources import Training
from mtl_jax.runs import models

_PHASES = {'pretrain': 'Pre-training', 'meta_train': 'Meta-training'}
# Metric -> (what the chart is called, its factor, the metric's own interval).
_CHARTS = {
    'validation_accuracy': ('accuracy on validation classes, %', 100, 'validation_ci95'),
    'accuracy': ('accuracy in training, %', 100, None),
    'loss': ('loss in training', 1, None),
    'hard_accuracy': ('accuracy in hard tasks, %', 100, None),
    'failure_classes': ('failure classes of a cycle', 1, None),
}
_MOST_FAILED = 6  # classes that are named of each third
_FULL = 0.1  # distance of a scale from 1 that fills its bar
_STEPS = {'pretrain': 'steps', 'meta_train': 'meta-iterations (outer steps)'}


def curves(trainings: Sequence[Training]) -> Section | None:
  """Draws the metrics of all trainings of a phase over each other.

  Args:
    trainings: any; None is returned where none has metrics.
  """
  parts = []
  for phase, title in _PHASES.items():
    runs = [run for run in trainings if run.settings['command'] == phase and run.metrics]
    drawn = [chart for name in _CHARTS if (chart := _chart(runs, phase, name)) is not None]
    if drawn:
      parts += [element('h3', title), element('div', *drawn, class_='row')]
  if not parts:
    return None
  return section('curves', 'Curves', *parts, note(
      'Bands are 95% intervals of the mean over validation tasks, where the run recorded them; '
      'more than 200 points of a line are averaged.'))


def _chart(runs: Sequence[Training], phase: str, name: str) -> Html | None:
  label = _CHARTS[name][0]
  lines = [_line(run, place, name) for place, run in enumerate(runs)]
  lines = [line for line in lines if len(line.x)]
  if not lines:
    return None
  return element('figure', element('figcaption', label),
                 charts.lines(lines, _STEPS[phase], label))


def _line(run: Training, color: int, name: str) -> Line:
  _, factor, interval = _CHARTS[name]
  found = [line for line in run.metrics if name in line]
  halves = None
  if interval is not None and found and all(interval in line for line in found):
    halves = [factor * line[interval] for line in found]
  return Line(run.name, color, [line['step'] for line in found],
              [factor * line[name] for line in found], halves)


def failures(trainings: Sequence[Training]) -> Section | None:
  """Describes how the collection of failure classes moved in the thirds of each meta-training.

  Args:
    trainings: any; None is returned where none recorded it.
  """
  parts = []
  for run in trainings:
    found = [int(line['most_failed']) for line in run.metrics if 'most_failed' in line]
    if not found:
      continue
    names = (run.model or {}).get('classes') or []
    thirds = [_most_common(part.tolist(), names) for part in np.array_split(found, 3)]
    rows = [[element('b', place + 1), *(third[place] if place < len(third) else '–'
                                        for third in thirds)]
            for place in range(max(map(len, thirds)))]
    parts += [element('h3', run.name),
              table(['', 'first third', 'second third', 'last third'], rows, class_='left')]
  if not parts:
    return None
  return section('failures', 'Failure classes', *parts, note(
      'The base class that failed most often in a cycle, and of how many cycles of that third of '
      'the meta-training it was: what the hard tasks were made of above all.'))


def _most_common(found: Sequence[int], names: Sequence[str]) -> list[str]:
  return [f'{names[label] if label < len(names) else f"class {label}"} ({number})'
          for label, number in collections.Counter(found).most_common(_MOST_FAILED)]


def scale_and_shift(trainings: Sequence[Training]) -> Section | None:
  """Lists how far the scales of each layer are from 1, and its shifts from 0.

  Args:
    trainings: any; None is returned where none has scale and shift.
  """
  parts = []
  for run in trainings:
    if run.model is None or models.META_PARAMS not in run.model['files']:
      continue
    tree = models.read_tree(run.folder, models.META_PARAMS)
    rows = [_row(name, layer) for name, layer in sorted(
        _layers(tree.get('scale_shift', {})), key=lambda layer: _by_number(layer[0]))]
    if rows:
      header = ['layer', 'numbers', 'scale', 'distance from 1', 'least', 'largest', 'shift']
      shown = table(header, rows)
      parts.append(folded(run.name, shown) if parts else join([element('h3', run.name), shown]))
  if not parts:
    return None
  return section('scale-shift', 'Scale and shift of each layer', *parts, note(
      'Scale and shift: mean ± deviation over the layer. Distance from 1: root of the mean '
      f'square; a full bar is {_FULL:g}. At the start of meta-training scales are 1 and shifts 0.'))


def _layers(tree: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
  if any(name in tree and not isinstance(tree[name], Mapping) for name in ('scale', 'gain')):
    yield path, tree
    return
  for name, child in tree.items():
    yield from _layers(child, f'{path}/{name}'.strip('/'))


def _by_number(path: str) -> list[tuple[str, int]]:
  """Sorts block2 before block10."""
  return [(text, int(number or 0)) for text, number in re.findall(r'(\D+)(\d*)', path)]


def _row(name: str, layer: Mapping[str, Any]) -> list[object]:
  scale = np.asarray(layer['scale'] if 'scale' in layer else layer['gain'])
  shift = np.asarray(layer['shift']) if 'shift' in layer else np.zeros(0)
  distance = float(np.sqrt(np.mean((scale - 1) ** 2)))
  return [name, f'{scale.size + shift.size:,}', _spread(scale),
          join([f'{distance:.4f} ', charts.meter(distance / _FULL)]),
          f'{scale.min():.3f}', f'{scale.max():.3f}', _spread(shift) if shift.size else '–']


def _spread(values: np.ndarray) -> str:
  return f'{values.mean():.4f} ± {values.std():.4f}'
