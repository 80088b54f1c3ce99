"""What this library's worker measures: each function prepares one measure of README.md."""
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours import scaling
from benchmarks.ours.trees import backbone_of, make_backbone, nest, write_gradients
from mtl_jax import base_learner, outer_loop, scale_shift
from mtl_jax.execution import task_batching
from mtl_jax.phases import meta_test, meta_train
from mtl_jax.types import AdaptResult, BackboneVars, BaseLearner, Episode, ImagePool, MetaParams, MetaState

_MEAN = _STD = np.full(3, 0.5, np.float32)  # of images whose values mean nothing


class Measure(NamedTuple):
  """One timed unit."""
  run: Callable[[], Any]                      # returns the value to report, or what comes with it
  save: Callable[[str], float] | None = None  # writes loss and gradients to a file, returns the loss
  amount: float | None = None                 # then the value is this much per second
  about: dict = {}                            # for the answer to the setup


def prepare(measure: str, mode: str, settings: dict) -> Measure:
  """Prepares a measure.

  Args:
    measure: of README.md.
    mode: of this worker.
    settings: of the measure.

  Returns:
    A Measure; its first run compiles.

  Raises:
    ValueError: an unknown measure or mode.
    KeyError: a setting is missing.
  """
  if measure not in _MEASURES:
    raise ValueError(f'expected measure to be one of {", ".join(_MEASURES)}, got {measure!r}')
  return _MEASURES[measure](mode, settings)


def _one_of(mode, modes):
  if mode not in modes:
    raise ValueError(f'expected mode to be one of {", ".join(modes)}, got {mode!r}')


def _meta_step(mode, settings):
  """One outer step over all tasks of the file: forward, backward, Adam."""
  _one_of(mode, ('float32', 'all_tasks', 'bfloat16'))
  jax.config.update('jax_enable_x64', bool(settings.get('float64')))
  dtype = 'float64' if settings.get('float64') else 'bfloat16' if mode == 'bfloat16' else 'float32'
  backbone, frozen, phi, arrays = _network(settings, dtype)
  names = ('support_images', 'support_labels', 'query_images', 'query_labels')
  tasks, way = Episode(*(arrays[name] for name in names), None), int(arrays['support_labels'].max()) + 1
  tasks = tasks._replace(class_ids=np.tile(np.arange(way, dtype=np.int32), (len(tasks.support_labels), 1)))
  theta = jax.tree.map(lambda x: x.astype(tasks.query_images.dtype), base_learner.init(backbone.feature_dim, way))
  config = meta_train.MetaTrainConfig(
      way=way, shot=tasks.support_labels.shape[1] // way, query=tasks.query_labels.shape[1] // way,
      meta_batch=len(tasks.class_ids), tasks_at_once=len(tasks.class_ids) if mode == 'all_tasks' else 0,
      inner_steps=settings['inner_steps'], inner_lr=settings['inner_lr'], outer_lr=settings['outer_lr'],
      gradient_order=settings['order'])
  meta_params = MetaParams(phi, {}, theta, {})
  state = MetaState(jnp.zeros((), jnp.int32), meta_params, outer_loop.make_optimizer(config).init(meta_params))
  return _stepping(state, *jax.device_put((frozen, tasks)), backbone=backbone, config=config)


def _stepping(state, frozen, tasks, **options):
  step = jax.jit(functools.partial(outer_loop.step, **options), donate_argnums=0)
  gradient = jax.jit(jax.value_and_grad(functools.partial(outer_loop.query_loss, **options), has_aux=True))
  current = [state]

  def run():
    current[0], metrics, _ = step(current[0], frozen, tasks)
    return jax.block_until_ready((current[0], metrics))[1]['loss']

  def save(path):
    (loss, _), gradients = gradient(current[0].meta_params, frozen, tasks)
    return write_gradients(path, loss, gradients._asdict())

  return Measure(run, save)


