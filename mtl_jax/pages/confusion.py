"""Which classes are taken for which, with the photos behind each cell."""
from collections.abc import Callable, Sequence

import numpy as np

from mtl_jax.pages import charts
from mtl_jax.pages.markup import Html, element, join, note, table

_MOST_CLASSES = 20  # of a matrix
_MOST_CELLS = 60    # that have photos
_MOST_PHOTOS = 7    # of each
_ALWAYS = 6         # mistakes whose photos are always seen

Show = Callable[[int, str, str | None], Html]  # (place among the answers, title, class) -> image


def matrix(prefix: str, names: Sequence[str], truth: np.ndarray, answers: np.ndarray,
           show: Show | None) -> Html:
  """Draws a confusion matrix; a cell leads to its photos.

  Args:
    prefix: of the ids, unlike that of any other matrix of the page.
    names: of the classes.
    truth: int [n], their classes.
    answers: int [n], what they were taken for.
    show: shows one of the n; None where there are no images.
  """
  counts = np.zeros((len(names), len(names)), int)
  np.add.at(counts, (truth, answers), 1)
  kept = _kept(counts)
  pairs = _pairs(counts, kept) if show is not None else []
  heads = {i: element('span', names[i], title=names[i]) for i in kept}
  rows = [[heads[i], *(_cell(prefix, names, counts, i, j, (i, j) in pairs) for j in kept)]
          for i in kept]
  parts: list[Html] = [table(['', *heads.values()], rows, class_='matrix')]
  if len(kept) < len(names):
    parts.insert(0, note(f'The {len(kept)} of {len(names)} classes with most mistakes.'))
  if show is not None:
    parts.append(note('A number leads to the photos behind it, at most '
                      f'{_MOST_PHOTOS} of each; those of the {_ALWAYS} most frequent mistakes '
                      'stand below in any case.'))
    parts.append(element('div', *(
        _photos(prefix, names, truth, answers, pair, show, shown=place < _ALWAYS)
        for place, pair in enumerate(pairs)), class_='cells'))
  return join(parts)


def hardest(names: Sequence[str], truth: np.ndarray, answers: np.ndarray, most: int = 10) -> Html:
  """Lists the classes that are recognised least, and what they are taken for.

  Args:
    names: of the classes.
    truth: int [n], as in `matrix`.
    answers: int [n].
    most: how many classes.
  """
  counts = np.zeros((len(names), len(names)), int)
  np.add.at(counts, (truth, answers), 1)
  asked = counts.sum(axis=1)
  share = np.diag(counts) / np.maximum(asked, 1)
  order = [i for i in np.argsort(share, kind='stable') if asked[i]][:most]
  rows = []
  for i in order:
    others = counts[i] * (np.arange(len(names)) != i)
    other = int(others.argmax())
    taken = f'{names[other]} ({others[other]})' if others[other] else '–'
    recognised = join([f'{100 * share[i]:.1f} ', charts.meter(share[i])])
    rows.append([names[i], recognised, asked[i], taken])
  return table(['class', 'recognised, %', 'asked', 'most often taken for'], rows)


def _kept(counts: np.ndarray) -> list[int]:
  """The classes of the matrix: those with most mistakes, in their own order."""
  wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
  return sorted(np.argsort(-wrong, kind='stable')[:_MOST_CLASSES].tolist())


def _pairs(counts: np.ndarray, kept: Sequence[int]) -> dict[tuple[int, int], None]:
  """The cells with photos: mistakes, most frequent first, then those of the diagonal."""
  wrong = [(i, j) for i in kept for j in kept if i != j and counts[i, j]]
  wrong = sorted(wrong, key=lambda pair: -counts[pair])[:_MOST_CELLS - len(kept)]
  return dict.fromkeys([*wrong, *((i, i) for i in kept if counts[i, i])])


def _cell(prefix, names, counts, i, j, has_photos) -> Html:
  if not counts[i, j]:
    return Html('·')
  # Mistakes are rare where most is right: their colour is stronger.
  share = f'{min(80, (80 if i == j else 200) * counts[i, j] / counts[i].sum()):.0f}%'
  return element('a', counts[i, j], class_='right' if i == j else 'wrong',
                 href=f'#{prefix}-{i}-{j}' if has_photos else None, style=f'--share:{share}',
                 title=_says(names, i, j))


def _says(names, i, j) -> str:
  return f'{names[i]}, recognised' if i == j else f'{names[i]} taken for {names[j]}'


def _photos(prefix, names, truth, answers, pair, show, *, shown) -> Html:
  i, j = pair
  found = np.flatnonzero((truth == i) & (answers == j))
  images = [show(int(place), _says(names, i, j), None) for place in found[:_MOST_PHOTOS]]
  caption = f'{_says(names, i, j)}: {len(found)}'
  return element('figure', element('figcaption', caption),
                 element('div', *images, class_='photos'), id=f'{prefix}-{i}-{j}',
                 class_=None if shown and i != j else 'asked')
