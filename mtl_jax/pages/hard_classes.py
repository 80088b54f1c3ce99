"""The part of a page about hard classes that needs no images: by the accuracies of their tasks."""
import functools
from collections.abc import Sequence

import jax
import numpy as np

from mtl_jax import episodes
from mtl_jax.pages import charts
from mtl_jax.pages.markup import Html, Section, element, folded, join, note, percent, section, table
from mtl_jax.pages.sources import Test
from mtl_jax.phases import meta_test
from mtl_jax.runs import records

_MOST = 10  # classes of each test
_LEAST_TASKS = 2  # of a class, for an interval


def by_tasks(tests: Sequence[Test]) -> Section | None:
  """Tabulates the classes whose tasks are hardest; which tasks they were in is drawn again.

  Args:
    tests: any; None is returned where none is finished.
  """
  found = [(test.name, _table(test, test.accuracies, num_classes)) for test in tests
           if test.accuracies is not None and (num_classes := _num_classes(test)) is not None]
  if not found:
    return None
  (name, first), *others = found
  return section(
      'classes', 'Classes of the hardest tasks', element('h3', name), first,
      *(folded(name, shown) for name, shown in others),
      note('The mean accuracy of those tasks that a class was in, with its 95% interval. A class '
           'shares its tasks with others, so it is harder than this figure says.'))


def mean_by_class(class_ids: np.ndarray, accuracies: np.ndarray, num_classes: int
                  ) -> list[tuple[int, int, float, float]]:
  """Averages, for each class, the accuracies of the tasks that it was in.

  Args:
    class_ids: int [tasks, N].
    accuracies: [tasks].
    num_classes: of the split.

  Returns:
    (class, number of its tasks, mean, half-width of its 95% interval), lowest mean first; without
    classes of fewer than two tasks.

  >>> mean_by_class(np.array([[0, 1], [0, 2], [1, 0]]), np.array([0.5, 0.5, 1.0]), 3)[0][:3]
  (0, 3, 0.6666666666666666)
  """
  found = []
  for label in range(num_classes):
    mine = accuracies[(class_ids == label).any(axis=1)]
    if len(mine) >= _LEAST_TASKS:
      found.append((label, len(mine), *meta_test.summarize(mine)))
  return sorted(found, key=lambda each: each[2])


def _num_classes(test: Test) -> int | None:
  """Of the split that was tested; a run of an earlier version does not say."""
  recorded = (test.settings.get('data') or {}).get('num_classes') or {}
  return recorded.get(test.settings['split'])


def _table(test: Test, accuracies: np.ndarray, num_classes: int) -> Html:
  ids = _drawn(test.settings['seed'], len(accuracies), num_classes, test.settings['config']['way'])
  names = (test.results or {}).get('classes') or [f'class {i}' for i in range(num_classes)]
  rows = [[names[label], join([f'{percent(mean, half)} ', charts.meter(mean)]), number]
          for label, number, mean, half in mean_by_class(ids, accuracies, num_classes)[:_MOST]]
  return table(['class', 'accuracy of its tasks, %', 'tasks'], rows)


@functools.cache
def _drawn(seed: int, num_tasks: int, num_classes: int, way: int) -> np.ndarray:
  """The classes [tasks, N] of the tasks of a meta-test, as `episodes.draw` draws them."""
  def draw(root_key):  # compiled as one, as each small program takes a moment
    return jax.vmap(lambda key: episodes.draw_classes(jax.random.split(key)[0], num_classes, way))(
        meta_test.task_keys(root_key, num_tasks))

  return np.asarray(jax.jit(draw)(records.stream_key(seed, 'test')))
