"""The phases with all images in the device's memory: an `Execution` (`from_host` is the other)."""
import contextlib
import functools
from collections.abc import Callable

import jax

from mtl_jax import checks, sharding
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.execution import placement
from mtl_jax.phases import feature_tasks, meta_test, meta_train, pretrain
from mtl_jax.phases.distillation import Teacher
from mtl_jax.types import Array, Backbone, BackboneVars, ImagePool


def place(pool: ImagePool, *, layout: sharding.Layout | None = None) -> ImagePool:
  """Copies a pool to the device, or to several (`placement.place_pool`).

  Args:
    pool: of any arrays.
    layout: devices of the run; None for one device.
  """
  return placement.place_pool(pool, layout)


def pretraining(root_key: Array, pool: ImagePool, teacher: Teacher | None = None, *,
                backbone: Backbone, config: PretrainConfig, layout: sharding.Layout | None = None,
                teacher_network: Backbone | None = None
                ) -> contextlib.AbstractContextManager[Callable]:
  """Prepares pre-training, as `Execution.pretraining` says.

  Args:
    root_key: of the run.
    pool: uint8 images of the base classes.
    teacher: whose answers are learned too, if any.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the batch is spread over; None for one device.
    teacher_network: that of the teacher.

  Returns:
    A context that yields `advance`.
  """
  arguments = (placement.replicate(root_key, layout), place(pool, layout=layout),
               placement.replicate(teacher, layout))
  return contextlib.nullcontext(compiled(
      pretrain.many_steps, *arguments, backbone=backbone, config=config, layout=layout,
      teacher_network=teacher_network))


def meta_training(root_key: Array, backbone_vars: BackboneVars, pool: ImagePool, *,
                  backbone: Backbone, config: MetaTrainConfig,
                  layout: sharding.Layout | None = None
                  ) -> contextlib.AbstractContextManager[Callable]:
  """Prepares meta-training, as `Execution.meta_training` says.

  Args:
    root_key: of the run.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes, or what a network made of them.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the tasks are spread over; None for one device.

  Returns:
    A context that yields `advance`.
  """
  arguments = (*placement.replicate((root_key, backbone_vars), layout), place(pool, layout=layout))
  step = sharding.per_device(meta_train.cycle, layout, pools=(3,))
  return contextlib.nullcontext(compiled(step, *arguments, backbone=backbone, config=config))


def scorer(pool: ImagePool, keys: Array, *, backbone: Backbone, config: MetaTestConfig,
           layout: sharding.Layout | None = None) -> Callable:
  """Prepares the scoring of tasks, as `Execution.scorer` says.

  Args:
    pool: uint8 images of the split.
    keys: [num_tasks], one per task.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the tasks are spread over; None for one device.

  Returns:
    (MetaParams, BackboneVars) -> accuracy of each task, float32 [num_tasks].
  """
  if meta_test.each_image_alone(config):
    return _encoded(pool, keys, backbone, config, layout)
  score = checks.jit(functools.partial(
      sharding.per_device(meta_test.accuracies_per_task, layout, pools=(2,)), backbone=backbone,
      config=config))
  pool, keys = place(pool, layout=layout), placement.replicate(keys, layout)

  def score_learned(meta_params, backbone_vars):
    learned = placement.replicate((meta_params, backbone_vars), layout)
    # A clone of the keys is consumed: each call scores the same tasks.
    return score(*learned, pool, jax.random.clone(keys))

  return score_learned


def _encoded(pool, keys, backbone, config, layout):
  """Encodes the images that the tasks name, and no others where that is worth a copy of them."""
  named, drawn = feature_tasks.named(keys, pool, config=config)
  if named is not None:
    pool = pool._replace(images=pool.images[named])
  score = checks.jit(functools.partial(
      sharding.per_device(meta_test.accuracies_drawn, layout, pools=(2,)), backbone=backbone,
      config=config))
  pool, drawn = place(pool, layout=layout), placement.replicate(drawn, layout)
  return lambda meta_params, backbone_vars: score(
      *placement.replicate((meta_params, backbone_vars), layout), pool, drawn)


def compiled(step: Callable, *arguments, **options) -> Callable:
  """Jits a training call: the state is donated, everything else stays on the device.

  Args:
    step: (state, *arguments, **options) -> (state, metrics).
    *arguments: arrays, the same in every call.
    **options: static settings.

  Returns:
    state -> (state, metrics).
  """
  jitted = checks.jit(functools.partial(step, **options), donate_argnums=0)
  return lambda state: jitted(state, *arguments)
