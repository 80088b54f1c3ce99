"""Public weights as a finished pre-training on disk, which every later phase takes."""
import collections
import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from mtl_jax import backbones, configs
from mtl_jax.backbones import gains
from mtl_jax.configs import PretrainConfig
from mtl_jax.data.transforms import NORMALIZATIONS
from mtl_jax.runs import finished, models, workdirs
from mtl_jax.runs.validation import Validation
from mtl_jax.types import BackboneVars
from mtl_jax.weights import authors_runs, expected_tensors, layouts, paths, public_files
from mtl_jax.weights.correspondence import Place
from mtl_jax.weights.public_names import FORMATS


class Imported(NamedTuple):
  """What a file of public weights has become."""
  backbone: dict[str, Any]       # options of `backbones.create`
  backbone_vars: BackboneVars    # Θ: NumPy arrays, float32
  left_out: tuple[str, ...]      # names that have no place here


def from_public(tensors: Mapping[str, np.ndarray], format: str,
                network: str | None = None) -> Imported:
  """Moves every tensor of a public file to its place in our trees.

  Args:
    tensors: their name -> array of floating-point numbers.
    format: one of `public_names.FORMATS`.
    network: ours that it must be; None finds out which of the format's it is.

  Returns:
    An Imported.

  Raises:
    ValueError: it is another network (the first names that are missing and unexpected), or a tensor
      has another shape or not finite numbers.
  """
  kind = FORMATS[format]
  tensors, outside = public_files.strip_prefix(tensors, kind.anchor)
  if network is not None and network not in kind.networks:
    raise ValueError(f'expected a network of format {format}: one of {", ".join(kind.networks)}, '
                     f'got {network}')
  names = (network,) if network else kind.networks
  options = min((_options(name, format, tensors) for name in names),
                key=lambda options: len(_differences(options, format, tensors)))
  expected = _expected(tuple(options.items()), format)
  needed = {place.key for place, _ in expected}
  missing = [place.key for place, _ in expected if place.key not in tensors]
  extra = [*(name for name in tensors if name not in needed), *outside]
  left_out = tuple(name for name in extra if kind.harmless.fullmatch(name))
  unexpected = [name for name in extra if name not in left_out]
  if missing or unexpected:
    first = expected_tensors.first_names
    raise ValueError(f'expected {options["name"]} ({format}), got another network; missing: '
                     f'{first(missing)}; unexpected: {first(unexpected)}')
  ours = {place.path: layouts.to_ours(
      expected_tensors.check_tensor(place, tensors[place.key], shape), place.layout)
      for place, shape in expected}
  trees = paths.nested(ours)
  return Imported(options, BackboneVars(trees['params'], trees.get('batch_stats', {})), left_out)


def write(workdir: str, tensors: Mapping[str, np.ndarray], format: str, *, source: str,
          network: str | None = None, image_size: int | None = None,
          normalization: str | None = None) -> Imported:
  """Writes public weights as a finished pre-training.

  Args:
    workdir: claimed for the run; nothing is written before all tensors have found their places.
    tensors: their name -> array.
    format: one of `public_names.FORMATS`.
    source: where the tensors come from, for the results.
    network: as in `from_public`.
    image_size: side of the images that tasks will have unless they say otherwise; None for that of
      pre-training.
    normalization: name in `transforms.NORMALIZATIONS`; None for that of the format.

  Returns:
    What the tensors have become.

  Raises:
    ValueError: as `from_public`, an image size that the network cannot take, or a work directory of
      another run.
    OSError: something could not be written.
  """
  began = time.monotonic()
  found = from_public(tensors, format, network)
  size = image_size or backbones.published_size(found.backbone['name'])
  backbones.create(image_shape=(size, size, 3), **found.backbone)  # refuses a size
  mean, std = NORMALIZATIONS[normalization or FORMATS[format].normalization]
  imported = {'format': format, 'digest': authors_runs.digest(tensors),
              'running_statistics': True, 'any_size': True}
  settings = {
      'command': 'pretrain', 'dataset': 'imported', 'image_shape': [size, size, 3],
      'normalization': {'mean': list(mean), 'std': list(std)}, 'backbone': found.backbone,
      'config': configs.to_json(PretrainConfig()), 'seed': 0,
      'validation': configs.to_json(Validation()), 'readout': {}, 'imported': imported}
  workdirs.claim(workdir, settings)
  if workdirs.read_results(workdir) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return found
  with workdirs.in_use(workdir):
    results = {
        'command': 'pretrain', 'imported': imported, 'source': source,
        'left_out': sorted(found.left_out), 'seed': 0, 'seconds': time.monotonic() - began,
        **workdirs.describe_machine()}
    models.write(workdir, settings, {models.BACKBONE: found.backbone_vars}, results)
    workdirs.write_results(workdir, results)
  return found


