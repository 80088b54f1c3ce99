"""The authors' weights as a finished run, which `launch.meta_train` and `launch.meta_test` take, and a run as weights.

An imported run has the settings under which the authors trained such weights, as far as their files and code say; what
they do not say (the data set, the shots, how long) is marked by `imported` in `settings.json`.
"""
import os
import time
import zlib

import jax
import numpy as np
from absl import logging

from mtl_jax.data.pools import NORMALIZATIONS
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.runs import checkpoints, finished, workdirs
from mtl_jax.runs.validation import Validation
from mtl_jax.weights import names, transfer

IMAGE_SIZE = {'pytorch': 80, 'tensorflow': 84}  # pixels
_NORMALIZATION = {'pytorch': 'authors', 'tensorflow': 'unit'}
_NORM_EPSILON = {'pytorch': 1e-5, 'tensorflow': 1e-3}

# How the authors' two implementations meta-train. Their PyTorch code gives θ ten times the rate of Φ_S; here there is
# one. Their TensorFlow code has an inner rate of 0.001 on the *sum* of the cross-entropy over K: at test, with the
# doubled support of 5 classes, that is 0.01 on its mean. Its shifts take the place of the biases, yet start at them.
_CONFIG = {
    'pytorch': meta_train.MetaTrainConfig(
        steps=10_000, meta_batch=1, ordinary_tasks=1, hard_tasks=0, inner_steps=100, gradient_order='first',
        outer_lr=1e-4, outer_lr_floor=0.0, learn_norm=True, batch_stats_mode='batch', crop_padding=0, flip=False),
    'tensorflow': meta_train.MetaTrainConfig(
        steps=20_000, hard_tasks=0, batch_stats_mode='batch', crop_padding=0, flip=False)}


def write(workdir: str, tensors: dict[str, np.ndarray], format: str, *, source: str, way: int | None = None,
          shot: int = 1, image_size: int | None = None) -> transfer.Transferred:
  """Writes the authors' weights as a finished pre-training or meta-training.

  Args:
    workdir: claimed for it; nothing is written before all tensors have found their places.
    tensors: their key -> array.
    format: 'pytorch' or 'tensorflow'.
    source: where they come from, to be noted in the results; the same tensors from elsewhere are the same run.
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
  settings['imported'] = {'format': format, 'digest': _digest(tensors), 'running_statistics': format != 'tensorflow'}
  workdirs.claim(workdir, settings)
  if workdirs.read_results(workdir) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return found
  with workdirs.in_use(workdir):
    checkpoints.save_tree(os.path.join(workdir, 'backbone'), found.backbone_vars)
    if found.meta_params is not None:
      checkpoints.save_tree(os.path.join(workdir, 'meta_params'), found.meta_params)
    workdirs.write_results(workdir, {
        'command': settings['command'], 'imported': settings['imported'], 'source': source,
        'left_out': list(found.left_out),
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
  network = finished.trained_settings(workdir)['backbone']['name']
  for format, theirs in names.FORMATS.items():
    if network == theirs:
      return format
  raise ValueError(f"expected a run of {' or '.join(names.FORMATS.values())}, the authors' networks, got {network} in "
                   f'{workdir}')


def export(workdir: str) -> transfer.Exported:
  """Gives a finished run under the authors' keys; arguments and errors as `format_of` and `transfer.to_authors`."""
  format = format_of(workdir)
  run = finished.load(workdir, tuple(finished.trained_settings(workdir)['image_shape']))
  return transfer.to_authors(*jax.device_get((run.backbone_vars, run.meta_params)), format)


def unlike_theirs(workdir: str) -> tuple[str, ...]:
  """Names what a run has that the authors' code has otherwise and their files cannot say.

  Args:
    workdir: of a finished run that `format_of` knows.

  Returns:
    One phrase for each such thing; with all of them their code computes something else.
  """
  settings, format = finished.trained_settings(workdir), format_of(workdir)
  epsilon, width = (settings['backbone'].get(name) for name in ('norm_epsilon', 'width'))
  mean, std = (np.asarray(settings['normalization'][name]) for name in ('mean', 'std'))
  theirs = np.asarray(NORMALIZATIONS[_NORMALIZATION[format]])
  differs = {
      f'an epsilon of batch norm of {epsilon or 1e-5}, theirs is {_NORM_EPSILON[format]}':
          (epsilon or 1e-5) != _NORM_EPSILON[format],
      f'a width of {width}': width is not None,
      f'images normalised by mean {_rounded(mean)} and deviation {_rounded(std)}, theirs are {_rounded(theirs[0])} and '
      f'{_rounded(theirs[1])}': not np.allclose([mean, std], theirs, atol=1e-5),
      'features averaged with those of the mirror image, or of one length': any(
          value not in (False, 'none', None) for value in settings.get('readout', {}).values()),
      'an inner loop that adapts the network': settings['config'].get('adapts', 'head') != 'head'}
  return tuple(phrase for phrase, is_so in differs.items() if is_so)


def _rounded(values):
  return np.round(values, 4).tolist()


def _settings(found, format, way, shot, image_size):
  config = _CONFIG[format]._replace(way=way, shot=shot)
  # Their PyTorch code tests by running statistics; their TensorFlow code has none.
  validation = Validation(way=way, shot=shot).like(config)
  validation = validation._replace(batch_stats_mode='running' if format == 'pytorch' else 'batch')
  mean, std = NORMALIZATIONS[_NORMALIZATION[format]]
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
