"""What a finished run hands on: the backbone Θ and, after meta-training, Φ_S and θ."""
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mtl_jax import backbones, configs, learnable
from mtl_jax.configs import MetaTrainConfig, PretrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.runs import models, tensor_files, workdirs
from mtl_jax.runs.validation import Validation
from mtl_jax.types import Backbone, BackboneVars, MetaParams, Normalization

CONFIGS = {'pretrain': PretrainConfig, 'meta_train': MetaTrainConfig}  # command -> its config


class FinishedRun(NamedTuple):
  """A finished pre-training or meta-training."""
  backbone: Backbone
  backbone_vars: BackboneVars
  meta_params: MetaParams | None  # None after pre-training
  normalization: Normalization    # what its images were normalised by
  settings: dict[str, Any]        # as in its model.json

  @property
  def config(self) -> PretrainConfig | MetaTrainConfig:
    """The config that it was trained with."""
    return configs.from_json(CONFIGS[self.settings['command']], self.settings['config'])

  def __repr__(self) -> str:
    shape = 'x'.join(map(str, self.settings['image_shape']))
    return (f'FinishedRun({self.settings["command"]} of {self.settings["backbone"]["name"]} on '
            f'{self.settings["dataset"]}, images of {shape})')


def load(workdir: str | os.PathLike, image_shape: tuple[int, ...] | None = None, *,
         backbone: Mapping[str, Any] | None = None, readout: Mapping[str, Any] | None = None,
         compute_dtype: str | None = None) -> FinishedRun:
  """Reads what a finished pre-training or meta-training has learned.

  Args:
    workdir: of that run.
    image_shape: (H, W, C) of the images that it will be used on; None for those it was trained on.
    backbone: options of `backbones.create` to expect; None takes those of the run.
    readout: options of `backbones.read_out` that differ from those of the run.
    compute_dtype: of convolutions, if not that of the run.

  Returns:
    A FinishedRun, with what was used in `settings['readout']` and `settings['backbone']`.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours, another architecture or another image size.
  """
  workdir = os.fspath(workdir)
  settings = trained_settings(workdir)
  height, width, channels = settings['image_shape']
  trained_shape = (height, width, channels)
  if image_shape is not None and takes_any_size(settings):
    trained_shape = (image_shape[0], image_shape[1], trained_shape[2])
    settings['image_shape'] = list(trained_shape)
  if image_shape is not None and tuple(image_shape) != trained_shape:
    raise ValueError(f'expected images of shape {trained_shape}, as {workdir} was trained on, got '
                     f'{tuple(image_shape)}; choose another --image_size, --center_crop or '
                     '--dataset')
  settings = settings | {
    'readout': settings.get('readout', {}) | dict(readout or {}),
    'backbone': settings['backbone'] | ({'compute_dtype': compute_dtype} if compute_dtype else {})}
  options = settings['backbone'] | dict(backbone or {})
  network = backbones.create(image_shape=trained_shape, **options)
  network = backbones.read_out(network, **settings['readout'])
  backbone_vars = _load_backbone(workdir, network, backbone is not None)
  meta_params = None
  if settings['command'] == 'meta_train':
    meta_params = _load_meta_params(workdir, network, backbone_vars, settings, readout)
  moments = (np.asarray(settings['normalization'][name], np.float32) for name in ('mean', 'std'))
  return FinishedRun(network, backbone_vars, meta_params, Normalization(*moments), settings)


def _load_backbone(workdir, network, was_named):
  like = jax.eval_shape(network.init, jax.random.key(0))
  try:
    return models.read_tree(workdir, models.BACKBONE, like)
  except ValueError as error:
    if not was_named:
      raise
    raise ValueError(f'{error}; --backbone and --width must be those of {workdir}, or be left '
                     'out') from error


def _load_meta_params(workdir, network, backbone_vars, settings, readout):
  config = configs.from_json(MetaTrainConfig, settings['config'])
  if config.learn.temperature and set(readout or {}) & {'norm', 'temperature'}:
    raise ValueError(f'--feature_norm and --temperature do not go with {workdir}, which has '
                     'learned the temperature')
  like = jax.eval_shape(lambda v: meta_train.init(network, v, config).meta_params, backbone_vars)
  return models.read_tree(workdir, models.META_PARAMS, like)


