"""The three phases over images that stay in host memory: each step is compiled, its images come from a stream.

The functions are those of `in_memory`, with the same keys and so the same images in every step. Only the images of a
few steps are on the device at a time; the features of a whole split are, as they are far smaller than its images.
"""
import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import episodes, learnable, sharding
from mtl_jax.execution import read_ahead
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import Backbone, BackboneVars, ImagePool


def place(pool: ImagePool, layout: sharding.Layout | None = None) -> ImagePool:
  """Leaves a pool where the functions below want it: on the host, in memory or mapped from files."""
  del layout
  return pool


def pretraining(root_key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, *, backbone: Backbone,
                config: pretrain.PretrainConfig,
                layout: sharding.Layout | None = None) -> contextlib.AbstractContextManager[Callable]:
  """Prepares pre-training.

  Args:
    root_key: of the run.
    pool: uint8 images of the base classes, on the host.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    A context that gives `advance`: PretrainState of `devices.replicate`, donated -> (state `steps_per_call` steps
    further on, mean metrics). Each call goes on from what the one before returned, until `config.steps` are reached.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
    OSError: raised by `advance` where images could not be read.
  """
  return _advancing(_pretraining(root_key, pool, mean, std, backbone, config, layout))


def _pretraining(root_key, pool, mean, std, backbone, config, layout):
  step = jax.jit(functools.partial(pretrain.step_on, backbone=backbone, config=config, layout=layout), donate_argnums=0)
  read = read_ahead.batch_reader(root_key, pool, batch_size=config.batch_size)
  root_key, mean, std = sharding.replicate((root_key, mean, std), layout)
  state = yield
  calls = range(int(state.step), config.steps, config.steps_per_call)
  numbers = range(calls.start, calls.start + len(calls) * config.steps_per_call)
  with _stream(read, numbers, layout) as batches:
    for _ in calls:
      metrics = []
      for images, labels in itertools.islice(batches, config.steps_per_call):
        state, values = step(state, images, labels, root_key, mean, std)
        _append(metrics, values)
      state = yield state, _means(metrics)


def meta_training(root_key: jax.Array, backbone_vars: BackboneVars, pool: ImagePool, mean: jax.Array, std: jax.Array,
                  *, backbone: Backbone, config: meta_train.MetaTrainConfig,
                  layout: sharding.Layout | None = None) -> contextlib.AbstractContextManager[Callable]:
  """Prepares meta-training.

  Ordinary tasks are read ahead through the whole run. Hard tasks are known once the ordinary tasks of their cycle are
  done: they are drawn on the device, all of a cycle at once, and only their indices come back to the host.

  Args:
    root_key: of the run.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes, on the host.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    A context that gives `advance`: MetaState of `devices.replicate`, donated -> (state one cycle further on, mean
    metrics). Each call goes on from what the one before returned, until `config.steps` are reached.

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
    OSError: raised by `advance` where images could not be read.
  """
  return _advancing(_meta_training(root_key, backbone_vars, pool, mean, std, backbone, config, layout))


def _meta_training(root_key, backbone_vars, pool, mean, std, backbone, config, layout):
  shape = {'tasks': config.meta_batch, 'way': config.way, 'shot': config.shot, 'query': config.query}
  steps, num_ordinary = meta_train.steps_per_cycle(config), config.ordinary_tasks // config.meta_batch
  step = jax.jit(functools.partial(sharding.on_each(meta_train.step_on, layout, rows=(2,)), backbone=backbone,
                                   config=config), donate_argnums=(0, 1))
  draw = jax.jit(functools.partial(episodes.draw_hard, **shape), out_shardings=layout and layout.everywhere)
  read = read_ahead.ordinary_reader(root_key, pool, **shape)
  root_key, backbone_vars, mean, std, places, is_hard = sharding.replicate(
      (root_key, backbone_vars, mean, std, read_ahead.without_images(pool), (np.bool(False), np.bool(True))), layout)

  def take(state, failures, batches, hard):
    metrics = []
    for tasks in batches:
      state, failures, values = step(state, failures, tasks, root_key, backbone_vars, mean, std, is_hard[hard])
      _append(metrics, values)
    return state, failures, _means(metrics)

  state = yield
  cycles = range(int(state.step), config.steps, steps)
  with _stream(read, [first + i for first in cycles for i in range(num_ordinary)], layout) as ordinary:
    for first in cycles:
      no_failures = sharding.replicate(np.zeros(pool.class_sizes.shape, np.int32), layout)
      state, failures, means = take(state, no_failures, itertools.islice(ordinary, num_ordinary), False)
      if config.hard_tasks:
        numbers = sharding.replicate(np.arange(first + num_ordinary, first + steps, dtype=np.int32), layout)
        read_hard = read_ahead.drawn_reader(pool, draw(root_key, places, failures, numbers), shot=config.shot)
        with _stream(read_hard, range(steps - num_ordinary), layout) as hard:
          state, _, hard_means = take(state, failures, hard, True)
        means |= {f'hard_{name}': value for name, value in hard_means.items()}
      state = yield state, means


