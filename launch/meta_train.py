"""Phase 2: meta-trains scale, shift and base-learner over a pre-trained backbone, with hard tasks.

  python -m launch.meta_train --dataset=fc100 --data_dir=DIR --pretrained=runs/pre --way=5 --shot=1 --workdir=runs/mtl
"""
from absl import flags

from launch import options, session
from mtl_jax import backbones, learned, runs
from mtl_jax.phases.meta_train import MetaTrainConfig

PRETRAINED = flags.DEFINE_string('pretrained', None, 'Work directory of a finished pre-training.')
BACKBONE = flags.DEFINE_string('backbone', None, 'Network that --pretrained must hold; by default whatever it holds.')
WIDTH = flags.DEFINE_integer('width', None, 'With --backbone: channels of its first block.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 1000, 'Outer steps, rounded up to whole cycles of ordinary and hard tasks.',
                             lower_bound=1)
QUERY = flags.DEFINE_integer('query', 15, 'Query images per class (Q).', lower_bound=1)
META_BATCH = flags.DEFINE_integer('meta_batch', 2, 'Tasks per outer step.', lower_bound=1)
HARD = flags.DEFINE_bool('hard_tasks', True, 'Compose hard tasks of the classes that failed (HT meta-batch).')
NUM_ORDINARY = flags.DEFINE_integer('num_ordinary_tasks', 20, 'Ordinary tasks of a cycle (K).', lower_bound=1)
NUM_HARD = flags.DEFINE_integer('num_hard_tasks', 10, "Hard tasks of a cycle (K').", lower_bound=1)
INNER_LR = flags.DEFINE_float('inner_lr', 0.01, 'Inner learning rate (α).', lower_bound=0.0)
INNER_STEPS = flags.DEFINE_integer('inner_steps', 20, 'Inner steps in meta-training.', lower_bound=1)
GRADIENT_ORDER = flags.DEFINE_enum('gradient_order', 'second', ['first', 'second'], 'Whether the outer gradient goes '
                                   'through the inner loop.')
OUTER_LR = flags.DEFINE_float('outer_lr', 1e-3, 'First learning rate of Adam.', lower_bound=0.0)
OUTER_LR_HALVING = flags.DEFINE_integer('outer_lr_halving', 1000, 'Outer steps after which it is halved.',
                                        lower_bound=1)
OUTER_LR_FLOOR = flags.DEFINE_float('outer_lr_floor', 1e-4, 'It never falls below this.', lower_bound=0.0)
LEARN = flags.DEFINE_enum('learn', 'ss', ['ss', 'ss_last', 'head'], 'What the outer loop learns: scale, shift and '
                          'base-learner; the same on the last block only; or the base-learner alone (FT θ).')
BATCH_STATS = flags.DEFINE_enum('batch_stats', 'running', ['running', 'batch'], 'Batch norm by running statistics of '
                                'pre-training, or by those of the images at hand.')
CROP_PADDING = flags.DEFINE_integer('crop_padding', None, 'Padding of random crops in pixels; by default an eighth of '
                                    'the image; 0 for none.', lower_bound=0)
FLIP = flags.DEFINE_bool('flip', None, 'Mirror images at random; by default where the data set allows it.')
flags.adopt_module_key_flags(options)  # --help shows them too
flags.adopt_module_key_flags(session)
flags.mark_flags_as_required(['workdir', 'pretrained'])


def run():
  """Runs the phase that the flags describe."""
  if WIDTH.value and not BACKBONE.value:
    raise ValueError('--width goes with --backbone: give both, or neither')
  if BACKBONE.value and BACKBONE.value not in backbones.NAMES:
    raise ValueError(f'expected backbone to be one of {", ".join(backbones.NAMES)}, got {BACKBONE.value!r}')
  learned.trained_settings(PRETRAINED.value)  # a wrong directory fails before data is read
  dataset = options.load_dataset()
  config = MetaTrainConfig(
      steps=STEPS.value, way=options.WAY.value, shot=options.SHOT.value, query=QUERY.value,
      meta_batch=META_BATCH.value, ordinary_tasks=NUM_ORDINARY.value, hard_tasks=NUM_HARD.value if HARD.value else 0,
      inner_lr=INNER_LR.value, inner_steps=INNER_STEPS.value, gradient_order=GRADIENT_ORDER.value,
      outer_lr=OUTER_LR.value, outer_lr_halving=OUTER_LR_HALVING.value, outer_lr_floor=OUTER_LR_FLOOR.value,
      learn=LEARN.value, batch_stats_mode=BATCH_STATS.value,
      crop_padding=options.crop_padding(CROP_PADDING.value, dataset.train.images.shape[1]),
      flip=dataset.flip if FLIP.value is None else FLIP.value)
  backbone = {'name': BACKBONE.value, 'width': WIDTH.value} if BACKBONE.value else None
  results = runs.meta_train_run(dataset, pretrained=PRETRAINED.value, config=config, backbone=backbone,
                                validation=options.validation(INNER_LR.value, BATCH_STATS.value),
                                seed=options.SEED.value, workdir=options.WORKDIR.value)
  print(f'meta-trained on {dataset.name}: {config.way}-way {config.shot}-shot accuracy '
        f'{100 * results["validation_accuracy"]:.2f}% on validation classes at step {results["best_step"]}, '
        f'{results["seconds"]:.0f} s')


if __name__ == '__main__':
  session.start(run)
