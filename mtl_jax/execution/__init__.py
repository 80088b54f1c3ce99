"""How a phase runs on a machine: images on the device or on the host, several devices, batching.

The phases are pure functions; an `Execution` compiles them over images that stay in one place.
"""
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from absl import logging

from mtl_jax.execution import from_host, on_device
from mtl_jax.sharding import Layout
from mtl_jax.types import ImagePool

__all__ = ['Execution', 'make']


class Execution(NamedTuple):
  """The compiled calls of the phases over images in one place; each draws the same tasks.

  Attributes:
    place: pool -> the pool where the calls below want it.
    pretraining: (root_key, pool, teacher, *, backbone, config, teacher_network) -> context that
      yields `advance`: PretrainState, donated -> (state `steps_per_call` steps further on, mean
      metrics).
    meta_training: (root_key, backbone_vars, pool, *, backbone, config) -> context that yields
      `advance`: MetaState, donated -> (state one cycle further on, mean metrics).
    scorer: (pool, keys [num_tasks], *, backbone, config) -> function of (MetaParams, BackboneVars)
      that returns the accuracy of each task, float32 [num_tasks].

  States are those of `placement.replicate`. Each call of `advance` goes on from what the one before
  returned, until `config.steps` are reached.
  """
  place: Callable[[ImagePool], ImagePool]
  pretraining: Callable[..., AbstractContextManager[Callable]]
  meta_training: Callable[..., AbstractContextManager[Callable]]
  scorer: Callable[..., Callable]


def make(images_on_host: bool, layout: Layout | None = None) -> Execution:
  """Returns the execution over images on the device or on the host.

  Args:
    images_on_host: whether images stay in host memory and are streamed.
    layout: devices that share the work; None for one device.
  """
  if images_on_host:
    logging.info('images stay in host memory and are streamed')
  room = from_host if images_on_host else on_device
  bind = functools.partial
  return Execution(place=bind(room.place, layout=layout),
                   pretraining=bind(room.pretraining, layout=layout),
                   meta_training=bind(room.meta_training, layout=layout),
                   scorer=bind(room.scorer, layout=layout))
