"""The parts that plots of several suites share: lines with spread, bars with figures, legends."""
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.formatting import number

# Warm colours for this library, cold ones for PyTorch.
_COLORS = {'jax dual': 'tab:red', 'jax float32': 'tab:red', 'jax scan': 'tab:orange',
           'jax unrolled': 'tab:brown', 'pytorch unrolled': 'tab:blue',
           'pytorch batched': 'tab:cyan', 'pytorch func': 'tab:green',
           'pytorch compile': 'tab:purple'}


def line(axes: Axes, name: str, points: list[tuple[float, dict]], *, scale: float = 1.0,
         legend: str | None = None, **style) -> None:
  """Draws medians with their spread; points without a figure are left out.

  Args:
    axes: to draw on.
    name: of the side.
    points: (x, record of `rounds.in_turn`).
    scale: 1 for seconds, 1000 for milliseconds.
    legend: what it is called; None for its name.
    **style: of the line.
  """
  found = [(x, record) for x, record in points if 'median' in record]
  if not found:
    return
  xs = [x for x, _ in found]
  low, middle, high = (scale * np.array([record[key] for _, record in found])
                       for key in ('min', 'median', 'max'))
  axes.errorbar(xs, middle, (middle - low, high - middle), color=_COLORS[name],
                label=legend or name, marker='.', capsize=2, **style)
  axes.set_yscale('log')
  axes.grid(alpha=0.3)


def bars(axes: Axes, records: dict[str, dict], *, scale: float = 1.0, key: str = 'median',
         log: bool = False) -> None:
  """Draws a bar per side with its figure beside it; sides without one are left out.

  Args:
    axes: to draw on.
    records: name -> record with `key`, and `min` and `max` where that is 'median'.
    scale: factor of the figures.
    key: name of the figure in the records.
    log: whether the axis is logarithmic.
  """
  found = {name: record for name, record in records.items() if record.get(key) is not None}
  values = scale * np.array([record[key] for record in found.values()])
  places = np.arange(len(found))[::-1]
  spread, ends = None, values
  if key == 'median':
    low, ends = (scale * np.array([record[end] for record in found.values()])
                 for end in ('min', 'max'))
    spread = (values - low, ends - values)
  colors = ['tab:red' if name.startswith('jax') else 'tab:blue' for name in found]
  axes.barh(places, values, xerr=spread, height=0.7, color=colors,
            error_kw={'capsize': 2, 'linewidth': 1})
  for place, value, end in zip(places, values, ends, strict=True):
    axes.annotate(number(value), (end, place), xytext=(4, 0), textcoords='offset points',
                  va='center', fontsize='small')
  axes.set_yticks(places, list(found))
  axes.margins(x=0.25)  # room for the figures
  if log and len(values):
    axes.set_xscale('log')
    axes.set_xlim(values.min() / 10, values.max() * 5)
  else:
    axes.locator_params(axis='x', nbins=5)  # large numbers would touch
  axes.grid(axis='x', alpha=0.3)


def label(figure: Figure, panels: np.ndarray, x: str, y: str) -> None:
  """Adds names at the outer axes and one legend below all panels.

  Args:
    figure: of the panels.
    panels: array of axes [rows, columns].
    x: name of the horizontal axis.
    y: name of the vertical one.
  """
  for axes in panels[-1]:
    axes.set_xlabel(x)
  for axes in panels[:, 0]:
    axes.set_ylabel(y)
  named = {}
  for axes in panels.flat:
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
      named.setdefault(name, handle)
  figure.legend(named.values(), named.keys(), loc='outside lower center', ncols=3,
                fontsize='small')
