"""Small charts as SVG, whose colours are those of the page, light or dark."""
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.pages.markup import Html, element, join

_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 10, 40
NUM_COLORS = 8  # that the page has, as var(--c0) and so on
_MOST_POINTS = 200  # of a line; more are averaged


class Line(NamedTuple):
  """A line of a chart, with the interval of each of its points where that is known."""
  name: str
  color: int                               # its place among all runs
  x: Sequence[float]
  y: Sequence[float]
  interval: Sequence[float] | None = None  # half-widths


class _Scale(NamedTuple):
  """From numbers to places in the chart."""
  x: tuple[float, float]
  y: tuple[float, float]

  def at(self, x: float, y: float) -> tuple[float, float]:
    across = (x - self.x[0]) / (self.x[1] - self.x[0])
    up = (y - self.y[0]) / (self.y[1] - self.y[0])
    return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
  """Returns round numbers from `low` to `high`.

  Args:
    low: least.
    high: largest, above `low`.
    most: about how many.

  >>> ticks(0, 1)
  [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
  """
  rough = (high - low) / max(most - 1, 1)
  size = 10.0 ** math.floor(math.log10(rough))
  step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(found: Sequence[Line], x_label: str, y_label: str) -> Html:
  """Draws lines with their intervals as bands, and a legend below.

  Args:
    found: the lines; those without a finite point are passed over.
    x_label: what is across.
    y_label: what is up.
  """
  thinned = [thin for line in found if len((thin := _thinned(line)).x)]
  if not thinned:
    return element('p', 'no measurement yet', class_='note')
  scale = _Scale(_range([x for line in thinned for x in line.x], 0),
                 _range([edge for line in thinned for edge in _edges(line)]))
  drawn = [_line(line, scale) for line in thinned]
  return join([_frame(scale, x_label, y_label, drawn),
               legend({line.name: line.color for line in thinned})])


def histogram(shares: np.ndarray, name: str, num_bins: int = 20) -> Html:
  """Draws how many tasks have which accuracy.

  Args:
    shares: [n], in [0, 1].
    name: of the values, below the chart.
    num_bins: from 0 to 1.
  """
  counts, edges = np.histogram(shares, num_bins, (0, 1))
  scale = _Scale((0, 100), (0, float(counts.max()) * 1.05 or 1))
  bars = []
  for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
    left, top = scale.at(100 * low, count)
    right, bottom = scale.at(100 * high, 0)
    bars.append(element('rect', element('title', f'{100 * low:.0f} to {100 * high:.0f}%: {count}'),
                        x=f'{left + 1:.1f}', y=f'{top:.1f}', width=f'{right - left - 2:.1f}',
                        height=f'{bottom - top:.1f}', class_='bar'))
  mean = scale.at(100 * float(shares.mean()), scale.y[1])
  bars.append(element('line', x1=mean[0], x2=mean[0], y1=mean[1], y2=_HEIGHT - _BOTTOM,
                      class_='mean'))
  return _frame(scale, name, 'tasks', bars)


def scatter(points: np.ndarray, labels: np.ndarray, names: Sequence[str], title: str) -> Html:
  """Draws points of several classes.

  Args:
    points: [n, 2].
    labels: int [n], the class of each.
    names: of the classes.
    title: above the chart.
  """
  scale = _Scale(_range(points[:, 0]), _range(points[:, 1]))
  drawn = []
  for (x, y), label in zip(points, labels, strict=True):
    across, down = scale.at(float(x), float(y))
    drawn.append(element('circle', element('title', names[label]), cx=f'{across:.1f}',
                         cy=f'{down:.1f}', r=3, class_=f'dot k{label % NUM_COLORS}'))
  box = element('rect', x=_LEFT, y=_TOP, width=_WIDTH - _LEFT - _RIGHT,
                height=_HEIGHT - _TOP - _BOTTOM, class_='box')
  svg = element('svg', box, *drawn, role='img', aria_label=title,
                viewBox=f'{_LEFT - 4} {_TOP - 4} {_WIDTH - _LEFT - _RIGHT + 8} '
                        f'{_HEIGHT - _TOP - _BOTTOM + 8}')
  return element('figure', element('figcaption', title), svg)


