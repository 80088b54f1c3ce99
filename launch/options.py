"""Flags that several launchers share, and the values made of them."""
from absl import flags

from mtl_jax import data, runs, types

DATASET = flags.DEFINE_string('dataset', 'glyphs', f'Data set: one of {", ".join(data.NAMES)}.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder with the archive or images of the data set; never written to.')
CACHE_DIR = flags.DEFINE_string('cache_dir', None, "Where decoded images are kept; by default the user's cache folder.")
IMAGE_SIZE = flags.DEFINE_integer('image_size', None, "Side of the images in pixels; by default the data set's own.",
                                  lower_bound=16, upper_bound=512)
SPLIT_FILE = flags.DEFINE_string('split_file', None, 'For --dataset=folder: JSON file with the classes of each split.')
SKIP_BROKEN = flags.DEFINE_bool('skip_broken_images', False, 'For --dataset=folder: leave out images that cannot be '
                                'read, instead of stopping.')
SEED = flags.DEFINE_integer('seed', 0, 'Decides every random choice of the run.', lower_bound=0)
WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run: checkpoints, metrics, results. A run found there '
                              'is resumed.')
WAY = flags.DEFINE_integer('way', 5, 'Classes of a task (N).', lower_bound=2)
SHOT = flags.DEFINE_integer('shot', 1, 'Support images per class (K).', lower_bound=1)
VALIDATE_EVERY = flags.DEFINE_integer('validate_every', 250, 'Steps between validations, and so between checkpoints.',
                                      lower_bound=1)
VALIDATION_TASKS = flags.DEFINE_integer('validation_tasks', 500, 'Tasks of the validation classes that choose the best '
                                        'snapshot.', lower_bound=2)
TEST_INNER_STEPS = flags.DEFINE_integer('test_inner_steps', 100, 'Inner steps in validation and meta-test.',
                                        lower_bound=1)


def load_dataset() -> types.Dataset:
  """Loads the data set that the flags name.

  Returns:
    A Dataset.

  Raises:
    ValueError: an unknown name, or data missing, damaged or not as expected.
  """
  return data.load(DATASET.value, data_dir=DATA_DIR.value, cache_dir=CACHE_DIR.value, image_size=IMAGE_SIZE.value,
                   split_file=SPLIT_FILE.value, skip_broken=SKIP_BROKEN.value)


def validation(inner_lr: float, batch_stats_mode: str = 'running') -> runs.Validation:
  """Gives the validation tasks that the flags name.

  Args:
    inner_lr: α of the base-learner.
    batch_stats_mode: 'running' or 'batch'.

  Returns:
    A Validation.
  """
  return runs.Validation(every=VALIDATE_EVERY.value, num_tasks=VALIDATION_TASKS.value, way=WAY.value,
                         shot=SHOT.value, inner_lr=inner_lr, inner_steps=TEST_INNER_STEPS.value,
                         batch_stats_mode=batch_stats_mode)


def crop_padding(value: int | None, image_size: int) -> int:
  """Gives the padding of random crops: an eighth of the image unless a flag says otherwise.

  Args:
    value: of the flag, pixels, or None.
    image_size: pixels.

  Returns:
    Pixels.
  """
  return image_size // 8 if value is None else value
