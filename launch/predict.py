"""Classifies photos by a classifier that `mtl adapt --save` has written.

CLASSIFIER is a .mtl file, which holds the network too. NEW is a folder of photos with all folders
below it, a photo, or - for paths on standard input.
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax.classifiers import networks

from . import adapt, command
from .flags import machine, network
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('All photos in a folder, as a table:', 'beetles.mtl new/ --out=predictions.csv'),
    ('Paths from elsewhere, where one photo in twenty of the known classes may be turned away:',
     'beetles.mtl - --reject=0.05'),
)
FLAGS: Groups = {
    'data': (Flag('classifier', 'As the first argument: CLASSIFIER.', Path, shown='CLASSIFIER',
                  required=True),
             adapt.PREDICT._replace(help='As the second argument: NEW.', required=True),
             adapt.OUT, adapt.OVERWRITE),
    'method': (adapt.REJECT, network.OWN_BACKBONE),
    'machine': machine.COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Classifies the photos.

  Args:
    values: parsed flags.
  """
  network.backbone_name(values)
  adapt.check_places(values)
  adapt.predict(networks.load_classifier(values.classifier), values)


COMMAND = command.Command('predict', __doc__, EXAMPLES, FLAGS, run,
                          positional=('classifier', 'predict'))

if __name__ == '__main__':
  command.start(COMMAND)
