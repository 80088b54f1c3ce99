"""Makes a run of weights of the authors' code, for meta_train or meta_test; or writes a run as such weights.

  python -m launch.import_weights --source=max_acc.pth --format=pytorch --workdir=runs/authors
  python -m launch.import_weights --workdir=runs/mtl --export=mtl.npz
"""
from absl import flags

from launch.flags import options, session
from mtl_jax.weights import names, sources, workdir

SOURCE = flags.DEFINE_string('source', None, 'A .pth of their PyTorch code; the .npy files of their TensorFlow code '
                             '(weights, ss_weights, fc_weights), separated by commas, or their folder; or an .npz '
                             'that --export wrote.')
FORMAT = flags.DEFINE_enum('format', None, list(names.FORMATS), 'Whose file it is: pytorch (ResNet-25) or tensorflow '
                           '(ResNet-12). With --export by default as the network.')
EXPORT = flags.DEFINE_string('export', None, "Instead: write the run in --workdir under the authors' names to this new "
                             'file, .npz or (with PyTorch installed) .pth, or folder of .npy files.')
for name in ('workdir', 'way', 'shot', 'image_size'):  # --help shows them too
  flags.declare_key_flag(name)
flags.adopt_module_key_flags(session)
flags.mark_flag_as_required('workdir')


def run():
  """Imports or exports, as the flags say."""
  if (SOURCE.value is None) == (EXPORT.value is None):
    raise ValueError('expected either --source, to import weights, or --export, to write a run as such')
  if EXPORT.value is not None:
    _export()
    return
  if FORMAT.value is None:
    raise ValueError(f'expected --format, one of {", ".join(names.FORMATS)}')
  way = options.WAY.value if options.WAY.present else None
  found = workdir.write(options.WORKDIR.value, sources.read(SOURCE.value, FORMAT.value), FORMAT.value,
                        source=SOURCE.value, way=way, shot=options.SHOT.value, image_size=options.IMAGE_SIZE.value)
  kind = 'pre-trained' if found.meta_params is None else 'meta-trained'
  print(f'{kind} {names.FORMATS[FORMAT.value]} in {options.WORKDIR.value}')
  if found.left_out:
    print(f'left out, having no place here: {", ".join(found.left_out)}')
  if FORMAT.value == 'tensorflow':
    print('these weights have no running statistics of batch norm: give --batch_stats=batch to meta_train, and '
          '--protocol=paper or --batch_stats=batch to meta_test')


def _export():
  format = workdir.format_of(options.WORKDIR.value)
  if FORMAT.value not in (None, format):
    raise ValueError(f'expected --format={format}, that of the network in {options.WORKDIR.value}, got {FORMAT.value}')
  sources.check_new(EXPORT.value, format)
  exported = workdir.export(options.WORKDIR.value)
  sources.write(EXPORT.value, exported.tensors, format)
  print(f'{len(exported.tensors)} tensors written to {EXPORT.value}')
  if exported.left_out:
    print(f"left out, having no place in the authors' files: {', '.join(exported.left_out)}")
  for difference in workdir.unlike_theirs(options.WORKDIR.value):
    print(f"unlike the authors' code, this run has {difference}")


if __name__ == '__main__':
  session.start(run)
