"""Makes a run of the authors' weights, for meta-train or meta-test; or the other way round."""
import os
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax.weights import authors_files, authors_runs, correspondence, left_out

from . import command
from .flags import data, machine, task
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('A file of their PyTorch code, as a finished run:',
     '--source=max_acc.pth --format=pytorch --workdir=runs/authors'),
    ('A run of ResNet-12 or ResNet-25, under the names of their code:',
     '--workdir=runs/mtl --export=mtl.npz'),
)
FLAGS: Groups = {
    'task': (task.WAY._replace(default=None, help='Classes of a task (N) that meta-trained weights '
                               'must be for; by default whatever they are for.'),
             task.SHOT._replace(help='Support images per class (K) that they were meta-trained '
                                'for, which their files do not say.')),
    'data': (Flag('source', 'A .pth of their PyTorch code; the .npy files of their TensorFlow code '
                  '(weights, ss_weights, fc_weights), separated by commas, or their folder; or an '
                  '.npz that --export wrote.', str, shown='FILE'),
             Flag('format', 'Whose file it is: pytorch (ResNet-25) or tensorflow (ResNet-12). With '
                  '--export by default as the network.', tuple(correspondence.FORMATS)),
             Flag('export', "Instead: write the run in --workdir under the authors' names to this "
                  'new file, .npz or (with PyTorch installed) .pth, or folder of .npy files.',
                  Path, shown='FILE'),
             data.WORKDIR._replace(help='Directory of the run; with --source it must be new.'),
             data.IMAGE_SIZE._replace(help='Side of the images that the network will see, in '
                                      "pixels; by default the authors' own.")),
    'machine': machine.COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Imports or exports, as the flags say."""
  if (values.source is None) == (values.export is None):
    raise ValueError('expected either --source, to import weights, or --export, to write a run as '
                     'such')
  if values.export is not None:
    _export(values)
  elif values.format is None:
    raise ValueError(f'expected --format, one of {", ".join(correspondence.FORMATS)}')
  else:
    _import(values)


def _import(values: FlagValues) -> None:
  # Several files may be named, each with a ~ of its own.
  source = ','.join(os.path.expanduser(path) for path in values.source.split(','))
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
  format = authors_runs.format_of(values.workdir)
  if values.format not in (None, format):
    raise ValueError(f'expected --format={format}, that of the network in {values.workdir}, got '
                     f'{values.format}')
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
