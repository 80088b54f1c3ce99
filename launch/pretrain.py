"""Phase 1: pre-trains a backbone on the training classes.

  python -m launch.pretrain --dataset=fc100 --data_dir=DIR --backbone=conv4 --workdir=runs/pre
"""
from absl import flags

from launch.flags import machines, options, session
from mtl_jax import backbones
from mtl_jax.data import pools
from mtl_jax.phases.pretrain import PretrainConfig
from mtl_jax.runs import runs

_LR = {'resnet12': 0.02}  # with that of others it diverges within five steps
BACKBONE = flags.DEFINE_string('backbone', 'conv4', f'Network: one of {", ".join(backbones.NAMES)}.')
WIDTH = flags.DEFINE_integer('width', None, 'Channels of its first block; by default as published.', lower_bound=1)
NORM_AFFINE = flags.DEFINE_bool('norm_affine', None, 'Give batch norm a trained scale and offset (or none, by '
                                '--nonorm_affine); by default as published for the network.')
STEPS = flags.DEFINE_integer('steps', 5000, 'Optimizer steps, rounded up to whole calls.', lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images per step.', lower_bound=2)
LR = flags.DEFINE_float('lr', None, 'First learning rate of SGD; it falls to zero along a cosine. By default 0.1; 0.02 '
                        'for resnet12, whose shortcuts have no batch norm.', lower_bound=0.0)
WEIGHT_DECAY = flags.DEFINE_float('weight_decay', 5e-4, 'Weight decay of kernels.', lower_bound=0.0)
LABEL_SMOOTHING = flags.DEFINE_float('label_smoothing', 0.0, 'Share of the target spread over all classes.',
                                     lower_bound=0.0, upper_bound=0.9)
ROTATION_WEIGHT = flags.DEFINE_float('rotation_weight', 0.0, 'Share of the loss given to telling quarter turns of the '
                                     'image apart (self-supervision); 0 for none.', lower_bound=0.0, upper_bound=1.0)
CROP_PADDING = flags.DEFINE_integer('crop_padding', None, 'Padding of random crops in pixels; by default an eighth of '
                                    'the image; 0 for none.', lower_bound=0)
FLIP = flags.DEFINE_bool('flip', None, 'Mirror images at random; by default where the data set allows it.')
COLOR = flags.DEFINE_float('color', 0.0, 'Strength of random changes of brightness, contrast and saturation; 0 for '
                           'none.', lower_bound=0.0, upper_bound=1.0)
HIDDEN_UNITS = flags.DEFINE_integer('hidden_units', 0, 'Units of a hidden layer between features and base classes, as '
                                    "the authors' PyTorch code has (1000); 0 for none.", lower_bound=0)
NORMALIZATION = flags.DEFINE_enum('normalization', 'dataset', ['dataset', *pools.NORMALIZATIONS],
                                  'Images are normalised by mean and deviation of the training images, only by '
                                  "/255, or by the numbers of the authors' PyTorch code. Later phases do as this one.")
STEPS_PER_CALL = flags.DEFINE_integer('steps_per_call', 25, 'Optimizer steps in one compiled call.', lower_bound=1)
INNER_LR = flags.DEFINE_float('inner_lr', 0.01, 'Inner learning rate of the validation tasks.', lower_bound=0.0)
flags.adopt_module_key_flags(options)  # --help shows them too
flags.adopt_module_key_flags(session)
flags.adopt_module_key_flags(machines)
flags.mark_flag_as_required('workdir')


def run():
  """Runs the phase that the flags describe."""
  backbone = {'name': BACKBONE.value, 'width': WIDTH.value, 'compute_dtype': options.COMPUTE_DTYPE.value or 'float32'}
  if NORM_AFFINE.value is not None:
    backbone['norm_affine'] = NORM_AFFINE.value
  backbones.create(image_shape=(32, 32, 3), **backbone)  # an unknown name fails before data is read
  dataset = pools.normalized(options.load_dataset(), NORMALIZATION.value)
  if ROTATION_WEIGHT.value and dataset.name == 'omniglot':
    raise ValueError('--rotation_weight does not go with omniglot: there a turned image is another class')
  lr = _LR.get(BACKBONE.value, PretrainConfig().lr) if LR.value is None else LR.value
  config = PretrainConfig(
      steps=STEPS.value, batch_size=BATCH_SIZE.value, lr=lr, weight_decay=WEIGHT_DECAY.value,
      label_smoothing=LABEL_SMOOTHING.value, rotation_weight=ROTATION_WEIGHT.value,
      steps_per_call=STEPS_PER_CALL.value, color=COLOR.value, hidden_units=HIDDEN_UNITS.value,
      crop_padding=options.crop_padding(CROP_PADDING.value, dataset.train.images.shape[1]),
      flip=dataset.flip if FLIP.value is None else FLIP.value)
  results = runs.pretrain_run(dataset, backbone=backbone, config=config, validation=options.validation(INNER_LR.value),
                              seed=options.SEED.value, workdir=options.WORKDIR.value,
                              readout=options.readout(), images=options.IMAGES.value,
                              layout=machines.layout(), profile=machines.PROFILE.value)
  print(f'pre-trained {BACKBONE.value} on {dataset.name}: {options.WAY.value}-way {options.SHOT.value}-shot accuracy '
        f'{100 * results["validation_accuracy"]:.2f}% on validation classes at step {results["best_step"]}, '
        f'{results["seconds"]:.0f} s')


if __name__ == '__main__':
  session.start(machines.joined(run))
