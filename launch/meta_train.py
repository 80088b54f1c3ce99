"""Meta-trains scale, shift and base-learner over a pre-trained backbone, with hard tasks (phase 2).
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import configs, runs
from mtl_jax.runs import finished

from . import command
from .flags import begun, data, machine, method, network, presets, processes, task
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('5-way 1-shot tasks of FC100, with settings kept under a name:',
     '--preset=fc100_conv4_1shot --data_dir=DIR --pretrained=runs/fc100/pre '
     '--workdir=runs/fc100/mtl1'),
    ('MAML over a network that was pre-trained on glyphs, without hard tasks:',
     '--outer=ft --inner=all --nohard_tasks --inner_lr=0.05 --inner_steps=5 --outer_lr=3e-4 '
     '--test_inner_steps=20 --steps=60 --pretrained=runs/glyphs/pre --workdir=runs/glyphs/maml'),
)
FLAGS: Groups = {
    'task': (task.WAY, task.SHOT, task.QUERY, *task.TRAINING[2:]),
    'data': (Flag('pretrained', 'Work directory of a finished pre-training.', Path, shown='DIR',
                  required=True),
             data.WORKDIR, *data.SOURCE, *data.CLASSES, *data.META_TRAIN),
    'method': (presets.PRESET, *method.OUTER, task.MAX_MINUTES, *method.LEARN, *method.INNER,
               network.BACKBONE._replace(default=None, help='Network that --pretrained must hold; '
                                         'by default whatever it holds.'),
               network.WIDTH._replace(help='With --backbone: channels of its first block.'),
               *network.kept_from('--pretrained')),
    'machine': (machine.BATCHING, machine.MICROBATCH, machine.IMAGES, machine.DEVICES,
                machine.POOL, machine.PROFILE, machine.TRACKER, *machine.COMPILE_CACHE,
                *processes.PROCESSES),
}


def run(values: FlagValues) -> None:
  """Runs the phase that the flags describe.

  Args:
    values: parsed flags.
  """
  budget = task.time_budget(values)  # first, as its time runs already
  processes.join(values)
  machine.check_trackers(values)
  method.check(values)
  if values.width and not values.backbone:
    raise ValueError('--width goes with --backbone: give both, or neither')
  name = network.backbone_name(values)
  settings = finished.trained_settings(values.pretrained)  # a wrong directory fails before data
  readout = network.readout_options(values)
  kept = settings['backbone']['name'], settings.get('readout', {}) | readout
  config = method.meta_train_config(values, None, *kept)
  validation = task.validation(values, config.inner)
  begun.check(values, config, settings, command='meta_train', seed=values.seed,
              validation=configs.to_json(validation), chosen=method.chooses_rate(values))
  dataset = data.load_dataset(values, run=settings)
  config = method.meta_train_config(values, dataset, *kept)
  backbone = {'name': name, 'width': values.width} if name else None
  results = runs.meta_train_run(
      dataset, pretrained=values.pretrained, config=config, backbone=backbone,
      validation=validation, seed=values.seed, workdir=values.workdir,
      readout=readout, compute_dtype=values.compute_dtype, auto_rate=method.chooses_rate(values),
      machine=machine.machine(values), budget=budget)
  if 'inner_lr' in results:
    print(f'inner rate {results["inner_lr"]:g}, of the lowest query loss on validation tasks')
  print(f'meta-trained on {dataset.name}: {config.way}-way {config.shot}-shot accuracy '
        f'{100 * results["validation_accuracy"]:.2f}% on validation classes at step '
        f'{results["best_step"]}, {results["seconds"]:.0f} s')


COMMAND = command.Command('meta-train', __doc__, EXAMPLES, FLAGS, run)

if __name__ == '__main__':
  command.start(COMMAND)