def _inner_loop(mode, settings):
  """Value and gradient of the mean query loss with respect to support, query and the initial classifier."""
  _one_of(mode, _LOOPS)
  arrays = {name: jnp.asarray(array) for name, array in np.load(settings['inputs']).items()}
  labels = arrays.pop('support_labels'), arrays.pop('query_labels')
  adapt = functools.partial(_LOOPS[mode], inner_lr=settings['inner_lr'], num_steps=settings['inner_steps'],
                            gradient_order=settings['order'])

  def loss(arrays, support_labels, query_labels):
    theta = BaseLearner(arrays['kernel'], arrays['bias'])
    logits = jax.vmap(lambda *task: adapt(theta, *task).query_logits)(arrays['support'], support_labels,
                                                                      arrays['query'])
    return jnp.mean(jax.vmap(base_learner.cross_entropy)(logits, query_labels))

  compute = jax.jit(jax.value_and_grad(loss))
  return Measure(lambda: jax.block_until_ready(compute(arrays, *labels))[0],
                 lambda path: write_gradients(path, *compute(arrays, *labels)))


def adapt_unrolled(theta: BaseLearner, support: jax.Array, labels: jax.Array, query: jax.Array, *, inner_lr: float,
                   num_steps: int, gradient_order: str) -> AdaptResult:
  """Adapts as `base_learner.adapt_primal` does, by a Python loop of which every step is compiled.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    support: features [n, d].
    labels: int [n].
    query: features [m, d].
    inner_lr: α.
    num_steps: T.
    gradient_order: 'second' or 'first'.

  Returns:
    AdaptResult.
  """
  adapted, losses = theta, []
  for _ in range(num_steps):
    loss, gradient = jax.value_and_grad(
        lambda p: base_learner.cross_entropy(base_learner.logits(p, support), labels))(adapted)
    adapted = jax.tree.map(lambda p, g: p - inner_lr * g, adapted, gradient)
    losses.append(loss)
  if gradient_order == 'first':
    change = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, adapted, theta))
    adapted = jax.tree.map(jnp.add, theta, change)
  return AdaptResult(adapted, base_learner.logits(adapted, query), jnp.stack(losses))


def _over_tasks(mode, settings):
  """Value and gradient of the outer loss where each task adapts the network; `auto` measures and chooses, as a run."""
  _one_of(mode, task_batching.CHOICES)
  size = settings['image_size']
  backbone = make_backbone(settings['network'], (size, size, 3), settings['width'], 'float32')
  frozen = jax.jit(backbone.init)(jax.random.key(0))
  config = meta_train.MetaTrainConfig(
      learn='ft', scope=settings['adapts'], meta_batch=settings['tasks'],
      **{name: settings[name] for name in ('adapts', 'way', 'shot', 'query', 'inner_steps', 'inner_lr')})
  way = task_batching.choose(mode, backbone, frozen, config)
  meta_params, tasks = meta_train.init(backbone, frozen, config).meta_params, task_batching.noise(backbone, config)
  compute = task_batching.gradient(backbone, config._replace(over_tasks=way))
  return Measure(lambda: jax.block_until_ready(compute(meta_params, frozen, tasks))[0], about={'way': way})


