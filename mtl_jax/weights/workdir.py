"""The authors' weights as a finished run, which `launch.meta_train` and `launch.meta_test` take, and a run as weights.

An imported run has the settings under which the authors trained such weights, as far as their files and code say; what
they do not say (the data set, the shots, how long) is marked by `imported` in `settings.json`.
"""
import os
import time
import zlib

import jax
import numpy as np

from mtl_jax import checkpoints, learned, workdirs
from mtl_jax.data.pools import NORMALIZATIONS
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.validation import Validation
from mtl_jax.weights import names, transfer

IMAGE_SIZE = {'pytorch': 80, 'tensorflow': 84}  # pixels

# How the authors' two implementations meta-train.
_CONFIG = {
    'pytorch': meta_train.MetaTrainConfig(
        steps=10_000, meta_batch=1, ordinary_tasks=1, hard_tasks=0, inner_steps=100, gradient_order='first',
        outer_lr=1e-4, learn_norm=True, batch_stats_mode='batch', crop_padding=0, flip=False),
    'tensorflow': meta_train.MetaTrainConfig(
        steps=20_000, hard_tasks=0, replace_bias=True, batch_stats_mode='batch', crop_padding=0, flip=False)}


def write(workdir: str, tensors: dict[str, np.ndarray], format: str, *, source: str, way: int | None = None,
          shot: int = 1, image_size: int | None = None) -> transfer.Transferred:
  """Writes the authors' weights as a finished pre-training or meta-training.

  Args:
    workdir: claimed for it; nothing is written before all tensors have found their places.
    tensors: their key -> array.
    format: 'pytorch' or 'tensorflow'.
    source: where they come from, to be noted.
    way: N that is expected of meta-trained weights; None takes whatever they have.
    shot: K that they were meta-trained for, which their files do not say.
    image_size: pixels of the images that the network will see; None for the authors' own.

  Returns:
    What the tensors have become.

  Raises:
    ValueError: as `transfer.from_authors`; another way; or a work directory of another run.
    OSError: something could not be written.
  """
  began = time.monotonic()
  found = transfer.from_authors(tensors, format)
  if found.meta_params is not None:
    file_way = len(found.meta_params.base_learner.bias)
    if way not in (None, file_way):
      raise ValueError(f'expected weights for {way} classes (--way), got {source} for {file_way}')
    way = file_way
  settings = _settings(found, format, way or 5, shot, image_size or IMAGE_SIZE[format])
  settings['imported'] = {'format': format, 'source': source, 'digest': _digest(tensors),
                          'running_statistics': format != 'tensorflow'}
  workdirs.claim(workdir, settings)
  if workdirs.read_results(workdir) is not None:
    return found
  with workdirs.in_use(workdir):
    checkpoints.save_tree(os.path.join(workdir, 'backbone'), found.backbone_vars)
    if found.meta_params is not None:
      checkpoints.save_tree(os.path.join(workdir, 'meta_params'), found.meta_params)
    workdirs.write_results(workdir, {
        'command': settings['command'], 'imported': settings['imported'], 'left_out': list(found.left_out),
        'seed': settings['seed'], 'seconds': time.monotonic() - began, **workdirs.describe_machine()})
  return found


def format_of(workdir: str) -> str:
  """Tells in which of the authors' formats a run can be written.

  Args:
    workdir: of a finished pre-training or meta-training, imported or our own.

  Returns:
    'pytorch' or 'tensorflow'.

  Raises:
    ValueError: its network is neither of theirs.
    FileNotFoundError: no finished run.
  """
  network = learned.trained_settings(workdir)['backbone']['name']
  for format, theirs in names.FORMATS.items():
    if network == theirs:
      return format
  raise ValueError(f"expected a run of {' or '.join(names.FORMATS.values())}, the authors' networks, got {network} in "
                   f'{workdir}')


def export(workdir: str) -> transfer.Exported:
  """Gives a finished run under the authors' keys; arguments and errors as `format_of` and `transfer.to_authors`."""
  format = format_of(workdir)
  run = learned.load(workdir, tuple(learned.trained_settings(workdir)['image_shape']))
  return transfer.to_authors(*jax.device_get((run.backbone_vars, run.meta_params)), format)


def _settings(found, format, way, shot, image_size):
  config = _CONFIG[format]._replace(way=way, shot=shot)
  # Their PyTorch code tests by running statistics; their TensorFlow code has none.
  validation = Validation(way=way, shot=shot).like(config)
  validation = validation._replace(batch_stats_mode='running' if format == 'pytorch' else 'batch')
  mean, std = NORMALIZATIONS['authors' if format == 'pytorch' else 'unit']
  trained = found.meta_params is not None
  return {'command': 'meta_train' if trained else 'pretrain', 'dataset': 'imported',
          'image_shape': [image_size, image_size, 3], 'normalization': {'mean': list(mean), 'std': list(std)},
          'backbone': found.backbone, 'config': (config if trained else pretrain.PretrainConfig())._asdict(), 'seed': 0,
          'validation': validation._asdict(), 'readout': {}}


def _digest(tensors):
  digest = 0
  for key in sorted(tensors):
    digest = zlib.crc32(np.ascontiguousarray(tensors[key]).tobytes(), zlib.crc32(key.encode(), digest))
  return digest
