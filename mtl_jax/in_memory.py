"""The compiled calls of the three phases with all images in the device's memory; `streamed` has the same functions."""
import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import Backbone, BackboneVars, ImagePool


def place(pool: ImagePool) -> ImagePool:
  """Puts a pool where the functions below want it: on the device.

  Args:
    pool: of any arrays.

  Returns:
    The same pool of JAX arrays.
  """
  return jax.tree.map(jnp.asarray, pool)


def pretraining(root_key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, *, backbone: Backbone,
                config: pretrain.PretrainConfig) -> contextlib.AbstractContextManager[Callable]:
  """Prepares pre-training.

  Args:
    root_key: of the run.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.

  Returns:
    A context that gives `advance`: PretrainState, donated -> (state `steps_per_call` steps further on, mean metrics).
  """
  return contextlib.nullcontext(compiled(pretrain.many_steps, root_key, place(pool), mean, std, backbone=backbone,
                                         config=config))


def meta_training(root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array, std: jax.Array,
                  *, backbone: Backbone,
                  config: meta_train.MetaTrainConfig) -> contextlib.AbstractContextManager[Callable]:
  """Prepares meta-training.

  Args:
    root_key: of the run.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.

  Returns:
    A context that gives `advance`: MetaState, donated -> (state one cycle further on, mean metrics).
  """
  return contextlib.nullcontext(compiled(meta_train.cycle, root_key, backbone_vars, place(pool), mean, std,
                                         backbone=backbone, config=config))


def scorer(pool: ImagePool, mean: jax.Array, std: jax.Array, keys: jax.Array, *, backbone: Backbone,
           config: meta_test.MetaTestConfig) -> Callable:
  """Prepares the scoring of tasks.

  Args:
    pool: uint8 images of the split.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings.

  Returns:
    (MetaParams, BackboneVars) -> accuracy of each task, float32 [num_tasks].
  """
  score, pool = jax.jit(functools.partial(meta_test.accuracies, backbone=backbone, config=config)), place(pool)
  return lambda meta_params, backbone_vars: score(meta_params, backbone_vars, pool, mean, std, keys)


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
