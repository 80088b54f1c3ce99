"""Exports a network that still adapts, or a classifier, as a file that needs this library no more.

NETWORK is `imagenet`, the work directory of a run, or a classifier that was saved (.mtl). The file
is for jax alone (.bin), or for ONNX's runtimes and browsers (.onnx, pip install 'mtl_jax[onnx]').
A network adapts in the file, to any number of photos of any classes; a classifier's are fixed.
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import exports, stages
from mtl_jax.classifiers import networks

from . import adapt, command
from .flags import data, network
from .flags.declared import Flag, Groups

EXAMPLES = (
    ("ImageNet's EfficientNet-Lite0 for a browser, which adapts there:",
     'imagenet --out=imagenet.onnx'),
    ('A classifier that was saved, for jax on a CPU, a GPU or a TPU:',
     'beetles.mtl --out=beetles.bin'),
)
FLAGS: Groups = {
    'data': (Flag('network', 'As the first argument: NETWORK.', str, shown='NETWORK',
                  required=True),
             Flag('out', 'New file: .bin or .onnx.', Path, shown='FILE', required=True),
             adapt.OVERWRITE,
             data.IMAGE_SIZE._replace(help='Side of the photos in pixels, of public weights; by '
                                      'default as in the run, or as published.')),
    'method': (Flag('way', 'Of a network: fix the number of classes. That of a meta-training '
                    'starts at its θ, any other number from zero.', int, least=2),
               Flag('adapts', 'Of a saved classifier: a file that adapts to other classes, with '
                    'its C and temperature.', bool, False),
               network.OWN_BACKBONE),
}


def run(values: FlagValues) -> None:
  """Writes the file.

  Args:
    values: parsed flags.
  """
  network.backbone_name(values)
  saved = values.network.endswith('.mtl')
  if saved and not (values.way is None and values.image_size is None):
    raise ValueError(f'--way and --image_size go with a network: {values.network} is fitted '
                     'already')
  if values.adapts and not saved:
    raise ValueError('--adapts goes with a saved classifier (.mtl): a network adapts in any case')
  exports.check_place(values.out, overwrite=values.overwrite)
  with stages.stage(f'exporting to {values.out}'):
    if saved:
      size = networks.load_classifier(values.network).export(
          values.out, adapts=values.adapts, overwrite=values.overwrite)
    else:
      size = networks.load(values.network, values.image_size).export(
          values.out, way=values.way, overwrite=values.overwrite)
  print(f'written to {values.out}, {size / 1e6:.1f} MB; mtl show {values.out} says what it takes')


COMMAND = command.Command('export', __doc__, EXAMPLES, FLAGS, run, positional=('network',))

if __name__ == '__main__':
  command.start(COMMAND)