def _meta_test(mode, settings):
  """Draws tasks and scores them; `encode` and `tasks` are the two parts of `encoded`."""
  _one_of(mode, ('encoded', 'per_task', 'encode', 'tasks'))
  config = meta_test.MetaTestConfig(**{name: settings[name] for name in (
      'num_tasks', 'way', 'shot', 'query', 'inner_steps', 'inner_lr')})
  keys = meta_test.task_keys(jax.random.key(0), config.num_tasks)
  if mode == 'tasks':
    pool = _pool(settings, 'features')
    score = jax.jit(functools.partial(meta_test.feature_accuracies, config=config))
    meta_params = MetaParams({}, {}, base_learner.init(pool.images.shape[1], config.way), {})
    return Measure(lambda: np.mean(score(meta_params, pool, keys)))
  backbone, frozen, phi, _ = _network(settings, 'float32')
  arguments = jax.device_put((MetaParams(phi, {}, base_learner.init(backbone.feature_dim, config.way), {}), frozen))
  pool = _pool(settings)
  if mode == 'encode':
    encode = jax.jit(functools.partial(meta_test.encode_pool, backbone=backbone))
    return Measure(lambda: jax.block_until_ready(encode(*arguments, pool, _MEAN, _STD)), amount=len(pool.images))
  way_of = {'encoded': meta_test.accuracies_encoded, 'per_task': meta_test.accuracies_per_task}
  score = jax.jit(functools.partial(way_of[mode], backbone=backbone, config=config))
  return Measure(lambda: np.mean(score(*arguments, pool, _MEAN, _STD, keys)))


def _input(mode, settings):
  """Draws, augments and normalises meta-batches on the device."""
  _one_of(mode, ('device',))
  tasks, way, shot, query = (settings[name] for name in ('tasks', 'way', 'shot', 'query'))
  config = meta_train.MetaTrainConfig(meta_batch=tasks, way=way, shot=shot, query=query,
                                      crop_padding=settings['image_size'] // 8)
  pool = _pool(settings)
  draw = jax.jit(functools.partial(meta_train.draw_tasks, config=config))
  nothing = jnp.zeros(len(pool.class_sizes), jnp.int32), jnp.asarray(False)
  batches = 0

  def run():
    nonlocal batches
    for _ in range(settings['batches']):
      drawn = jax.block_until_ready(draw(jax.random.key(batches), pool, _MEAN, _STD, *nothing))
      batches += 1
    return drawn

  return Measure(run, amount=settings['batches'] * tasks * way * (shot + query))


def _peak(mode, settings):
  """One product of two square matrices."""
  dtype, size = jnp.dtype(settings['dtype']), settings['size']
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
  product = jax.jit(jnp.matmul)
  return Measure(lambda: jax.block_until_ready(product(a, b)), amount=2 * size**3)


def _scaling(mode, settings):
  """Ten or so outer steps in one call on several devices."""
  _one_of(mode, ('float32', 'float64'))
  run, save, about = scaling.prepare(settings, mode)
  return Measure(run, save, about=about)


def _network(settings, dtype):
  """(backbone, Θ, Φ_S at its start, all arrays) of an inputs file."""
  arrays = dict(np.load(settings['inputs']).items())
  image = arrays.get('query_images', arrays.get('images'))
  backbone = backbone_of(settings['network'], arrays, image.shape[-3:], dtype, settings.get('norm_epsilon'))
  if dtype == 'float64':
    arrays = {name: array if array.dtype.kind in 'iu' else array.astype(np.float64) for name, array in arrays.items()}
  stats = nest({name: array for name, array in arrays.items() if name.endswith(('/mean', '/var'))})
  params = nest({name: array for name, array in arrays.items() if name.endswith(('/kernel', '/bias', '/scale'))})
  phi = scale_shift.init(jax.tree.map(jnp.asarray, params), backbone.scaled_layers)
  return backbone, BackboneVars(params, stats), phi, arrays


def _pool(settings, name='images'):
  arrays = np.load(settings['inputs'])
  _, offsets, sizes = np.unique(arrays['classes'], return_index=True, return_counts=True)
  return ImagePool(*(jnp.asarray(x) for x in (arrays[name], offsets.astype(np.int32), sizes.astype(np.int32))))


_LOOPS = {'dual': base_learner.adapt, 'scan': base_learner.adapt_primal, 'unrolled': adapt_unrolled}
_MEASURES = {'meta_step': _meta_step, 'inner_loop': _inner_loop, 'meta_test': _meta_test, 'input': _input,
             'over_tasks': _over_tasks, 'peak': _peak, 'scaling': _scaling}