def scorer(pool: ImagePool, mean: jax.Array, std: jax.Array, keys: jax.Array, *, backbone: Backbone,
           config: meta_test.MetaTestConfig, layout: sharding.Layout | None = None) -> Callable:
  """Prepares the scoring of tasks, by the faster of the two ways that is exact under `config`.

  Args:
    pool: uint8 images of the split, on the host.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    keys: [num_tasks], one per task.
    backbone: the network.
    config: settings.
    layout: of the devices; None: one.

  Returns:
    (MetaParams, BackboneVars) -> accuracy of each task, float32 [num_tasks].

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
    OSError: raised by the returned function where images could not be read.
  """
  prepare = _encoded if meta_test.each_image_alone(config) else _per_task
  score = prepare(pool, *sharding.replicate((mean, std), layout), keys, backbone, config, layout)
  network = jax.jit(learnable.network)

  def of(meta_params, backbone_vars):
    meta_params, backbone_vars = sharding.replicate((meta_params, backbone_vars), layout)
    return score(meta_params, network(backbone_vars, meta_params))

  return of


def _encoded(pool, mean, std, keys, backbone, config, layout):
  encode = jax.jit(functools.partial(meta_test.encode_images, backbone=backbone))
  accuracies = jax.jit(functools.partial(sharding.on_each(meta_test.feature_accuracies, layout), config=config))
  join = jax.jit(jnp.concatenate, out_shardings=layout and layout.everywhere)
  per_pass = meta_test.images_per_pass(*pool.images.shape[1:3])
  read, numbers = read_ahead.chunk_reader(pool, size=per_pass * (layout.size if layout else 1))
  places, keys = sharding.replicate((read_ahead.without_images(pool), keys), layout)

  def score(meta_params, network):
    features = []
    with _stream(read, numbers, layout) as chunks:
      for chunk in chunks:
        _append(features, encode(network, chunk, mean, std))
    return accuracies(meta_params, places._replace(images=join(features)), keys)

  return score


def _per_task(pool, mean, std, keys, backbone, config, layout):
  """One task at a time, or one on each device; in the last round, devices may repeat the last task."""
  at_once = layout.size if layout else 1
  read_one = read_ahead.task_reader(keys, pool, way=config.way, shot=config.shot, query=config.query)

  def read(number):
    tasks = [read_one(min(number * at_once + i, len(keys) - 1)) for i in range(at_once)]
    return jax.tree.map(lambda *x: np.stack(x), *tasks)

  def score_one(meta_params, network, tasks, mean, std, *, layout=None):
    task = jax.tree.map(lambda x: x[0], tasks)
    accuracy = meta_test.image_task_accuracy(meta_params, network, task, mean, std, backbone=backbone, config=config)
    return sharding.everyone(accuracy[None], at_once, layout)

  accuracy = jax.jit(sharding.on_each(score_one, layout, rows=(2,)))

  def score(meta_params, network):
    accuracies = []
    with _stream(read, range(-(-len(keys) // at_once)), layout) as tasks:
      for task in tasks:
        _append(accuracies, accuracy(meta_params, network, task, mean, std))
    return jnp.concatenate(accuracies)[:len(keys)]

  return score


@contextlib.contextmanager
def _advancing(loop: Generator) -> Iterator[Callable]:
  """Makes `advance` of a generator that is sent a state and yields what follows it; ends it, and so its streams."""
  with contextlib.closing(loop):
    next(loop)  # to its first `yield`, where it waits for a state
    yield loop.send


def _stream(read: Callable, numbers, layout: sharding.Layout | None) -> contextlib.closing:
  if layout is None:
    return contextlib.closing(read_ahead.stream(read, numbers, device=jax.local_devices()[0]))
  return contextlib.closing(read_ahead.stream(
      lambda number: jax.tree.map(lambda x: sharding.split(x, layout), read(number)), numbers))


def _append(results: list, result) -> None:
  """Appends, and waits for the result before: a host that ran ahead would fill the device's memory with images."""
  results.append(result)
  jax.block_until_ready(results[-2:-1])


@jax.jit
def _means(metrics: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  return jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *metrics)
