"""Measures of inner loops: over features in three forms, and over the network in every batching."""
import functools

import jax
import jax.numpy as jnp

from benchmarks.ours.loading import read_arrays
from benchmarks.ours.timed_unit import TimedUnit, check_mode
from benchmarks.ours.trees import make_backbone, write_gradients
from mtl_jax import base_learner
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.execution import task_batching
from mtl_jax.phases import meta_train
from mtl_jax.types import AdaptResult, BaseLearner


def inner_loop(mode: str, settings: dict) -> TimedUnit:
  """Prepares value and gradient of the mean query loss, over features.

  Args:
    mode: 'dual' and 'scan' (`base_learner.adapt` and `adapt_primal`), or 'unrolled'.
    settings: `inputs`, `inner_steps`, `inner_lr`, `order`.

  Returns:
    A TimedUnit; the gradient is with respect to support, query and the initial classifier.
  """
  check_mode(mode, _LOOPS)
  arrays = jax.tree.map(jnp.asarray, read_arrays(settings['inputs']))
  labels = arrays.pop('support_labels'), arrays.pop('query_labels')
  adapt = functools.partial(
      _LOOPS[mode], inner_lr=settings['inner_lr'], num_steps=settings['inner_steps'],
      gradient_order=settings['order'])

  def loss(arrays, support_labels, query_labels):
    theta = BaseLearner(arrays['kernel'], arrays['bias'])
    logits = jax.vmap(lambda *task: adapt(theta, *task).query_logits)(
        arrays['support'], support_labels, arrays['query'])
    return jnp.mean(jax.vmap(base_learner.cross_entropy)(logits, query_labels))

  compute = jax.jit(jax.value_and_grad(loss))
  return TimedUnit(lambda: jax.block_until_ready(compute(arrays, *labels))[0],
                   lambda path: write_gradients(path, *compute(arrays, *labels)))


def adapt_unrolled(theta: BaseLearner, support: jax.Array, labels: jax.Array, query: jax.Array, *,
                   inner_lr: float, num_steps: int, gradient_order: str) -> AdaptResult:
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
  def support_loss(adapted):
    return base_learner.cross_entropy(base_learner.logits(adapted, support), labels)

  adapted, losses = theta, []
  for _ in range(num_steps):
    loss, gradient = jax.value_and_grad(support_loss)(adapted)
    adapted = jax.tree.map(lambda p, g: p - inner_lr * g, adapted, gradient)
    losses.append(loss)
  if gradient_order == 'first':
    # The value is that of θ', the gradient that of θ.
    change = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, adapted, theta))
    adapted = jax.tree.map(jnp.add, theta, change)
  return AdaptResult(adapted, base_learner.logits(adapted, query), jnp.stack(losses))


_LOOPS = {'dual': base_learner.adapt, 'scan': base_learner.adapt_primal,
          'unrolled': adapt_unrolled}


def batching(mode: str, settings: dict) -> TimedUnit:
  """Prepares value and gradient of the outer loss where each task adapts the network, on noise.

  Args:
    mode: one of `task_batching.CHOICES`; 'auto' measures and chooses, as a run does.
    settings: `network`, `width`, `image_size`, `adapts`, `tasks`, `way`, `shot`, `query`,
      `inner_steps`, `inner_lr`.

  Returns:
    A TimedUnit; `about` has the `batching` that was chosen.
  """
  check_mode(mode, task_batching.CHOICES)
  # Learned weights that the inner loop adapts as well: FT[Θ;θ], or FT[Θ4;θ].
  size = settings['image_size']
  backbone = make_backbone(settings['network'], (size, size, 3), settings['width'], 'float32')
  frozen = jax.jit(backbone.init)(jax.random.key(0))
  config = MetaTrainConfig(
      meta_batch=settings['tasks'], **{name: settings[name] for name in ('way', 'shot', 'query')},
      inner=InnerLoop(settings['adapts'], settings['inner_lr'], settings['inner_steps']),
      learn=Learn('ft', scope=settings['adapts']))
  chosen = task_batching.choose(mode, backbone, frozen, config)
  meta_params = meta_train.init(backbone, frozen, config).meta_params
  tasks = task_batching.noise_tasks(backbone, config)
  compute = task_batching.loss_and_gradient(backbone, config, chosen)
  return TimedUnit(lambda: jax.block_until_ready(compute(meta_params, frozen, tasks))[0],
                   about={'batching': chosen})
