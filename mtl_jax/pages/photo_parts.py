"""Parts of a page about a classifier of photos, from its answers about photos that were left out.
"""
import os
from collections.abc import Sequence

import numpy as np

from mtl_jax.classifiers import Classifier
from mtl_jax.classifiers.calibration import Interval
from mtl_jax.data import image_files
from mtl_jax.pages import charts, confusion
from mtl_jax.pages.markup import Html, Section, element, join, note, section, table
from mtl_jax.pages.pictures import Pictures
from mtl_jax.pages.sources import Photos

_SIDE = 72  # pixels that a photo is decoded to
_MOST_DOUBTS = 20
_MOST_CLASSES = 60


def classifiers(found: Sequence[Photos], pictures: Pictures | None) -> Section | None:
  """Describes how good each classifier is, what it confuses, and which photos look mislabelled.

  Args:
    found: any; None is returned where there is none.
    pictures: of the page; None for none.
  """
  if not found:
    return None
  return section('classifiers', 'Classifiers of photos',
                 *(_classifier(each, place, pictures) for place, each in enumerate(found)))


def _classifier(photos: Photos, place: int, pictures: Pictures | None) -> Html:
  classifier = photos.classifier
  report = classifier.report()
  said = (f'{len(classifier.names)} classes, {report.num_photos} photos, '
          f'{classifier.encoder.run.settings["backbone"]["name"]} at '
          f'{classifier.encoder.size} pixels')
  parts = [element('h3', photos.name), note(said)]
  if report.accuracy is None:
    return join([*parts, note('No class has two photos, so nothing could be left out.')])
  parts.append(_accuracies(report.accuracy, report.by_class))
  show = _Shown(classifier, pictures)
  labels = classifier.head.labels[classifier.head.left_out]
  # Of a temperature the order of the logits does not depend.
  answers = classifier.head.left_out_logits.argmax(axis=1)
  parts += [element('h3', 'Taken for each other, when left out'),
            confusion.matrix(f'photos{place}', classifier.names, labels, answers,
                             show.judged if pictures is not None else None)]
  if report.doubts:
    parts += [element('h3', 'Perhaps mislabelled'), _doubts(report.doubts, show)]
  if show.gone:
    parts.append(note(f'{len(show.gone)} photos are no longer where they were, or were never '
                      'files: they are not shown.'))
  return join(parts)


def _accuracies(accuracy: Interval, by_class: dict[str, Interval | None]) -> Html:
  shown = sorted(by_class.items(), key=lambda item: item[1].share if item[1] else 2)
  rows = [['all', *_share(accuracy)]]
  rows += [[name, *_share(share)] for name, share in shown[:_MOST_CLASSES]]
  return join([table(['class', 'recognised when left out, %', '95% interval'], rows),
               note('The hardest come first.' if len(shown) <= _MOST_CLASSES else
                    f'The hardest {_MOST_CLASSES} of {len(shown)} classes.')])


def _share(share: Interval | None) -> list[object]:
  if share is None:
    return ['–', 'one photo, never left out']
  return [join([f'{100 * share.share:.1f} ', charts.meter(share.share)]),
          f'{100 * share.low:.1f} to {100 * share.high:.1f}']


def _doubts(doubts, show: '_Shown') -> Html:
  return element('div', *(element(
      'figure', element('figcaption', f'{os.path.basename(doubt.photo)} is among {doubt.label}, '
                        f'looks like {doubt.looks_like} ({100 * doubt.probability:.0f}%)'),
      show.file(doubt.photo, doubt.photo)) for doubt in doubts[:_MOST_DOUBTS]), class_='cells')


class _Shown:
  """The photos of a classifier, where their files still are."""

  def __init__(self, classifier: Classifier, pictures: Pictures | None):
    self._judged = [classifier.photos[place]
                    for place in np.flatnonzero(classifier.head.left_out)]
    self._pictures, self.gone = pictures, set()

  def judged(self, place: int, title: str, class_: str | None) -> Html:
    """Shows one of the photos that were left out."""
    photo = self._judged[place]
    return self.file(photo, f'{os.path.basename(photo)}: {title}', class_)

  def file(self, photo: str, title: str, class_: str | None = None) -> Html:
    """Shows a photo; says its name where the file is gone, or where no photo is shown."""
    if self._pictures is None:
      return element('span', os.path.basename(photo), title=title)
    try:
      image = image_files.read_image(photo, _SIDE)
    except (OSError, ValueError):
      self.gone.add(photo)
      return element('span', os.path.basename(photo), title=title)
    return self._pictures.show(image, title, class_)
