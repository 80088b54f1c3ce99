"""What a classifier says of itself on the terminal."""
import pathlib
from collections.abc import Sequence

from mtl_jax.classifiers import Classifier, Prediction, calibration
from mtl_jax.classifiers.calibration import Interval
from mtl_jax.classifiers.report import Report
from mtl_jax.runs import tables

_MOST = 5  # of pairs and of photos that are named
_MOST_CLASSES = 40  # of which each has a row
_WORST = 20  # classes that have a row where there are more


def show(classifier: Classifier) -> None:
  """Prints accuracies of left-out photos, confused classes, and photos that look mislabelled.

  Args:
    classifier: any.
  """
  report = classifier.report()
  classes = len(classifier.names)
  print(f'{classes} classes, {report.num_photos} photos')
  if report.alone:
    print(f'{", ".join(report.alone[:_MOST])}{" ..." if len(report.alone) > _MOST else ""}: one '
          'photo, which cannot be left out; accuracies are without it')
  if report.accuracy is None:
    print('no class has two photos, so nothing could be left out: accuracy is not known, '
          'probabilities are not calibrated')
    return
  _show_classes(report, report.accuracy)
  for label, other, number in report.confused[:_MOST]:
    print(f'{label} taken for {other}: {number} photo{"s" if number > 1 else ""}')
  for doubt in report.doubts[:_MOST]:
    print(f'perhaps mislabelled: {doubt.photo} is among {doubt.label}, looks like '
          f'{doubt.looks_like} ({100 * doubt.probability:.0f}%)')
  assert report.calibration_error is not None
  print(f'expected calibration error {100 * report.calibration_error:.1f}%, of photos left out '
        f'({report.kind} of strength {report.strength:g}, temperature {report.temperature:.2g})')


def _show_classes(report: Report, accuracy: Interval) -> None:
  title, by_class = f'{report.num_judged} photos, recognised when left out', report.by_class
  if len(by_class) > _MOST_CLASSES:
    judged = {name: share for name, share in by_class.items() if share is not None}
    by_class = dict(sorted(judged.items(), key=lambda item: item[1])[:_WORST])
    title += f'; the {_WORST} worst of {len(report.by_class)} classes'
  rows = [[name, '–' if share is None else _percent(share)] for name, share in by_class.items()]
  tables.show_columns(title, ('class', 'accuracy, %'), [*rows, ['all', _percent(accuracy)]])


def show_known(classifier: Classifier, predictions: Sequence[Prediction]) -> None:
  """Prints how many photos are recognised of those that lie in folders named after classes.

  Args:
    classifier: any.
    predictions: what it said.
  """
  known = [(found, folder) for found in predictions
           if (folder := pathlib.Path(found.photo).parent.name) in classifier.names]
  if not known:
    return
  right = [found.label == folder for found, folder in known]
  error = calibration.error_of([found.probability for found, _ in known], right)
  share = calibration.wilson(sum(right), len(right))
  print(f'of {len(known)} photos in folders named after classes {_percent(share)}% are recognised; '
        f'calibration error {100 * error:.1f}%')


def _percent(share: Interval) -> str:
  return f'{100 * share.share:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})'
