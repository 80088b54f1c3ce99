"""The compiled calls of the three phases with all images in the device's memory; `streamed` has the same functions."""
import contextlib
import functools
from collections.abc import Callable

import jax

from mtl_jax import sharding
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import Backbone, BackboneVars, ImagePool


def place(pool: ImagePool, layout: sharding.Layout | None = None) -> ImagePool:
  """Puts a pool where the functions below want it: on the device, or on several (`devices.place_pool`)."""
  return sharding.place_pool(pool, layout)


def pretraining(root_key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, *, backbone: Backbone,
                config: pretrain.PretrainConfig,
                layout: sharding.Layout | None = None) -> contextlib.AbstractContextManager[Callable]:
  """Prepares pre-training.

  Args:
    root_key: of the run.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    A context that gives `advance`: PretrainState of `devices.replicate`, donated -> (state `steps_per_call` steps
    further on, mean metrics).
  """
  arguments = (sharding.replicate(root_key, layout), place(pool, layout), *sharding.replicate((mean, std), layout))
  return contextlib.nullcontext(compiled(pretrain.many_steps, *arguments, backbone=backbone, config=config,
                                         layout=layout))


def meta_training(root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array, std: jax.Array,
                  *, backbone: Backbone, config: meta_train.MetaTrainConfig,
                  layout: sharding.Layout | None = None) -> contextlib.AbstractContextManager[Callable]:
  """Prepares meta-training.

  Args:
    root_key: of the run.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    A context that gives `advance`: MetaState of `devices.replicate`, donated -> (state one cycle further on, mean
    metrics).
  """
  arguments = (*sharding.replicate((root_key, backbone_vars), layout), place(pool, layout),
               *sharding.replicate((mean, std), layout))
  step = sharding.on_each(meta_train.cycle, layout, pools=(3,))
  return contextlib.nullcontext(compiled(step, *arguments, backbone=backbone, config=config))


def scorer(pool: ImagePool, mean: jax.Array, std: jax.Array, keys: jax.Array, *, backbone: Backbone,
           config: meta_test.MetaTestConfig, layout: sharding.Layout | None = None) -> Callable:
  """Prepares the scoring of tasks.

  Args:
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    (MetaParams, BackboneVars) -> accuracy of each task, float32 [num_tasks].
  """
  score = jax.jit(functools.partial(sharding.on_each(meta_test.accuracies, layout, pools=(2,)), backbone=backbone,
                                    config=config))
  arguments = (place(pool, layout), *sharding.replicate((mean, std, keys), layout))
  return lambda meta_params, backbone_vars: score(*sharding.replicate((meta_params, backbone_vars), layout), *arguments)


def compiled(step: Callable, *arguments, **options) -> Callable:
  """Compiles a training call once: the state is donated, everything else stays on the device.

  Args:
    step: (state, *arguments, **options) -> (state, metrics).
    *arguments: arrays, the same in every call.
    **options: static settings.

  Returns:
    state -> (state, metrics).
  """
  jitted = jax.jit(functools.partial(step, **options), donate_argnums=0)
  return lambda state: jitted(state, *arguments)