def legend(colors: Mapping[str, int]) -> Html:
  """Names the colours of lines or classes.

  Args:
    colors: name -> number of its colour.
  """
  return element('p', *(element('span', element('i', class_=f'k{color % NUM_COLORS}'), name)
                        for name, color in colors.items()), class_='legend')


def meter(share: float) -> Html:
  """Draws a share as a short bar.

  Args:
    share: in [0, 1]; beyond that it is cut off.
  """
  width = f'{100 * min(max(share, 0), 1):.0f}%'
  return element('span', element('i', style=f'width:{width}'), class_='meter')


def _thinned(line: Line) -> Line:
  """Averages neighbours where there are more points than can be seen; drops what is not finite."""
  columns = [line.x, line.y] + ([line.interval] if line.interval is not None else [])
  values = np.array(columns, float).reshape(len(columns), -1)
  values = values[:, np.isfinite(values).all(axis=0)]
  if values.shape[1] > _MOST_POINTS:
    parts = np.array_split(values, _MOST_POINTS, axis=1)
    values = np.stack([part.mean(axis=1) for part in parts], axis=1)
  return Line(line.name, line.color, values[0].tolist(), values[1].tolist(),
              values[2].tolist() if len(columns) == 3 else None)


def _edges(line: Line) -> list[float]:
  intervals = line.interval or [0.0] * len(line.y)
  return [edge for y, half in zip(line.y, intervals, strict=True) for edge in (y - half, y + half)]


def _range(values, at_most: float | None = None) -> tuple[float, float]:
  low, high = float(np.min(values)), float(np.max(values))
  margin = 0.05 * (high - low) or max(abs(high), 1) * 0.05
  return (low - margin if at_most is None else min(low, at_most)), high + margin


def _line(line: Line, scale: _Scale) -> Html:
  points = [scale.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
  kind = f'k{line.color % NUM_COLORS}' + (' second' if line.color >= NUM_COLORS else '')
  parts = []
  if line.interval is not None:
    around = list(zip(line.x, line.y, line.interval, strict=True))
    edge = [scale.at(x, y + half) for x, y, half in around]
    edge += [scale.at(x, y - half) for x, y, half in around[::-1]]
    parts.append(element('polygon', points=_path(edge), class_=f'band {kind}'))
  parts.append(element('polyline', points=_path(points), class_=f'line {kind}'))
  if len(points) <= 40:
    parts += [element('circle', element('title', f'{line.name}: {y:.4g} at {x:g}'),
                      cx=f'{at[0]:.1f}', cy=f'{at[1]:.1f}', r=2.5, class_=f'dot {kind}')
              for at, x, y in zip(points, line.x, line.y, strict=True)]
  return join(parts)


def _path(points: Sequence[tuple[float, float]]) -> str:
  return ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)


def _frame(scale: _Scale, x_label: str, y_label: str, drawn: Sequence[Html]) -> Html:
  """Draws axes around what is drawn."""
  bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
  parts = []
  for value in ticks(*scale.y):
    y = scale.at(scale.x[0], value)[1]
    parts.append(element('line', x1=_LEFT, x2=right, y1=f'{y:.1f}', y2=f'{y:.1f}', class_='grid'))
    parts.append(element('text', f'{value:g}', x=_LEFT - 5, y=f'{y + 4:.1f}', text_anchor='end'))
  for value in ticks(*scale.x):
    x = scale.at(value, scale.y[0])[0]
    parts.append(element('text', f'{value:g}', x=f'{x:.1f}', y=bottom + 15, text_anchor='middle'))
  parts.append(element('text', x_label, x=(_LEFT + right) / 2, y=_HEIGHT - 6,
                       text_anchor='middle'))
  middle = (_TOP + bottom) / 2
  parts.append(element('text', y_label, text_anchor='middle',
                       transform=f'translate(11 {middle}) rotate(-90)'))
  axis = element('line', x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_='axis')
  return element('svg', *parts, *drawn, axis, viewBox=f'0 0 {_WIDTH} {_HEIGHT}', role='img',
                 aria_label=f'{y_label} against {x_label}')
