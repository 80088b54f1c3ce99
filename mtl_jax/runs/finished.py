"""What a finished run hands on: the backbone Θ and, after meta-training, Φ_S and θ."""
import os
from typing import NamedTuple

import jax
import numpy as np

from mtl_jax import backbones
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.runs import checkpoints, workdirs
from mtl_jax.runs.validation import Validation
from mtl_jax.types import Backbone, BackboneVars, MetaParams


class Learned(NamedTuple):
  """A finished pre-training or meta-training."""
  backbone: Backbone
  backbone_vars: BackboneVars
  meta_params: MetaParams | None  # None after pre-training
  mean: np.ndarray                # float32 [C], of images / 255, that it was trained with
  std: np.ndarray                 # float32 [C]
  settings: dict                  # of the run, as in its settings.json


def load(workdir: str, image_shape: tuple[int, int, int], backbone: dict | None = None,
         readout: dict | None = None, compute_dtype: str | None = None) -> Learned:
  """Reads what a finished pre-training or meta-training has learned.

  Args:
    workdir: of that run.
    image_shape: (H, W, C) of the images that it will be used on.
    backbone: options of `backbones.create` to expect; None takes those of the run.
    readout: options of `backbones.read_out` that differ from those of the run.
    compute_dtype: of convolutions, if not that of the run.

  Returns:
    A Learned, with what was used in `settings['readout']` and `settings['backbone']`.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours, another architecture or another image size.
  """
  settings = trained_settings(workdir)
  if list(image_shape) != settings['image_shape']:
    raise ValueError(f'expected images of shape {tuple(settings["image_shape"])}, as {workdir} was trained on, '
                     f'got {tuple(image_shape)}; choose another --image_size, --center_crop or --dataset')
  settings = settings | {'readout': settings.get('readout', {}) | (readout or {}),
                         'backbone': settings['backbone'] | ({'compute_dtype': compute_dtype} if compute_dtype else {})}
  network = backbones.read_out(backbones.create(image_shape=image_shape, **settings['backbone'] | (backbone or {})),
                               **settings['readout'])
  like = jax.eval_shape(network.init, jax.random.key(0))
  try:
    backbone_vars = checkpoints.load_tree(os.path.join(workdir, 'backbone'), like)
  except ValueError as error:
    if backbone is None:
      raise
    raise ValueError(f'{error}; --backbone and --width must be those of {workdir}, or be left out') from error
  meta_params = None
  if settings['command'] == 'meta_train':
    config = meta_train.MetaTrainConfig(**settings['config'])
    if config.learn_temperature and (readout or {}).keys() & {'norm', 'temperature'}:
      raise ValueError(f'--feature_norm and --temperature do not go with {workdir}, which has learned the temperature')
    like = jax.eval_shape(lambda v: meta_train.init(network, v, config).meta_params, backbone_vars)
    meta_params = checkpoints.load_tree(os.path.join(workdir, 'meta_params'), like)
  mean, std = (np.asarray(settings['normalization'][name], np.float32) for name in ('mean', 'std'))
  return Learned(network, backbone_vars, meta_params, mean, std, settings)


def trained_settings(workdir: str) -> dict:
  """Reads the settings of a finished pre-training or meta-training.

  Args:
    workdir: of that run.

  Returns:
    The content of its `settings.json`.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours.
  """
  settings = workdirs.read_settings(workdir)
  if settings.get('command') not in ('pretrain', 'meta_train'):
    raise ValueError(f'expected {workdir} to hold a pre-training or meta-training, got {settings.get("command")!r}; '
                     'name the --workdir of one')
  missing = {'image_shape', 'normalization', 'backbone', 'config'} - set(settings)
  if missing:
    raise ValueError(f'settings.json in {workdir} is damaged: expected {sorted(missing)} in it, found none')
  config = {'pretrain': pretrain.PretrainConfig, 'meta_train': meta_train.MetaTrainConfig}[settings['command']]
  for name, kind in (('config', config), ('validation', Validation)):
    different = set(settings.get(name) or ()) ^ set(kind._fields)
    if different:
      raise ValueError(f'settings.json in {workdir} is of another version of mtl_jax: its {name} differs in '
                       f'{", ".join(sorted(different)[:3])}; run {settings["command"]} again in a new --workdir')
  if workdirs.read_results(workdir) is None:
    raise FileNotFoundError(f'{settings["command"]} in {workdir} is not finished: start it again to finish it')
  return settings


def check_statistics(workdir: str, settings: dict, *batch_stats_modes: str) -> None:
  """Refuses running statistics where Θ was imported from a file that has none.

  Args:
    workdir: of the finished run, to be named.
    settings: of that run.
    *batch_stats_modes: 'running' or 'batch', as it is going to be used.

  Raises:
    ValueError: one of them is 'running' and there are none.
  """
  imported = settings.get('imported') or settings.get('pretrained', {}).get('imported', {})
  if 'running' in batch_stats_modes and not imported.get('running_statistics', True):
    raise ValueError(f'the weights in {workdir} come from a file without running statistics of batch norm: give '
                     '--batch_stats=batch, or --protocol=paper in meta_test')


def keep_backbone(workdir: str, backbone_vars: BackboneVars) -> BackboneVars:
  """Copies Θ into a run, once: resumed, it goes on with the very backbone that it began with.

  Args:
    workdir: of the run.
    backbone_vars: Θ as it is now.

  Returns:
    Θ as it was when the run began.

  Raises:
    ValueError: the copy is damaged or of another architecture.
    OSError: the copy cannot be written.
  """
  folder = os.path.join(workdir, 'backbone')
  try:
    return checkpoints.load_tree(folder, backbone_vars)
  except FileNotFoundError:
    checkpoints.save_tree(folder, backbone_vars)
    return backbone_vars
