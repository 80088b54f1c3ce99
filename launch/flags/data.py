"""Flags of images, and of the directories that a run reads and writes; and the data set."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from mtl_jax import data, stages, types
from mtl_jax.configs import MetaTrainConfig, PretrainConfig
from mtl_jax.data import transforms
from mtl_jax.runs import finished, hosts

from . import chosen_data
from .declared import Flag, Flags, of_field, value_of

WORKDIR = Flag('workdir', 'Directory of the run; a run found there is resumed.', Path, shown='DIR',
               required=True)

DATASET = Flag('dataset', f'Data set: one of {", ".join(data.FORMS)}; by default folder with '
               '--data_dir, else that of the run that is gone on from, else glyphs.', str)
IMAGE_SIZE = Flag('image_size', 'Side of the images in pixels; by default as in the run that is '
                  "gone on from, or the data set's own.", int, least=16, most=640)
SPLIT = Flag('split', 'For images of your own: fractions of the classes for train, val and test, '
             'such as 0.6,0.2,0.2; by default as the run has it that is gone on from, or the data.',
             str, shown='X,Y,Z')
_PLACE: Flags = (
    DATASET,
    Flag('data_dir', 'Folder with the archive or images of the data set; never written to.', Path,
         shown='DIR'),
    Flag('cache_dir', "Where decoded images are kept; by default the user's cache folder.", Path,
         shown='DIR'),
    IMAGE_SIZE,
)
_OWN: Flags = (
    Flag('split_seed', 'With --split: decides which classes go where; by default 0, whatever '
         '--seed is.', int, least=0, most=2**32 - 1),
    Flag('split_file', 'For images of your own: JSON file with the classes of each split.', Path,
         shown='FILE'),
    Flag('name', 'For images of your own: what the run and its results call them; by default '
         'their folder or file.', str),
    Flag('image_column', 'For csv:, hf: and tfds: column of the images, where its name does not '
         'tell.', str),
    Flag('label_column', 'For csv:, hf: and tfds: column of the classes, where its name does not '
         'tell.', str),
    Flag('skip_broken_images', 'Leave out images that cannot be read, instead of stopping '
         '(images of your own, mini_imagenet, tiered_imagenet).', bool, False),
    Flag('center_crop', 'Side of the middle that is kept, in pixels; by default all of it.', int,
         least=16, most=4096),
)
SOURCE: Flags = (*_PLACE, SPLIT, *_OWN)
SOURCE_OF_TEST: Flags = (*_PLACE, *_OWN)  # its --split says more, see `task.TESTING`

BASE_CLASSES = Flag(
    'base_classes', 'Base classes to train on: all; fold:K/N, every N-th class from the K-th on; '
    'rest:K/N, the others.', str, 'all', shown='PART')
ROTATED_CLASSES = Flag(
    'rotated_classes', 'Each base class turned by 90, 180 or 270 degrees is a class of its own.',
    bool, False)
# Both make tasks of classes that pre-training has not seen.
CLASSES: Flags = (BASE_CLASSES, ROTATED_CLASSES)

# Decided by the data set where they are not given.
_CROP_PADDING = 'Padding of random crops in pixels; by default an eighth of the image; 0 for none.'
_FLIP = 'Mirror images at random; by default where the data set allows it.'


def augmentation(config: type) -> Flags:
  """Declares the flags of random crops and flips.

  Args:
    config: PretrainConfig or MetaTrainConfig, whose fields they set.
  """
  return (of_field(config, 'crop_padding', _CROP_PADDING, default=None, least=0, most=640),
          of_field(config, 'flip', _FLIP, default=None))


PRETRAIN: Flags = (
    *augmentation(PretrainConfig),
    of_field(PretrainConfig, 'color', 'Strength of random changes of brightness, contrast and '
             'saturation; 0 for none.', least=0.0, most=1.0),
    Flag('normalization', 'By mean and deviation of the training images, by /255 alone (unit), or '
         "by the numbers of the authors' PyTorch code."
         , ('dataset', *transforms.NORMALIZATIONS), 'dataset'),
)
META_TRAIN: Flags = augmentation(MetaTrainConfig)


def load_dataset(values: FlagValues, name: str | None = None,
                 run: Mapping[str, Any] | None = None) -> types.Dataset:
  """Loads the data set that the flags name, and keeps, turns and crops what they say.

  Args:
    values: parsed flags; SOURCE, and CLASSES where the command has them.
    name: of the data set, where --dataset is not what decides it.
    run: settings of the run that is gone on from: its images have the size and the channels that
      those of the data set are given, and its data are taken or divided as there.

  Raises:
    ValueError: an unknown name, or data that is missing, damaged or not as expected.
  """
  size, channels = values.image_size, None
  if run is not None:
    _check_side(values, run)
    channels = run['image_shape'][2]
    if size is None and values.center_crop is None:
      size = run['image_shape'][0]
  dataset = _load(values, chosen_data.options(values, name, run), size, channels)
  dataset = transforms.choose_classes(dataset, value_of(values, BASE_CLASSES))
  if value_of(values, ROTATED_CLASSES):
    dataset = transforms.rotate_train_classes(dataset)
  if values.center_crop is None:
    return dataset
  return transforms.center_crop(dataset, values.center_crop)


def _check_side(values: FlagValues, run: Mapping[str, Any]) -> None:
  """Refuses images of another size than those of the run, before they are read."""
  side, shape = values.center_crop or values.image_size, tuple(run['image_shape'])
  if side is not None and side != shape[0] and not finished.takes_any_size(run):
    raise ValueError(f'expected images of shape {shape}, as the run that is gone on from was '
                     f'trained on, got {(side, side, shape[2])}; choose another --image_size or '
                     '--center_crop, or leave them out')


def load_target(values: FlagValues, name: str, image_size: int | None,
                channels: int | None) -> types.Dataset:
  """Loads a data set in the form that a network takes.

  Args:
    values: parsed flags; SOURCE.
    name: of the data set.
    image_size: side of its images in pixels; None for its own.
    channels: of its images; None for as many as it has.

  Raises:
    ValueError: data that is missing, damaged or not as expected.
  """
  # Of several targets, what divides classes is for one's own, and the folder for what reads one.
  options = chosen_data.given(values)
  if name not in data.OWN:
    options = {'data_dir': options.get('data_dir')} if name != data.DRAWN else {}
  return _load(values, {**options, 'dataset': name}, image_size, channels)


def _load(values: FlagValues, options: Mapping[str, Any], image_size: int | None,
          channels: int | None) -> types.Dataset:
  """Loads a data set by `options` of `data.load`, of which `dataset` is its name."""
  others = dict(options)
  name = others.pop('dataset')
  with stages.stage(f'reading {name}'):
    dataset = hosts.in_turn(lambda: data.load(
        name, **others, cache_dir=values.cache_dir, image_size=image_size,
        skip_broken=values.skip_broken_images))
  return dataset if channels is None else transforms.with_channels(dataset, channels)


def augmentation_of(values: FlagValues, dataset: types.Dataset | None) -> dict[str, int | bool]:
  """Returns `crop_padding` in pixels and `flip`, which the data set decides if no flag does.

  Args:
    values: parsed flags, those of `augmentation` among them.
    dataset: its image size and its `flip` are read; None before it is there, for what flags say.
  """
  padding, flip = values.crop_padding, values.flip
  if dataset is not None:
    padding = dataset.train.images.shape[1] // 8 if padding is None else padding
    flip = dataset.flip if flip is None else flip
  found = {'crop_padding': padding, 'flip': flip}
  return {name: value for name, value in found.items() if value is not None}
