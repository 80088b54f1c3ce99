"""The phases over images that stay in host memory: steps are compiled, images come from streams.

An `Execution`, with the keys of `on_device` and so the same images in every step. Only the images
of a few steps are on the device at a time; the features of a whole split are, as they are far
smaller than its images.
"""
import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import checks, learnable, sharding
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.execution import placement, read_ahead, readers
from mtl_jax.phases import encoding, feature_tasks, meta_test, meta_train, pretrain
from mtl_jax.phases.distillation import Teacher
from mtl_jax.types import Array, Backbone, BackboneVars, ImagePool


def place(pool: ImagePool, *, layout: sharding.Layout | None = None) -> ImagePool:
  """Returns the pool as it is: on the host, in memory or mapped from files.

  Args:
    pool: NumPy arrays.
    layout: not read.
  """
  del layout
  return pool


def pretraining(root_key: Array, pool: ImagePool, teacher: Teacher | None = None, *,
                backbone: Backbone, config: PretrainConfig, layout: sharding.Layout | None = None,
                teacher_network: Backbone | None = None
                ) -> contextlib.AbstractContextManager[Callable]:
  """Prepares pre-training, as `Execution.pretraining` says.

  Args:
    root_key: of the run.
    pool: uint8 images of the base classes, on the host.
    teacher: whose answers are learned too, if any.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the batch is spread over; None for one device.
    teacher_network: that of the teacher.

  Returns:
    A context that yields `advance`.

  Raises:
    ValueError: raised when the context is entered, where the images are no NumPy array, or not as
      many as the classes have.
    OSError: raised by `advance` where images could not be read.
  """
  return _advancing(_pretraining(root_key, pool, teacher, backbone, config, layout,
                                 teacher_network))


def _pretraining(root_key, pool, teacher, backbone, config, layout, teacher_network):
  def take_step(state, images, labels, root_key, normalization, teacher):
    keys = pretrain.batch_keys(root_key, state.step)
    return pretrain.step_on(state, images, labels, keys, normalization, teacher, backbone=backbone,
                            config=config, layout=layout, teacher_network=teacher_network)

  step = checks.jit(take_step, donate_argnums=0)
  read = readers.batches(root_key, pool, batch_size=config.batch_size)
  root_key, normalization, teacher = placement.replicate(
      (root_key, pool.normalization, teacher), layout)
  state = yield
  calls = range(int(state.step), config.steps, config.steps_per_call)
  numbers = range(calls.start, calls.start + len(calls) * config.steps_per_call)
  with _stream(read, numbers, layout) as batches:
    for _ in calls:
      metrics = []
      for images, labels in itertools.islice(batches, config.steps_per_call):
        state, values = step(state, images, labels, root_key, normalization, teacher)
        _append(metrics, values)
      state = yield state, _means(metrics)


def meta_training(root_key: Array, backbone_vars: BackboneVars, pool: ImagePool, *,
                  backbone: Backbone, config: MetaTrainConfig,
                  layout: sharding.Layout | None = None
                  ) -> contextlib.AbstractContextManager[Callable]:
  """Prepares meta-training, as `Execution.meta_training` says.

  Ordinary tasks are read ahead through the whole run. Hard tasks are known once the ordinary tasks
  of their cycle are done: they are drawn on the device, all of a cycle at once, and only their
  indices come back to the host.

  Args:
    root_key: of the run.
    backbone_vars: Θ, frozen.
    pool: uint8 images of the base classes, on the host.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the tasks are spread over; None for one device.

  Returns:
    A context that yields `advance`.

  Raises:
    ValueError: raised when the context is entered, where the images are no NumPy array, or not as
      many as the classes have.
    OSError: raised by `advance` where images could not be read.
  """
  return _advancing(_meta_training(root_key, backbone_vars, pool, backbone, config, layout))


def _meta_training(root_key, backbone_vars, pool, backbone, config, layout):
  steps = meta_train.steps_per_cycle(config)
  num_ordinary = config.num_ordinary_tasks // config.meta_batch

  def step_on(state, failures, tasks, root_key, backbone_vars, normalization, hard, *,
              layout=None):
    keys = meta_train.task_keys(root_key, state.step, config)
    return meta_train.step_on(state, failures, tasks, keys, backbone_vars, normalization, hard,
                              backbone=backbone, config=config, layout=layout)

  step = checks.jit(sharding.per_device(step_on, layout, rows=(2,)), donate_argnums=(0, 1))
  draw_hard = checks.jit(functools.partial(readers.draw_hard_tasks, config=config),
                         out_shardings=layout and layout.replicated)
  told = jax.jit(meta_train.failure_metrics)
  read = readers.ordinary_tasks(root_key, pool, config)
  places, flags = readers.without_images(pool), (np.bool(False), np.bool(True))
  root_key, backbone_vars, places, is_hard = placement.replicate(
      (root_key, backbone_vars, places, flags), layout)

  def take(state, failures, batches, hard):
    metrics = []
    for tasks in batches:
      state, failures, values = step(state, failures, tasks, root_key, backbone_vars,
                                     places.normalization, is_hard[hard])
      _append(metrics, values)
    return state, failures, _means(metrics)

  def hard_tasks(failures, first):
    numbers = np.arange(first + num_ordinary, first + steps, dtype=np.int32)
    drawn = draw_hard(root_key, places, failures, placement.replicate(numbers, layout))
    return _stream(readers.drawn_tasks(pool, drawn, shot=config.shot), range(len(numbers)), layout)

  state = yield
  cycles = range(int(state.step), config.steps, steps)
  numbers = [first + i for first in cycles for i in range(num_ordinary)]
  with _stream(read, numbers, layout) as ordinary:
    for first in cycles:
      failures = placement.replicate(np.zeros(pool.class_sizes.shape, np.int32), layout)
      batches = itertools.islice(ordinary, num_ordinary)
      state, failures, means = take(state, failures, batches, False)
      if config.num_hard_tasks:
        with hard_tasks(failures, first) as batches:
          state, failures, hard_means = take(state, failures, batches, True)
        means |= {f'hard_{name}': value for name, value in hard_means.items()}
        means |= told(failures)
      state = yield state, means


