"""The mean of the features of base classes, which centred features have taken away."""
import os

import jax.numpy as jnp
import numpy as np

from mtl_jax import learnable, stages
from mtl_jax.phases import encoding
from mtl_jax.runs import array_files, finished, hosts
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import Dataset, ImagePool, MetaParams

FILE = 'base_mean.npy'  # of the run that is tested
MOST_PER_CLASS = 50  # images; the mean over thousands of images hardly differs from that over all


def centred(run: FinishedRun, meta_params: MetaParams, dataset: Dataset,
            workdir: str | os.PathLike, name: str = FILE) -> FinishedRun:
  """Returns a run whose features, before they are scaled to a length, have mean 0 on base classes.

  Args:
    run: as it is read out, views of an image included.
    meta_params: what has been learned; it makes the network.
    dataset: the base classes are those of its train split.
    workdir: of the test; a mean that `keep` has kept there is taken.
    name: of the file there.
  """
  kept = hosts.on_first(lambda: _kept(workdir, name))
  if kept is None:
    with stages.stage('computing the mean features of the base classes'):
      kept = mean(run, meta_params, dataset.train)
  return run._replace(backbone_vars=run.backbone_vars._replace(center=jnp.asarray(kept)))


def keep(run: FinishedRun, workdir: str | os.PathLike, name: str = FILE) -> None:
  """Writes the mean of `centred` to the work directory of a test.

  Args:
    run: of `centred`.
    workdir: of the test.
    name: of the file there.

  Raises:
    OSError: it cannot be written.
  """
  center = np.asarray(run.backbone_vars.center)
  hosts.on_first(lambda: array_files.write(workdir, name, center))


def read(run: FinishedRun, workdir: str | os.PathLike) -> FinishedRun:
  """Returns a run as it was tested: centred, if it was then.

  Args:
    run: of `finished.load`.
    workdir: of the test.
  """
  kept = _kept(workdir, FILE)
  if kept is None:
    return run
  return run._replace(backbone_vars=run.backbone_vars._replace(center=jnp.asarray(kept)))


def _kept(workdir, name):
  path = os.path.join(os.fspath(workdir), name)
  return array_files.read(path) if os.path.exists(path) else None


def mean(run: FinishedRun, meta_params: MetaParams, pool: ImagePool) -> np.ndarray:
  """Computes the mean of the features of classes, before they are scaled to a length.

      m = mean over classes of the mean over their images of e(x)

  Args:
    run: as it is read out, without a center.
    meta_params: as in `centred`.
    pool: uint8 images; of each class up to MOST_PER_CLASS are encoded, evenly spaced.

  Returns:
    float32 [d].
  """
  sizes = np.minimum(np.asarray(pool.class_sizes), MOST_PER_CLASS)
  places = np.concatenate([
      offset + np.linspace(0, size - 1, number).astype(int) for offset, size, number in
      zip(np.asarray(pool.class_offsets), np.asarray(pool.class_sizes), sizes, strict=True)])
  per_pass = encoding.images_per_pass(*pool.images.shape[1:3])
  batches = (np.asarray(pool.images[places[start:start + per_pass]])
             for start in range(0, len(places), per_pass))
  network = learnable.network(run.backbone_vars, meta_params)
  features = encoding.encode_batches(network, batches, run.normalization,
                                     backbone=finished.of_any_length(run))
  weights = np.repeat(1 / (sizes * len(sizes)), sizes)
  return (weights @ features.astype(np.float64)).astype(np.float32)
