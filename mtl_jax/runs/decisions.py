"""What a run decides by the machine that it starts on, and keeps when it is resumed elsewhere."""
import dataclasses
import os
from typing import Any, NamedTuple

from mtl_jax.configs import Batching, MetaTrainConfig
from mtl_jax.execution import frozen_prefix, memory, task_batching
from mtl_jax.runs import hosts, trackers, workdirs
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.sharding import Layout, num_devices, num_pool_parts
from mtl_jax.types import Backbone, BackboneVars, Cut, Dataset, ImagePool


class Machine(NamedTuple):
  """How a run uses the machine; results are the same, to rounding."""
  images: str = 'auto'          # where they stay: `Images`; 'auto' is as memory allows
  layout: Layout | None = None  # devices that share the work; None for one device
  profile: str | None = None    # folder for a trace of a few steady calls; None for no trace
  batching: str | None = None   # 'auto' measures `InnerLoop.batching`; None leaves it as it is
  trackers: tuple[str, ...] = trackers.DEFAULT  # which metrics go to, beside metrics.jsonl


ONE_DEVICE = Machine()


class Decided(NamedTuple):
  """What a run goes by from its start to its end, on whatever machine it is resumed."""
  images_on_host: bool
  prefix_once: bool = False    # whether the frozen lower part of the network is computed once
  batching: Batching = 'loop'  # of tasks that each adapt kernels of their own


def for_pretraining(workdir: str | os.PathLike, machine: Machine, dataset: Dataset) -> Decided:
  """Decides where the images of a pre-training stay.

  Args:
    workdir: of the run, which may have begun.
    machine: what the user asks for.
    dataset: its train and val splits are used.

  Returns:
    A Decided, the same in all processes.

  Raises:
    ValueError: an unknown choice.
  """
  def decide():
    begun = workdirs.begun_settings(workdir)
    return _images_on_host(begun, machine, dataset.train, dataset.val)

  return Decided(hosts.on_first(decide))


def for_meta_training(workdir: str | os.PathLike, machine: Machine, run: FinishedRun,
                      config: MetaTrainConfig, dataset: Dataset) -> tuple[Decided, Cut | None]:
  """Decides how a meta-training runs.

  Args:
    workdir: of the run, which may have begun.
    machine: what the user asks for.
    run: the pre-training.
    config: what is learned and adapted.
    dataset: its train and val splits are used.

  Returns:
    (a Decided, the same in all processes; the cut of the network, where its prefix is computed
    once).

  Raises:
    ValueError: an unknown choice.
  """
  cut = frozen_prefix.find_cut(run.backbone, config)

  def decide():
    begun = workdirs.begun_settings(workdir)
    on_host = _images_on_host(begun, machine, dataset.train, dataset.val)
    once, network = False, run.backbone
    if cut is not None and not on_host and _prefix_once(begun, cut, run, dataset, machine):
      once, network = True, frozen_prefix.upper_part(network, cut, run.backbone_vars)
    batching = _batching(begun, machine, network, run.backbone_vars, config)
    return on_host, once, batching

  decided = Decided(*hosts.on_first(decide))
  return decided, cut if decided.prefix_once else None


def for_meta_test(machine: Machine, pool: ImagePool) -> Decided:
  """Decides where the images of a meta-test stay, which may differ when it is resumed.

  Args:
    machine: what the user asks for.
    pool: the images of its split.

  Returns:
    A Decided, the same in all processes.

  Raises:
    ValueError: an unknown choice.
  """
  return Decided(hosts.on_first(lambda: _images_on_host({}, machine, pool)))


def _images_on_host(begun: dict[str, Any], machine: Machine, *pools: ImagePool) -> bool:
  if machine.images == 'auto' and 'images_on_host' in begun:
    return begun['images_on_host']
  return memory.stay_on_host(machine.images, *pools, num_parts=num_pool_parts(machine.layout))


def _prefix_once(begun, cut, run, dataset, machine) -> bool:
  if not frozen_prefix.is_exact(cut, run.backbone, run.backbone_vars):
    return False
  if 'prefix_once' in begun:
    return begun['prefix_once']
  return frozen_prefix.fits(cut, run.backbone, run.backbone_vars, dataset.train, dataset.val,
                            layout=machine.layout)


def _batching(begun: dict[str, Any], machine: Machine, network: Backbone,
              backbone_vars: BackboneVars, config: MetaTrainConfig) -> Batching:
  if machine.batching is None:
    return config.inner.batching
  if machine.batching == 'auto' and 'config' in begun:
    return begun['config'].get('inner', {}).get('batching', 'loop')
  # Measured at the size that one device has in memory at a time.
  tasks = max(1, config.meta_batch // num_devices(machine.layout))
  size = min(tasks, config.microbatch or tasks)
  per_device = dataclasses.replace(config, meta_batch=size)
  return task_batching.choose(machine.batching, network, backbone_vars, per_device)
