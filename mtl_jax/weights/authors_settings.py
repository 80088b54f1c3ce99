"""The settings under which the authors train, as far as their files and their code say.

What neither says (the data set, the shots, how long) has our defaults in the settings of an
imported run, which are marked by `imported`.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_jax import configs
from mtl_jax.configs import TEST_LOOP, InnerLoop, Learn, MetaTrainConfig, PretrainConfig
from mtl_jax.data.transforms import NORMALIZATIONS
from mtl_jax.runs.validation import Validation
from mtl_jax.weights.expected_tensors import DEFAULT_EPSILON, NORM_EPSILON
from mtl_jax.weights.transfer import Transferred

IMAGE_SIZE = {'pytorch': 80, 'tensorflow': 84}  # pixels
_NORMALIZATION = {'pytorch': 'authors', 'tensorflow': 'unit'}

# How the authors' two implementations meta-train. What differs:
# - Their PyTorch code gives θ ten times the rate of Φ_S; here there is one.
# - Their TensorFlow code has an inner rate of 0.001 on the *sum* of the cross-entropy over K; at
#   test, with the doubled support of 5 classes, that is 0.01 on its mean.
# - Their TensorFlow shifts take the place of the biases, yet start at them. The sum of a bias and a
#   shift that starts at zero is the same function, so there is no `replace_bias` here.
_META_TRAIN = {
    'pytorch': MetaTrainConfig(
        steps=10_000, meta_batch=1, num_ordinary_tasks=1, num_hard_tasks=0,
        outer_lr=1e-4, outer_lr_floor=0.0, crop_padding=0, flip=False,
        inner=InnerLoop(steps=100, gradient_order='first', batch_stats_mode='batch'),
        learn=Learn(norm=True)),
    'tensorflow': MetaTrainConfig(
        steps=20_000, num_hard_tasks=0, crop_padding=0, flip=False,
        inner=InnerLoop(batch_stats_mode='batch'))}


def settings_of(found: Transferred, format: str, *, way: int, shot: int,
                image_size: int | None = None) -> dict[str, Any]:
  """Builds the settings of a run whose outcome the authors' weights are.

  Args:
    found: what their tensors have become.
    format: 'pytorch' or 'tensorflow'.
    way: N.
    shot: K.
    image_size: side of the images that the network will see, in pixels; None for the authors' own.

  Returns:
    The content of a `settings.json`, of a meta-training or of a pre-training.
  """
  config = dataclasses.replace(_META_TRAIN[format], way=way, shot=shot)
  # Their PyTorch code tests by running statistics; their TensorFlow code has none.
  mode = 'running' if format == 'pytorch' else 'batch'
  validation = Validation(way=way, shot=shot,
                          inner=dataclasses.replace(TEST_LOOP, batch_stats_mode=mode))
  mean, std = NORMALIZATIONS[_NORMALIZATION[format]]
  size = image_size or IMAGE_SIZE[format]
  trained = found.meta_params is not None
  return {
      'command': 'meta_train' if trained else 'pretrain',
      'dataset': 'imported',
      'image_shape': [size, size, 3],
      'normalization': {'mean': list(mean), 'std': list(std)},
      'backbone': found.backbone,
      'config': configs.to_json(config if trained else PretrainConfig()),
      'seed': 0,
      'validation': configs.to_json(validation),
      'readout': {}}


def differences(settings: Mapping[str, Any], format: str) -> tuple[str, ...]:
  """Names what a run has that the authors' code has otherwise and their files cannot say.

  Args:
    settings: of the run.
    format: 'pytorch' or 'tensorflow'.

  Returns:
    One phrase for each such thing.
  """
  network, theirs = settings['backbone'], np.asarray(NORMALIZATIONS[_NORMALIZATION[format]])
  epsilon = network.get('norm_epsilon') or DEFAULT_EPSILON
  mean, std = (np.asarray(settings['normalization'][name]) for name in ('mean', 'std'))
  adapts = settings['config'].get('inner', {}).get('adapts', 'head')  # none in a pre-training
  found = {
      f'an epsilon of batch norm of {epsilon}, theirs is {NORM_EPSILON[format]}':
          epsilon != NORM_EPSILON[format],
      f'a width of {network.get("width")}': network.get('width') is not None,
      f'images normalised by mean {_rounded(mean)} and deviation {_rounded(std)}, theirs are '
      f'{_rounded(theirs[0])} and {_rounded(theirs[1])}':
          not np.allclose([mean, std], theirs, atol=1e-5),
      'features averaged with those of the mirror image, or of one length':
          any(value not in (False, 'none', None) for value in settings.get('readout', {}).values()),
      'an inner loop that adapts the network': adapts != 'head'}
  return tuple(phrase for phrase, is_so in found.items() if is_so)


def _rounded(values: np.ndarray) -> list[float]:
  return np.round(values, 4).tolist()
