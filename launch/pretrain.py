"""Pre-trains a backbone on the training classes (phase 1)."""
from absl.flags import FlagValues

from mtl_jax import configs, runs
from mtl_jax.data import transforms
from mtl_jax.runs import teachers

from . import command
from .flags import begun, data, machine, method, network, presets, processes, task
from .flags.declared import Groups

EXAMPLES = (
    ('4CONV on FC100, with settings kept under a name:',
     '--preset=fc100_conv4_pretrain --data_dir=DIR --workdir=runs/fc100/pre'),
    ('4CONV on glyphs, which are drawn and need no data:',
     '--steps=600 --inner_lr=0.05 --workdir=runs/glyphs/pre'),
)
FLAGS: Groups = {
    'task': task.TRAINING,
    'data': (data.WORKDIR, *data.SOURCE, *data.CLASSES, *data.PRETRAIN),
    'method': (presets.PRESET, network.BACKBONE, network.WIDTH, network.NORM_AFFINE,
               network.COMPUTE_DTYPE, *network.PRETRAIN, network.TEACHER,
               task.MAX_MINUTES, *network.READOUT.values(),
               method.INNER_LR._replace(help='Inner learning rate (α) of the validation tasks.')),
    'machine': (machine.IMAGES, machine.DEVICES, machine.POOL, machine.PROFILE,
                machine.TRACKER, *machine.COMPILE_CACHE, *processes.PROCESSES),
}


def run(values: FlagValues) -> None:
  """Runs the phase that the flags describe.

  Args:
    values: parsed flags.
  """
  budget = task.time_budget(values)  # first, as its time runs already
  processes.join(values)
  machine.check_trackers(values)
  backbone = network.backbone_options(values)
  network.check_backbone(backbone)  # before data is read
  if values.distillation is not None and not values.teacher:
    raise ValueError('--distillation goes with --teacher, whose answers it weighs')
  if values.teacher:
    teachers.check_run(values.teacher)
  validation = task.validation(values, method.inner(values))
  begun.check(values, network.pretrain_config(values, None), command='pretrain', seed=values.seed,
              backbone=backbone, validation=configs.to_json(validation))
  dataset = transforms.normalized(data.load_dataset(values), values.normalization)
  if values.rotation_weight and dataset.name == 'omniglot':
    raise ValueError('--rotation_weight does not go with omniglot: there a turned image is another '
                     'class')
  results = runs.pretrain_run(
      dataset, backbone=backbone, config=network.pretrain_config(values, dataset),
      validation=validation, seed=values.seed, workdir=values.workdir,
      readout=network.readout_options(values), machine=machine.machine(values), budget=budget,
      teacher=values.teacher)
  print(f'pre-trained {values.backbone} on {dataset.name}: {values.way}-way {values.shot}-shot '
        f'accuracy {100 * results["validation_accuracy"]:.2f}% on validation classes at step '
        f'{results["best_step"]}, {results["seconds"]:.0f} s')


COMMAND = command.Command('pretrain', __doc__, EXAMPLES, FLAGS, run)

if __name__ == '__main__':
  command.start(COMMAND)
