"""The accuracies that the authors published, in percent: facts that stand beside ours.

Sun, Liu, Chua, Schiele: Meta-transfer learning for few-shot learning, CVPR 2019 (arXiv 1812.02391),
and its TPAMI version (arXiv 1910.03648). 5-way; ResNet-12 unless a row says 4CONV. Rows are in the
paper's order. The rows of the ablation other than SS[Θ;θ] are known without their intervals.
"""
from typing import NamedTuple

Figure = tuple[float, float | None]  # accuracy, half-width of its 95% interval if it is known

# Data set and shots of each column.
COLUMNS = (('mini_imagenet', 1), ('mini_imagenet', 5), ('fc100', 1), ('fc100', 5), ('fc100', 10))
SHOTS = {'mini_imagenet': (1, 5), 'fc100': (1, 5, 10)}
# Hard tasks of a cycle (K') by data set and shot.
HARD_TASKS = {'mini_imagenet': {1: 10, 5: 4}, 'fc100': {1: 20, 5: 10, 10: 4}}


class Row(NamedTuple):
  """A row of a table."""
  method: str
  preset: str | None             # of the ablation; None where only the published figures are shown
  figures: tuple[Figure, ...]    # for each of COLUMNS


def _without_intervals(*accuracies: float) -> tuple[Figure, ...]:
  return tuple((accuracy, None) for accuracy in accuracies)


MAIN = (
    Row('MAML, 4CONV', None,
        ((48.70, 1.75), (63.11, 0.92), (38.1, 1.7), (50.4, 1.0), (56.2, 0.8))),
    Row('MAML, 4CONV, HT', None,
        ((49.1, 1.9), (64.1, 0.9), (39.9, 1.8), (51.7, 0.9), (57.2, 0.8))),
    Row('MAML deep, HT: FT[Θ;θ]', None,
        ((59.1, 1.9), (73.1, 0.9), (41.8, 1.9), (55.1, 0.9), (61.9, 0.8))),
    Row('TADAM', None,
        ((58.5, 0.3), (76.7, 0.3), (40.1, 0.4), (56.1, 0.4), (61.6, 0.5))),
    Row('MTL, meta-batch: SS[Θ;θ]', 'ss_all',
        ((60.2, 1.8), (74.3, 0.9), (43.6, 1.8), (55.4, 0.9), (62.4, 0.8))),
    Row('MTL, HT meta-batch: SS[Θ;θ]', 'ss_all_ht',
        ((61.2, 1.8), (75.5, 0.8), (45.1, 1.8), (57.6, 0.9), (63.4, 0.8))),
)

# Without hard tasks.
ABLATION = (
    Row('update[Θ;θ]', 'update_network', _without_intervals(45.3, 64.6, 38.4, 52.6, 58.6)),
    Row('update θ', 'update_theta', _without_intervals(50.0, 66.7, 39.3, 51.8, 61.0)),
    Row('FT θ', 'ft_theta', _without_intervals(55.9, 71.4, 41.6, 54.9, 61.1)),
    Row('FT[Θ4;θ]', 'ft_last_block', _without_intervals(57.2, 71.6, 40.9, 54.3, 61.3)),
    Row('FT[Θ;θ]', 'ft_all', _without_intervals(58.3, 71.6, 41.6, 54.4, 61.2)),
    Row('SS[Θ4;θ]', 'ss_last_block', _without_intervals(59.2, 73.1, 42.4, 55.1, 61.6)),
    Row('SS[Θ;θ]', 'ss_all', MAIN[4].figures),
)

# With hard tasks two rows of the ablation were published, both in the main table.
_WITH_HARD_TASKS = {'ft_all_ht': MAIN[2].figures, 'ss_all_ht': MAIN[5].figures}


def figure(preset: str, dataset: str, shot: int) -> Figure | None:
  """Returns the published accuracy of a row of the ablation, None where none was published.

  Args:
    preset: name of the row in launch/presets/ablation.
    dataset: 'mini_imagenet' or 'fc100'; of others nothing was published.
    shot: K.
  """
  by_preset = {row.preset: row.figures for row in ABLATION} | _WITH_HARD_TASKS
  if preset not in by_preset or (dataset, shot) not in COLUMNS:
    return None
  return by_preset[preset][COLUMNS.index((dataset, shot))]


def rows_of(dataset: str, way: int, shot: int) -> list[tuple[str, float, float | None]]:
  """Returns all that was published for some tasks: (method, accuracy, interval if it is known).

  Args:
    dataset: as in `figure`.
    way: N; other than 5 nothing was published.
    shot: K.
  """
  if way != 5 or (dataset, shot) not in COLUMNS:
    return []
  column = COLUMNS.index((dataset, shot))
  rows = [*MAIN, *(row for row in ABLATION if row.preset != 'ss_all')]
  return [(row.method, *row.figures[column]) for row in rows]
