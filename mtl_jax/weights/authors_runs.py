"""The authors' weights as a finished run on disk, and a finished run as their weights.

`launch.meta_train` and `launch.meta_test` take an imported run as one of their own.
"""
import time
import zlib
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from mtl_jax.runs import finished, models, workdirs
from mtl_jax.types import Tree
from mtl_jax.weights import authors_settings, correspondence, transfer


def write(workdir: str, tensors: Mapping[str, np.ndarray], format: str, *, source: str,
          way: int | None = None, shot: int = 1,
          image_size: int | None = None) -> transfer.Transferred:
  """Writes the authors' weights as a finished pre-training or meta-training.

  Args:
    workdir: claimed for the run; nothing is written before all tensors have found their places.
    tensors: their key -> array.
    format: 'pytorch' or 'tensorflow'.
    source: where the tensors come from, for the results; the same ones from elsewhere are the same
      run.
    way: N that is expected of meta-trained weights; None takes whatever they have.
    shot: K that they were meta-trained for, which their files do not say.
    image_size: side of the images that the network will see, in pixels; None for the authors' own.

  Returns:
    What the tensors have become.

  Raises:
    ValueError: as `transfer.from_authors`; another way; or a work directory of another run.
    OSError: something could not be written.
  """
  began = time.monotonic()
  found = transfer.from_authors(tensors, format)
  if found.meta_params is not None:
    way = _checked_way(len(found.meta_params.base_learner.bias), way, source)
  settings = authors_settings.settings_of(found, format, way=way or 5, shot=shot,
                                          image_size=image_size)
  imported = {'format': format, 'digest': digest(tensors),
              'running_statistics': format != 'tensorflow'}
  # The source is not among the settings: the same tensors from another file are the same run.
  settings |= {'imported': imported}
  workdirs.claim(workdir, settings)
  if workdirs.read_results(workdir) is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
    return found
  with workdirs.in_use(workdir):
    results = {
        'command': settings['command'], 'imported': imported, 'source': source,
        'left_out': sorted(key for keys in found.left_out.values() for key in keys),
        'seed': settings['seed'], 'seconds': time.monotonic() - began,
        **workdirs.describe_machine()}
    trees: dict[str, Tree] = {models.BACKBONE: found.backbone_vars}
    if found.meta_params is not None:
      trees[models.META_PARAMS] = found.meta_params
    models.write(workdir, settings, trees, results)
    workdirs.write_results(workdir, results)
  return found


def format_of(workdir: str) -> str:
  """Returns the one of the authors' formats that a run can be written in.

  Args:
    workdir: of a finished pre-training or meta-training, imported or our own.

  Returns:
    'pytorch' or 'tensorflow'.

  Raises:
    ValueError: its network is neither of theirs.
    FileNotFoundError: there is no finished run.
  """
  network = finished.trained_settings(workdir)['backbone']['name']
  for format, theirs in correspondence.FORMATS.items():
    if network == theirs:
      return format
  raise ValueError(f"expected a run of {' or '.join(correspondence.FORMATS.values())}, the "
                   f"authors' networks, got {network} in {workdir}")


def export(workdir: str) -> transfer.Exported:
  """Reads a finished run and names its tensors as the authors' code does.

  Args:
    workdir: of the run.

  Returns:
    What the run has become.

  Raises:
    ValueError: as `format_of` and `transfer.to_authors`.
    FileNotFoundError: there is no finished run.
  """
  format = format_of(workdir)
  run = finished.load(workdir)
  backbone_vars, meta_params = jax.device_get((run.backbone_vars, run.meta_params))
  return transfer.to_authors(backbone_vars, meta_params, format)


def unlike_theirs(workdir: str) -> tuple[str, ...]:
  """Names what a run has that the authors' code has otherwise and their files cannot say.

  Args:
    workdir: of a finished run that `format_of` knows.

  Returns:
    One phrase for each such thing; where there is one, their code computes something else.
  """
  return authors_settings.differences(finished.trained_settings(workdir), format_of(workdir))


def _checked_way(way: int, expected: int | None, source: str) -> int:
  if expected not in (None, way):
    raise ValueError(f'expected weights for {expected} classes (--way), got {source} for {way}')
  return way


def digest(tensors: Mapping[str, np.ndarray]) -> int:
  """Returns a checksum of all keys and numbers, the same from a file of any kind.

  Args:
    tensors: name -> array.
  """
  digest = 0
  for key in sorted(tensors):
    content = np.ascontiguousarray(tensors[key]).tobytes()
    digest = zlib.crc32(content, zlib.crc32(key.encode(), digest))
  return digest
