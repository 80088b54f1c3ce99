"""Parts of a page about meta-tests: results, accuracies of tasks, hardest classes, episodes."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mtl_jax.pages import charts, confusion, feature_map, replay
from mtl_jax.pages.markup import Html, Section, element, folded, join, note, percent, section, table
from mtl_jax.pages.pictures import Pictures
from mtl_jax.pages.replay import Images, Replayed
from mtl_jax.pages.sources import Test
from mtl_jax.runs.finished import FinishedRun

# (data set, way, shot) -> published rows: (method, accuracy in percent, interval if it is known).
Published = Callable[[str, int, int], Sequence[tuple[str, float, float | None]]]

_MOST_TASKS = 40    # that are answered again
_MOST_QUERIES = 15  # of a class, in a sheet
_MOST_SUPPORT = 10


class Seen(NamedTuple):
  """A meta-test whose images are at hand."""
  test: Test
  run: FinishedRun
  images: Images
  first: Replayed   # its first tasks, a fair sample
  chosen: Replayed  # the worst, the middle and the best of all


def look(test: Test, cache_dir: str | None) -> Seen | str:
  """Answers tasks of a meta-test again.

  Args:
    test: finished.
    cache_dir: of decoded images.

  Returns:
    A Seen; or why there is none, in a line.
  """
  if test.accuracies is None:
    return 'not finished, or its accuracies.npy is gone'
  if test.checkpoint is None:
    return 'the run that it tested was not found: name it too'
  order = np.argsort(test.accuracies, kind='stable')
  chosen = list(dict.fromkeys([int(order[0]), int(order[len(order) // 2]), int(order[-1])]))
  try:
    images, run = replay.load_images(test, cache_dir), replay.load_run(test)
  except (OSError, ValueError) as error:
    return f'its images, or its network, are not at hand: {error}'
  first = range(min(_MOST_TASKS, len(order)))
  found = replay.replay(test, run, images, list(dict.fromkeys([*first, *chosen])))
  return Seen(test, run, images, _part(found, first), _part(found, chosen))


def _part(found: Replayed, tasks: Sequence[int]) -> Replayed:
  places = [found.tasks.tolist().index(task) for task in tasks]
  return Replayed(found.tasks[places], found.indices[places], found.class_ids[places],
                  found.predicted[places], found.shot)


def results(tests: Sequence[Test], published: Published) -> Section | None:
  """Tabulates the accuracies of meta-tests, with what was published for the same tasks below.

  Args:
    tests: any; None is returned where there is none.
    published: rows to stand beside ours.
  """
  if not tests:
    return None
  rows, settings = [], {}
  for test in tests:
    rows += _rows(test)
    config = test.settings['config']
    settings[test.settings['dataset'], config['way'], config['shot']] = None
  for dataset, way, shot in settings:
    rows += [[element('em', method),
              f'{accuracy:g}' + ('' if interval is None else f' ± {interval:g}'),
              f'{dataset}, {way}-way {shot}-shot', 'paper', 'published']
             for method, accuracy, interval in published(dataset, way, shot)]
  header = ['method', 'accuracy, %', 'tasks', 'protocol', 'run']
  return section('results', 'Results', table(header, rows, 'words'), note(
      'Means over tasks with their 95% intervals.' + (
          ' Published: Sun et al., CVPR 2019 and TPAMI; 5-way, ResNet-12 unless a row says 4CONV.'
          if any(row[4] == 'published' for row in rows) else '')))


def _rows(test: Test) -> list[list[object]]:
  config = test.settings['config']
  what = (f'{test.settings["dataset"]} {test.settings["split"]}, {config["way"]}-way '
          f'{config["shot"]}-shot, {config["num_tasks"]} tasks')
  if test.results is None:
    return [['not finished', '–', what, test.settings['protocol'], test.name]]
  found = {test.results['method']: test.results}
  found |= {'update θ' if name == 'update_theta' else name: row
            for name, row in test.results.get('baselines', {}).items()}
  return [[method, percent(row['accuracy'], row['ci95']), what, test.settings['protocol'],
           test.name] for method, row in found.items()]


def tasks(tests: Sequence[Test]) -> Section | None:
  """Draws how the accuracies of tasks are distributed.

  Args:
    tests: any; None is returned where none is finished.
  """
  drawn = [element('figure', element('figcaption', f'{test.name}, {len(test.accuracies)} tasks'),
                   charts.histogram(test.accuracies, 'accuracy of a task, %'))
           for test in tests if test.accuracies is not None and len(test.accuracies)]
  if not drawn:
    return None
  return section('tasks', 'Accuracies of single tasks', element('div', *drawn, class_='row'),
                 note('The upright line is the mean.'))


def classes(seen: Sequence[Seen], pictures: Pictures) -> Section | None:
  """Lists the hardest classes, and draws which classes are taken for which.

  Args:
    seen: meta-tests; None is returned where there is none.
    pictures: of the page.
  """
  parts = [folded(each.test.name, _classes(each, place, pictures)) if place else
           join([element('h3', each.test.name), _classes(each, place, pictures)])
           for place, each in enumerate(seen)]
  return section('hardest', 'Hardest classes', *parts) if parts else None


def _classes(seen: Seen, place: int, pictures: Pictures) -> Html:
  first = seen.first
  truth, answers = first.truth.ravel(), first.answers.ravel()
  queries, names = first.queries.ravel(), seen.images.names
  return join([
      note(f'Of the {len(truth)} queries of the first {len(first.tasks)} tasks. Tasks are small: '
           'a class can be taken only for those that are in the same task.'),
      confusion.hardest(names, truth, answers), element('h3', 'Taken for each other'),
      confusion.matrix(f'test{place}', names, truth, answers, lambda at, title, kind:
                       pictures.show(seen.images.at(queries[at]), title, kind))])


def episodes(seen: Sequence[Seen], pictures: Pictures) -> Section | None:
  """Shows whole tasks: support, queries, which were right and which wrong.

  Args:
    seen: meta-tests; None is returned where there is none.
    pictures: of the page.
  """
  parts = []
  for each in seen[:1]:
    titles = ('The worst task', 'A task in the middle', 'The best task')
    for place, accuracy in enumerate(each.chosen.accuracies):
      title = (f'{titles[place]} of {each.test.name}: task {each.chosen.tasks[place]}, '
               f'{100 * accuracy:.1f}% right')
      parts.append(folded(title, _sheet(each, place, pictures)) if place else
                   join([element('h3', title), _sheet(each, place, pictures)]))
  if not parts:
    return None
  return section('episodes', 'Episodes', *parts, note(
      'Left of the line the support images of a class, right of it its queries: outlined in '
      'green where they were recognised, dashed in red where not; point at one to see what it was '
      'taken for.'))


def _sheet(seen: Seen, place: int, pictures: Pictures) -> Html:
  chosen, images, names = seen.chosen, seen.images, seen.images.names
  ids, rows = chosen.class_ids[place], []
  for label, indices in enumerate(chosen.indices[place]):
    name = names[ids[label]]
    support = [pictures.show(images.at(at), f'{name}, support')
               for at in indices[:chosen.shot][:_MOST_SUPPORT]]
    queries = []
    for at, answer in zip(indices[chosen.shot:][:_MOST_QUERIES], chosen.predicted[place, label],
                          strict=False):
      right = answer == label
      said = 'recognised' if right else f'taken for {names[ids[answer]]}'
      queries.append(pictures.show(images.at(at), f'{name}, {said}',
                                   'right' if right else 'wrong'))
    rows += [element('h4', name), element('div', *support, class_='photos support'),
             element('div', *queries, class_='photos')]
  return element('div', *rows, class_='sheet')


def maps(seen: Sequence[Seen]) -> Section | None:
  """Draws maps of features before and after meta-transfer.

  Args:
    seen: meta-tests; the first of a meta-training counts, None is returned where there is none.
  """
  trained = [each for each in seen if each.run.meta_params is not None]
  if not trained:
    return None
  first = trained[0]
  return section('map', 'Map of features', element('h3', first.test.name),
                 feature_map.draw(first.run, first.images))
