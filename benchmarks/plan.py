"""What is asked of the suites, and what each of them is: settings, measurement, tables, plot."""
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.workers import Bench, Effort


class Request(NamedTuple):
  """The flags of `launch.benchmark`; each suite reads what it needs."""
  size: str = 'full'                            # 'smoke': everything tiny, for a first look
  pairs: int = 5                                # rounds in which every side has its turn
  image_sizes: tuple[int, ...] = (32, 84, 224)  # pixels, of meta_step
  networks: tuple[str, ...] = ('resnet12',)
  tasks: int = 2                                # of one meta-step
  limit: int = 300                              # seconds for setting up and the first run together
  torch_modes: tuple[str, ...] = ()             # of the PyTorch side; () for all
  whole: bool = False                           # meta_test: nothing scaled
  pytorch: bool = False                         # whether there is a Python with PyTorch

  @property
  def smoke(self) -> bool:
    """Whether everything is tiny."""
    return self.size == 'smoke'

  def common(self) -> dict:
    """Returns the settings of every suite."""
    return {'size': self.size, 'pairs': self.pairs, 'limit': self.limit, 'pytorch': self.pytorch,
            'torch_modes': list(self.torch_modes)}


class Table(NamedTuple):
  """A table of a report; the first column is aligned to the left."""
  title: str
  header: list[str]
  rows: list[list[str]]


class Suite(NamedTuple):
  """A group of measurements."""
  settings: Callable[[Request], dict]     # all that decides the figures; JSON can hold it
  measure: Callable[[dict, Bench], dict]  # settings, workers -> `rows` and `notes`
  tables: Callable[[dict], list[Table]]   # of the results
  plot: Callable[[dict], Figure]          # of the results
  torch_modes: tuple[str, ...] = ()       # those of its PyTorch side, if it has one


def effort(settings: dict) -> Effort:
  """Returns how much is measured under the settings of a suite.

  Args:
    settings: of a suite, with `size`, `pairs` and `limit`.

  Returns:
    An Effort; without a limit where the settings say `whole`.
  """
  limit = None if settings.get('whole') else settings['limit']
  if settings['size'] == 'smoke':
    return Effort(pairs=settings['pairs'], warmup=0, least_seconds=0.0, pause=0.0, limit=limit)
  return Effort(pairs=settings['pairs'], limit=limit)


def torch_modes(settings: dict, modes: tuple[str, ...]) -> list[str]:
  """Chooses the modes of the PyTorch side.

  Args:
    settings: of a suite.
    modes: all that the measure has.

  Returns:
    Those that were asked for; none where there is no PyTorch.
  """
  if not settings['pytorch']:
    return []
  asked = settings['torch_modes']
  return [mode for mode in modes if not asked or mode in asked]


def without_pytorch(settings: dict, modes: tuple[str, ...]) -> list[str]:
  """Returns the note of a report that PyTorch is missing, if it is.

  Args:
    settings: of a suite.
    modes: all that the measure has.

  Returns:
    A line, or none.
  """
  if not settings['pytorch']:
    return ['PyTorch is not installed in --torch_python: its columns are left out.']
  if not torch_modes(settings, modes):
    return [f'--torch_modes has none of {", ".join(modes)}: PyTorch is left out.']
  return []