def network_of(run: FinishedRun) -> BackboneVars:
  """Returns the network that a run has learned: Θ, with Φ_S after meta-training.

  Args:
    run: of `load`.
  """
  if run.meta_params is None:
    return run.backbone_vars
  return learnable.network(run.backbone_vars, run.meta_params)


def of_any_length(run: FinishedRun) -> Backbone:
  """Returns the backbone of a run, read out as it is but for the length of its features.

  Args:
    run: of `load`.
  """
  length = {'norm': 'none', 'temperature': None}
  return read_out(run, run.settings['readout'] | length).backbone


def read_out(run: FinishedRun, readout: Mapping[str, Any]) -> FinishedRun:
  """Returns a run whose features are read out in another way.

  Args:
    run: of `load`.
    readout: all options of `backbones.read_out` that are not at their defaults.
  """
  settings = run.settings | {'readout': dict(readout)}
  height, width, channels = run.settings['image_shape']
  network = backbones.create(image_shape=(height, width, channels), **settings['backbone'])
  return run._replace(backbone=backbones.read_out(network, **readout), settings=settings)


def takes_any_size(settings: Mapping[str, Any]) -> bool:
  """Whether a run holds public weights as they came, so that images of any size may follow.

  Args:
    settings: of the run.
  """
  return bool(settings.get('imported', {}).get('any_size'))


def trained_settings(workdir: str | os.PathLike) -> dict[str, Any]:
  """Reads the settings of a finished pre-training or meta-training.

  Args:
    workdir: of that run.

  Returns:
    The `settings` in its `model.json`: its `settings.json`, with what it was trained by.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours, or one of another version.
  """
  settings, model = read_run(workdir)
  if model is None:
    if workdirs.read_results(workdir) is not None:
      models.refuse_earlier_format(workdir)
    raise FileNotFoundError(f'{settings["command"]} in {workdir} is not finished: start it again '
                            'to finish it')
  return settings


def read_run(workdir: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any] | None]:
  """Reads what is said about a pre-training or meta-training, finished or not.

  Args:
    workdir: of that run.

  Returns:
    (its settings; its `model.json`, or None where there is no finished model).

  Raises:
    FileNotFoundError: no such directory.
    ValueError: as `trained_settings`.
  """
  model = models.read(workdir)
  settings = workdirs.read_settings(workdir) if model is None else model['settings']
  command = settings.get('command')
  if command not in tuple(CONFIGS):
    raise ValueError(f'expected {workdir} to hold a pre-training or meta-training, got '
                     f'{command!r}; name the --workdir of one')
  missing = {'image_shape', 'normalization', 'backbone', 'config'} - set(settings)
  if missing:
    raise ValueError(f'the settings in {workdir} are damaged: expected {sorted(missing)} in them, '
                     'found none')
  for name, kind in (('config', CONFIGS[command]), ('validation', Validation)):
    if name in settings:
      _check_version(workdir, command, name, kind, settings[name])
  return settings, model


def _check_version(workdir, command, name, kind, found):
  try:
    configs.from_json(kind, found)
  except (ValueError, TypeError) as error:
    raise ValueError(f'the run in {workdir} is of another version of mtl_jax: its {name} '
                     f'differs ({error}); run {command} again in a new --workdir') from error


def check_statistics(workdir: str, settings: Mapping[str, Any], *batch_stats_modes: str) -> None:
  """Refuses running statistics where Θ was imported from a file that has none.

  Args:
    workdir: of the finished run, to be named.
    settings: of that run.
    *batch_stats_modes: 'running' or 'batch', those that it is going to be used with.

  Raises:
    ValueError: one of them is 'running' and there are none.
  """
  imported = settings.get('imported') or settings.get('pretrained', {}).get('imported', {})
  if 'running' in batch_stats_modes and not imported.get('running_statistics', True):
    raise ValueError(f'the weights in {workdir} come from a file without running statistics of '
                     'batch norm: give --batch_stats=batch, or --protocol=paper in meta_test')


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
  path = os.path.join(workdir, models.BACKBONE)
  try:
    return tensor_files.read(path, backbone_vars)
  except FileNotFoundError:
    tensor_files.write(path, backbone_vars)
    return backbone_vars
