"""Phase 2: meta-trains scale, shift and base-learner over a pre-trained backbone, with hard tasks.

  python -m launch.meta_train --dataset=fc100 --data_dir=DIR --pretrained=runs/pre --way=5 --shot=1 --workdir=runs/mtl
"""
from absl import flags

from launch.flags import machines, options, session
from mtl_jax import backbones, inner_loop, learnable
from mtl_jax.execution import task_batching
from mtl_jax.phases.meta_train import MetaTrainConfig
from mtl_jax.runs import finished, runs

PRETRAINED = flags.DEFINE_string('pretrained', None, 'Work directory of a finished pre-training.')
BACKBONE = flags.DEFINE_string('backbone', None, 'Network that --pretrained must hold; by default whatever it holds.')
WIDTH = flags.DEFINE_integer('width', None, 'With --backbone: channels of its first block.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 1000, 'Outer steps, rounded up to whole cycles of ordinary and hard tasks.',
                             lower_bound=1)
QUERY = flags.DEFINE_integer('query', 15, 'Query images per class (Q).', lower_bound=1)
META_BATCH = flags.DEFINE_integer('meta_batch', 2, 'Tasks per outer step.', lower_bound=1)
TASKS_AT_ONCE = flags.DEFINE_integer('tasks_at_once', 0, 'Tasks of a meta-batch that are in memory at a time, at most, '
                                     'on each device; their gradients add up. 0: one on a CPU, all on others.',
                                     lower_bound=0)
HARD = flags.DEFINE_bool('hard_tasks', True, 'Compose hard tasks of the classes that failed (HT meta-batch).')
NUM_ORDINARY = flags.DEFINE_integer('num_ordinary_tasks', 20, 'Ordinary tasks of a cycle (K).', lower_bound=1)
NUM_HARD = flags.DEFINE_integer('num_hard_tasks', 10, "Hard tasks of a cycle (K').", lower_bound=1)
INNER_LR = flags.DEFINE_float('inner_lr', 0.01, 'Inner learning rate (α).', lower_bound=0.0)
INNER_STEPS = flags.DEFINE_integer('inner_steps', 20, 'Inner steps in meta-training.', lower_bound=1)
GRADIENT_ORDER = flags.DEFINE_enum('gradient_order', 'second', ['first', 'second', 'implicit'], 'How the outer '
                                   'gradient goes through the inner loop: in full, not at all, or as that of a '
                                   'minimum (with --regularization).')
ADAPTS = flags.DEFINE_enum('inner', 'head', list(inner_loop.LOOPS), 'What the inner loop adapts: the base-learner, the '
                           'last block too, or the whole network (MAML).')
OVER_TASKS = flags.DEFINE_enum('over_tasks', 'auto', list(task_batching.CHOICES), 'With --inner=last_block or all: tasks '
                               'one after the other (loop), all at once with grouped convolutions (vmap), or all at '
                               'once as batched products of patches; auto measures them at the start of a long run.')
REGULARIZATION = flags.DEFINE_float('regularization', 0.0, 'Pull of the inner loop towards its start (λ).',
                                    lower_bound=0.0)
OUTER_LR = flags.DEFINE_float('outer_lr', 1e-3, 'First learning rate of Adam.', lower_bound=0.0)
OUTER_LR_HALVING = flags.DEFINE_integer('outer_lr_halving', 1000, 'Outer steps after which it is halved.',
                                        lower_bound=1)
OUTER_LR_FLOOR = flags.DEFINE_float('outer_lr_floor', 1e-4, 'It never falls below this.', lower_bound=0.0)
LEARN = flags.DEFINE_enum('outer', 'ss', list(learnable.LEARN), 'What the outer loop learns beside the base-learner: '
                          'scale and shift, the weights themselves (ft), nothing (head), or not even that (none).')
SCOPE = flags.DEFINE_enum('scope', 'all', list(learnable.SCOPES), 'Where --outer=ss or ft learns.')
LEARN_NORM = flags.DEFINE_bool('learn_norm', False, 'With --outer=ss or ft: also learn the affine parameters of batch '
                               'norm.')
LEARN_CLASSIFIER = flags.DEFINE_bool('learn_classifier', True, 'Learn the start of the base-learner; else it is zero.')
LEARN_INNER_LR = flags.DEFINE_enum('learn_inner_lr', 'fixed', list(learnable.INNER_LR), 'Learn the inner '
                                   'learning rate, or one for each inner step, from --inner_lr on.')