def scorer(pool: ImagePool, keys: Array, *, backbone: Backbone, config: MetaTestConfig,
           layout: sharding.Layout | None = None) -> Callable:
  """Prepares the scoring of tasks, by the faster of the two ways that is exact under `config`.

  Args:
    pool: uint8 images of the split, on the host.
    keys: [num_tasks], one per task.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the tasks are spread over; None for one device.

  Returns:
    (MetaParams, BackboneVars) -> accuracy of each task, float32 [num_tasks].

  Raises:
    ValueError: the images are no NumPy array, or not as many as the classes have.
    OSError: raised by the returned function where images could not be read.
  """
  prepare = _encoded if meta_test.each_image_alone(config) else _per_task
  score = prepare(pool, keys, backbone, config, layout)
  make_network = jax.jit(learnable.network)

  def score_learned(meta_params, backbone_vars):
    meta_params, backbone_vars = placement.replicate((meta_params, backbone_vars), layout)
    return score(meta_params, make_network(backbone_vars, meta_params))

  return score_learned


def _encoded(pool, keys, backbone, config, layout):
  encode = jax.jit(functools.partial(encoding.encode_images, backbone=backbone))
  accuracies = checks.jit(functools.partial(
      sharding.per_device(feature_tasks.drawn_accuracies, layout), config=config))
  join = jax.jit(jnp.concatenate, out_shardings=layout and layout.replicated)
  per_pass = encoding.images_per_pass(*pool.images.shape[1:3])
  named, drawn = feature_tasks.named(keys, pool, config=config)
  read, numbers = readers.chunks(pool, size=per_pass * sharding.num_devices(layout), named=named)
  normalization, drawn = placement.replicate((pool.normalization, drawn), layout)

  def score(meta_params, network):
    features = []
    with _stream(read, numbers, layout) as chunks:
      for chunk in chunks:
        _append(features, encode(network, chunk, normalization))
    return accuracies(meta_params, join(features), drawn)

  return score


def _per_task(pool, keys, backbone, config, layout):
  """Scores one task at a time on each device; in the last round, devices repeat the last task."""
  at_once = sharding.num_devices(layout)
  read_one = readers.meta_test_tasks(keys, pool, config)
  normalization = placement.replicate(pool.normalization, layout)

  def read(number):
    tasks = [read_one(min(number * at_once + i, len(keys) - 1)) for i in range(at_once)]
    return jax.tree.map(lambda *x: np.stack(x), *tasks)

  def score_one(meta_params, network, tasks, normalization, *, layout=None):
    task = jax.tree.map(lambda x: x[0], tasks)
    accuracy = meta_test.image_task_accuracy(meta_params, network, task, normalization,
                                             backbone=backbone, config=config)
    return sharding.all_gather_rows(accuracy[None], at_once, layout)

  accuracy = checks.jit(sharding.per_device(score_one, layout, rows=(2,)))

  def score(meta_params, network):
    accuracies = []
    with _stream(read, range(-(-len(keys) // at_once)), layout) as tasks:
      for task in tasks:
        _append(accuracies, accuracy(meta_params, network, task, normalization))
    return jnp.concatenate(accuracies)[:len(keys)]

  return score


@contextlib.contextmanager
def _advancing(loop: Generator) -> Iterator[Callable]:
  """Makes `advance` of a generator that is sent a state and yields what follows it.

  Ends the generator, and so its streams, when the context ends.
  """
  with contextlib.closing(loop):
    next(loop)  # to its first `yield`, where it waits for a state
    yield loop.send


def _stream(read: Callable, numbers, layout: sharding.Layout | None) -> contextlib.closing:
  if layout is None:
    return contextlib.closing(read_ahead.stream(read, numbers, device=jax.local_devices()[0]))

  def read_split(number):
    return jax.tree.map(lambda x: placement.split_rows(x, layout), read(number))

  return contextlib.closing(read_ahead.stream(read_split, numbers))


def _append(results: list, result) -> None:
  """Appends, and waits for the result before.

  A host that ran ahead would fill the device's memory with images.
  """
  results.append(result)
  jax.block_until_ready(results[-2:-1])


@jax.jit
def _means(metrics: list[dict[str, jax.Array]]) -> dict[str, jax.Array]:
  return jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *metrics)