def format_of(workdir: str) -> str | None:
  """Returns the format that a run can be exported to; None where its network is of none.

  Args:
    workdir: of a finished pre-training or meta-training.
  """
  network = finished.trained_settings(workdir)['backbone']['name']
  return next((name for name, kind in FORMATS.items() if network in kind.networks), None)


def export(workdir: str, format: str) -> dict[str, np.ndarray]:
  """Reads a finished run and names its tensors as the public files do, Φ_S taken into the weights.

  Args:
    workdir: of the run.
    format: as `format_of` says.

  Returns:
    Name -> array; classifiers and counters of batch norm are not among them.

  Raises:
    ValueError: the network has leaves that the files have no place for.
  """
  run = finished.load(workdir)
  backbone_vars = jax.device_get(gains.folded(finished.network_of(run)))
  ours = paths.flat(backbone_vars, None)
  expected = _expected(tuple(run.settings['backbone'].items()), format)
  extra = sorted(set(ours) - {place.path for place, _ in expected})
  if extra:
    raise ValueError(f'the files of {format} have no place for {extra[0]}')
  return {place.key: np.ascontiguousarray(layouts.to_theirs(np.asarray(ours[place.path]),
                                                            place.layout))
          for place, _ in expected}


def describe(left_out: tuple[str, ...]) -> str:
  """Counts names by what they begin with, for a message of one line.

  Args:
    left_out: of an `Imported`.

  >>> describe(('fc.weight', 'fc.bias', 'bn1.num_batches_tracked'))
  'fc.* (2 tensors), counters of batch norm (1 tensor)'
  """
  kinds = collections.Counter('counters of batch norm' if name.endswith('num_batches_tracked') else
                              f'{name.partition(".")[0]}.*' if '.' in name else name
                              for name in left_out)
  return ', '.join(f'{kind} ({count} tensor{"s" if count > 1 else ""})'
                   for kind, count in kinds.items())


def _options(network: str, format: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Options of `backbones.create`; the grid of positions is that of the file."""
  options: dict[str, Any] = {'name': network}
  positions = tensors.get('positional_embedding' if format == 'clip' else 'pos_embed')
  published = backbones.published_grid(network)
  if published and positions is not None and np.ndim(positions) >= 2:
    grid = round((np.shape(positions)[-2] - 1) ** 0.5)
    if grid != published:
      options['grid'] = max(grid, 1)
  return options


def _differences(options: Mapping[str, Any], format: str,
                 tensors: Mapping[str, np.ndarray]) -> list[str]:
  """Names that a network and a file do not share, or that have another shape there."""
  shapes = {place.key: shape for place, shape in tensors_of(options, format)}
  found = {name: np.shape(array) for name, array in tensors.items()
           if not FORMATS[format].harmless.fullmatch(name) or name in shapes}
  return [name for name in {**shapes, **found} if shapes.get(name) != found.get(name)]


def tensors_of(options: Mapping[str, Any], format: str
               ) -> tuple[tuple[Place, tuple[int, ...]], ...]:
  """Lists every tensor of a network in a file of a format: its place, and its shape there.

  Args:
    options: of `backbones.create`.
    format: one of `public_names.FORMATS`.
  """
  return tuple((place, layouts.to_theirs(np.broadcast_to(np.float32(0), shape), place.layout).shape)
               for place, shape in _expected(tuple(options.items()), format))


@functools.lru_cache(maxsize=32)
def _expected(options: tuple[tuple[str, Any], ...], format: str
              ) -> tuple[tuple[Place, tuple[int, ...]], ...]:
  """Every tensor of a network: its place, and the shape of the leaf that it becomes."""
  size = backbones.published_size(dict(options)['name'])
  network = backbones.create(image_shape=(size, size, 3), **dict(options))
  initial = jax.eval_shape(network.init, jax.random.key(0))
  shapes = {path: leaf.shape for path, leaf in paths.flat(initial, None).items()}
  places = FORMATS[format].places(dict(options)['name'], initial.params)
  return tuple((place, shapes[place.path]) for place in places)