LEARN_TEMPERATURE = flags.DEFINE_bool('learn_temperature', False, 'With --feature_norm=l2: learn that length.')
SCALED = flags.DEFINE_enum('scaled', 'published', list(learnable.SCALED), 'Layers that are scaled and shifted: those '
                           'of the paper for this network, or every one (shortcuts too).')
REPLACE_BIAS = flags.DEFINE_bool('replace_bias', False, "Let shifts take the place of the biases, as the authors' "
                                 'TensorFlow code does, instead of adding to them.')
BATCH_STATS = flags.DEFINE_enum('batch_stats', 'running', ['running', 'batch'], 'Batch norm by running statistics of '
                                'pre-training, or by those of the images at hand.')
CROP_PADDING = flags.DEFINE_integer('crop_padding', None, 'Padding of random crops in pixels; by default an eighth of '
                                    'the image; 0 for none.', lower_bound=0)
FLIP = flags.DEFINE_bool('flip', None, 'Mirror images at random; by default where the data set allows it.')
flags.adopt_module_key_flags(options)  # --help shows them too
flags.adopt_module_key_flags(session)
flags.adopt_module_key_flags(machines)
flags.mark_flags_as_required(['workdir', 'pretrained'])


def config(dataset):
  """Gives the settings that the flags name.

  Args:
    dataset: its image size and whether it may be mirrored decide defaults.

  Returns:
    A MetaTrainConfig.
  """
  return MetaTrainConfig(
      steps=STEPS.value, way=options.WAY.value, shot=options.SHOT.value, query=QUERY.value,
      meta_batch=META_BATCH.value, tasks_at_once=TASKS_AT_ONCE.value, ordinary_tasks=NUM_ORDINARY.value,
      hard_tasks=NUM_HARD.value if HARD.value else 0,
      inner_lr=INNER_LR.value, inner_steps=INNER_STEPS.value, gradient_order=GRADIENT_ORDER.value,
      outer_lr=OUTER_LR.value, outer_lr_halving=OUTER_LR_HALVING.value, outer_lr_floor=OUTER_LR_FLOOR.value,
      learn=LEARN.value, scope=SCOPE.value, learn_norm=LEARN_NORM.value, learn_classifier=LEARN_CLASSIFIER.value,
      learn_inner_lr=LEARN_INNER_LR.value, learn_temperature=LEARN_TEMPERATURE.value,
      scaled=SCALED.value, replace_bias=REPLACE_BIAS.value, adapts=ADAPTS.value,
      over_tasks=OVER_TASKS.value, regularization=REGULARIZATION.value,
      batch_stats_mode=BATCH_STATS.value,
      crop_padding=options.crop_padding(CROP_PADDING.value, dataset.train.images.shape[1]),
      flip=dataset.flip if FLIP.value is None else FLIP.value)


def run():
  """Runs the phase that the flags describe."""
  if WIDTH.value and not BACKBONE.value:
    raise ValueError('--width goes with --backbone: give both, or neither')
  if BACKBONE.value and BACKBONE.value not in backbones.NAMES:
    raise ValueError(f'expected backbone to be one of {", ".join(backbones.NAMES)}, got {BACKBONE.value!r}')
  finished.trained_settings(PRETRAINED.value)  # a wrong directory fails before data is read
  dataset = options.load_dataset()
  settings = config(dataset)
  backbone = {'name': BACKBONE.value, 'width': WIDTH.value} if BACKBONE.value else None
  results = runs.meta_train_run(dataset, pretrained=PRETRAINED.value, config=settings, backbone=backbone,
                                validation=options.validation(INNER_LR.value).like(settings),
                                seed=options.SEED.value, workdir=options.WORKDIR.value,
                                readout=options.readout(), compute_dtype=options.COMPUTE_DTYPE.value,
                                images=options.IMAGES.value, layout=machines.layout(), profile=machines.PROFILE.value)
  print(f'meta-trained on {dataset.name}: {settings.way}-way {settings.shot}-shot accuracy '
        f'{100 * results["validation_accuracy"]:.2f}% on validation classes at step {results["best_step"]}, '
        f'{results["seconds"]:.0f} s')


if __name__ == '__main__':
  session.start(machines.joined(run))
