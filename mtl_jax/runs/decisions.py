"""What a run decides by the machine that it starts on, and keeps when it is resumed, on whatever machine that is."""
import os
from typing import Any

from mtl_jax import sharding
from mtl_jax.execution import frozen_prefix, memory, task_batching
from mtl_jax.phases import meta_train
from mtl_jax.runs import hosts, workdirs
from mtl_jax.runs.finished import Learned
from mtl_jax.types import Backbone, BackboneVars, Dataset, ImagePool


def on_host(workdir: str | os.PathLike, images: str, layout: sharding.Layout | None, *pools: ImagePool) -> bool:
  """Decides whether images stay in host memory.

  Args:
    workdir: of the run.
    images: what the user asks for, as `placement.on_host` has it.
    layout: of the devices.
    *pools: the images.

  Returns:
    True for the host; the same in all processes.
  """
  def decide():
    begun = workdirs.begun_with(workdir, 'images_on_host')
    if begun is not None and images == 'auto':
      return begun
    return memory.on_host(images, *pools, num_parts=sharding.pool_parts(layout))

  return hosts.on_first(decide)


def prefix(workdir: str | os.PathLike, learned: Learned, config: meta_train.MetaTrainConfig, dataset: Dataset,
           layout: sharding.Layout | None) -> Backbone | None:
  """Decides whether the frozen lower part of the network is computed once.

  Args:
    workdir: of the run.
    learned: the pre-training.
    config: settings.
    dataset: the images.
    layout: of the devices.

  Returns:
    The network as `prefixes.cut` gives it, or None.
  """
  found = frozen_prefix.cut(learned.backbone, config)
  if found is None or not frozen_prefix.is_exact(found, learned.backbone_vars):
    return None
  once = hosts.on_first(lambda: _kept(workdir, 'prefix_once', lambda: frozen_prefix.fits(
      found, learned.backbone_vars, dataset.train, dataset.val, layout=layout)))
  return found if once else None


def over_tasks(workdir: str | os.PathLike, network: Backbone, backbone_vars: BackboneVars,
               config: meta_train.MetaTrainConfig, layout: sharding.Layout | None) -> str:
  """Decides how an inner loop that adapts the network goes over tasks.

  Args:
    workdir: of the run.
    network: what the inner loop adapts.
    backbone_vars: Θ.
    config: settings; `over_tasks` may be 'auto'.
    layout: of the devices.

  Returns:
    One of `inner_loop.WAYS`.
  """
  if config.over_tasks != 'auto':
    return config.over_tasks
  num_devices = 1 if layout is None else layout.size
  tasks = max(1, config.meta_batch // num_devices)
  per_device = config._replace(meta_batch=min(tasks, config.tasks_at_once or tasks))
  return hosts.on_first(lambda: _kept(workdir, 'over_tasks', lambda: task_batching.choose(
      'auto', network, backbone_vars, per_device)))


def _kept(workdir, name, decide) -> Any:
  begun = workdirs.begun_with(workdir, name)
  return decide() if begun is None else begun
