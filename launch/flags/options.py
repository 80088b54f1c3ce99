"""Flags that several launchers share, and the values made of them."""
from absl import flags

from mtl_jax import backbones, data, types
from mtl_jax.data import folds, pools, rotations
from mtl_jax.execution import memory
from mtl_jax.runs import hosts, runs

DATASET = flags.DEFINE_string('dataset', 'glyphs', f'Data set: one of {", ".join(data.NAMES)}.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder with the archive or images of the data set; never written to.')
CACHE_DIR = flags.DEFINE_string('cache_dir', None, "Where decoded images are kept; by default the user's cache folder.")
IMAGE_SIZE = flags.DEFINE_integer('image_size', None, "Side of the images in pixels; by default the data set's own.",
                                  lower_bound=16, upper_bound=512)
CENTER_CROP = flags.DEFINE_integer('center_crop', None, 'Side of the middle of each image that is kept, in pixels; by '
                                   'default all of it.', lower_bound=16)
SPLIT_FILE = flags.DEFINE_string('split_file', None, 'For --dataset=folder: JSON file with the classes of each split.')
SKIP_BROKEN = flags.DEFINE_bool('skip_broken_images', False, 'For --dataset=folder, mini_imagenet and tiered_imagenet: '
                                'leave out images that cannot be read, instead of stopping.')
BASE_CLASSES = flags.DEFINE_string('base_classes', 'all', 'Base classes to train on: all; fold:K/N, every N-th class '
                                   'from the K-th on; rest:K/N, the others. So tasks can be made of classes that '
                                   'pre-training has not seen.')
ROTATED_CLASSES = flags.DEFINE_bool('rotated_classes', False, 'Each base class turned by 90, 180 and 270 degrees is a '
                                    'class of its own: tasks then have classes that pre-training has not seen.')
IMAGES = flags.DEFINE_enum('images', 'auto', list(memory.CHOICES), "Where decoded images stay: in the device's "
                           'memory, or in host memory, from where they are streamed, with the same tasks; auto: on the '
                           'host if they are too large for the device.')
SEED = flags.DEFINE_integer('seed', 0, 'Decides every random choice of the run.', lower_bound=0)
WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run: checkpoints, metrics, results. A run found there '
                              'is resumed.')
WAY = flags.DEFINE_integer('way', 5, 'Classes of a task (N).', lower_bound=2)
SHOT = flags.DEFINE_integer('shot', 1, 'Support images per class (K).', lower_bound=1)
VALIDATE_EVERY = flags.DEFINE_integer('validate_every', 250, 'Steps between validations, and so between checkpoints.',
                                      lower_bound=1)
VALIDATION_TASKS = flags.DEFINE_integer('validation_tasks', 500, 'Tasks of the validation classes that choose the best '
                                        'snapshot.', lower_bound=2)
TEST_INNER_STEPS = flags.DEFINE_integer('test_inner_steps', 100, 'Inner steps in validation and meta-test; by '
                                        'default meta-test takes as many as the validation of --checkpoint.',
                                        lower_bound=1)
FEATURE_NORM = flags.DEFINE_enum('feature_norm', None, list(backbones.NORMS), 'Length of the feature vectors that '
                                 'tasks see: as it is (none), or one for all (l2). By default as in the run before.')
MIRROR = flags.DEFINE_bool('mirror_features', None, 'Average the features of an image, in tasks, with those of its '
                           'mirror image. By default as in the run before.')
COMPUTE_DTYPE = flags.DEFINE_string('compute_dtype', None, 'Of convolutions: float32 or bfloat16; parameters, '
                                    'statistics, inner loop and loss are float32 either way. By default as in the run '
                                    'before, and float32 in pre-training.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'With --feature_norm=l2: that length, 10 unless given.',
                                 lower_bound=0.0)


def readout() -> dict:
  """Gives the options of `backbones.read_out` that the flags name.

  Returns:
    Those that were given.
  """
  given = {'norm': FEATURE_NORM.value, 'mirror': MIRROR.value, 'temperature': TEMPERATURE.value}
  return {name: value for name, value in given.items() if value is not None}


def load_dataset() -> types.Dataset:
  """Loads the data set that the flags name.

  Returns:
    A Dataset.

  Raises:
    ValueError: an unknown name, or data missing, damaged or not as expected.
  """
  dataset = hosts.in_turn(lambda: data.load(
      DATASET.value, data_dir=DATA_DIR.value, cache_dir=CACHE_DIR.value, image_size=IMAGE_SIZE.value,
      split_file=SPLIT_FILE.value, skip_broken=SKIP_BROKEN.value))
  dataset = folds.choose(dataset, BASE_CLASSES.value)
  dataset = rotations.of_train(dataset) if ROTATED_CLASSES.value else dataset
  return dataset if CENTER_CROP.value is None else pools.center_crop(dataset, CENTER_CROP.value)


def validation(inner_lr: float) -> runs.Validation:
  """Gives the validation tasks that the flags name; they adapt θ alone, by running statistics.

  Args:
    inner_lr: α of the base-learner.

  Returns:
    A Validation.
  """
  return runs.Validation(every=VALIDATE_EVERY.value, num_tasks=VALIDATION_TASKS.value, way=WAY.value,
                         shot=SHOT.value, inner_lr=inner_lr, inner_steps=TEST_INNER_STEPS.value)


def crop_padding(value: int | None, image_size: int) -> int:
  """Gives the padding of random crops: an eighth of the image unless a flag says otherwise.

  Args:
    value: of the flag, pixels, or None.
    image_size: pixels.

  Returns:
    Pixels.
  """
  return image_size // 8 if value is None else value
