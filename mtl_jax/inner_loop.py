"""The inner loop over a meta-batch of tasks, and the inner loops that are known by name.

Where θ alone is adapted, all images of the meta-batch pass the network once and
`base_learner.adapt` does the rest in dual form. Where the network is adapted too, it is
`network_loop` that does so.
"""
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, network_loop
from mtl_jax.configs import InnerLoop
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  BaseLearner,
  Episode,
  Tree,
)


def _linear(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> BaseLearner:
  del backbone_vars
  return base_learner.init(backbone.feature_dim, way)


class Adaptation(NamedTuple):
  """An inner loop that `InnerLoop.adapts` may name.

  Attributes:
    adapt: pure, with the signature of `adapt_heads`.
    adapts_network: whether tasks adapt kernels of their own, so that `batching` makes a difference.
    init: pure, (backbone, backbone_vars, way) -> what it has as θ: any tree; by default a linear
      base-learner of zeros.
    learns_rates: whether the logits have a gradient with respect to the rates.
  """
  adapt: Callable[..., jax.Array]
  adapts_network: bool = False
  init: Callable[[Backbone, BackboneVars, int], Tree] = _linear
  learns_rates: bool = True


def encode(backbone_vars: BackboneVars, images: Array, *, backbone: Backbone,
           batch_stats_mode: str) -> jax.Array:
  """Computes the features of several tasks by one network.

  With running statistics the features of an image depend on that image alone, so all tasks go
  through as one batch. With batch statistics each task is normalised apart. A `vmap` of the
  convolutions would take the gradient of every task's kernel apart from the others, which is slow
  on a CPU.

  Args:
    backbone_vars: Θ, scaled and shifted.
    images: float32 [tasks, n, H, W, C], normalised.
    backbone: maps [B, H, W, C] to features [B, d].
    batch_stats_mode: 'running' or 'batch'.

  Returns:
    float32 [tasks, n, d].
  """
  if batch_stats_mode == 'batch':
    return jnp.stack([backbone.features(backbone_vars, task, batch_stats_mode='batch')
                      for task in images])
  flat = images.reshape(-1, *images.shape[2:])
  features = backbone.features(backbone_vars, flat, batch_stats_mode='running')
  return features.reshape(*images.shape[:2], -1)


def encode_sets(backbone_vars: BackboneVars, tasks: Episode, *, backbone: Backbone,
                batch_stats_mode: str) -> tuple[jax.Array, jax.Array]:
  """Computes the features of support and query of several tasks: one batch, or two sets apart.

  Args:
    backbone_vars: Θ, scaled and shifted.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    batch_stats_mode: 'running' or 'batch'.

  Returns:
    (support features [tasks, N*K, d], query features [tasks, N*Q, d]).
  """
  def features_of(images):
    return encode(backbone_vars, images, backbone=backbone, batch_stats_mode=batch_stats_mode)

  num_support = tasks.support.shape[1]
  if batch_stats_mode == 'batch':
    return features_of(tasks.support), features_of(tasks.query)
  features = features_of(jnp.concatenate([tasks.support, tasks.query], axis=1))
  return features[:, :num_support], features[:, num_support:]


def over_features(score: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Makes an inner loop of a function of features, for all tasks of a meta-batch at once.

  Args:
    score: pure, for one episode: (θ, support features [n, d], their classes as rows of zeros and a
      one [n, N], query features [m, d]) -> query logits [m, N].

  Returns:
    A function with the signature of `adapt_heads`.
  """
  def adapt(theta, backbone_vars, rates, tasks, *, backbone, inner):
    del rates  # nothing is adapted step by step
    support, query = encode_sets(backbone_vars, tasks, backbone=backbone,
                                 batch_stats_mode=inner.batch_stats_mode)
    way = tasks.class_ids.shape[-1]
    classes = jax.vmap(lambda labels: base_learner.one_hot(labels, way, support.dtype))(
        tasks.support_labels)
    return jax.vmap(score, (None, 0, 0, 0))(theta, support, classes, query)

  return adapt


def starting_at(numbers: Mapping[str, float]) -> Callable[..., Tree]:
  """Makes the `init` of an inner loop whose θ are a few numbers, whatever the network.

  Args:
    numbers: name -> its value at the start; {} for an inner loop that learns nothing itself.
  """
  return lambda backbone, backbone_vars, way: {
      name: jnp.float32(value) for name, value in numbers.items()}


def adapt_heads(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
                tasks: Episode, *, backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts θ to each task, over features that are computed once (`adapts='head'`).

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted.
    rates: α, a scalar or one per inner step [steps].
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: settings of the loop.

  Returns:
    Query logits [tasks, N*Q, N].
  """
  support, query = encode_sets(backbone_vars, tasks, backbone=backbone,
                               batch_stats_mode=inner.batch_stats_mode)

  def one_task(support, support_labels, query):
    return base_learner.adapt(
        theta, support, support_labels, query, inner_lr=rates, num_steps=inner.steps,
        gradient_order=inner.gradient_order, regularization=inner.regularization).query_logits

  return jax.vmap(one_task)(support, tasks.support_labels, query)


# The inner loops known by name; `register` adds to them.
LOOPS: dict[str, Adaptation] = {
  'head': Adaptation(adapt_heads),
  'last_block': Adaptation(network_loop.adapt_networks, adapts_network=True),
  'all': Adaptation(network_loop.adapt_networks, adapts_network=True),
  'film': Adaptation(network_loop.adapt_film),
}
OWN = frozenset(LOOPS)  # those of meta-transfer learning and its ablation


def register(name: str, adapt: Callable[..., jax.Array], *, adapts_network: bool = False,
             init: Callable[[Backbone, BackboneVars, int], Tree] = _linear,
             learns_rates: bool = True) -> None:
  """Makes an inner loop of your own known by name, so that whole runs on disk take it.

  `InnerLoop(adapts=name)` then stands for it; `InnerLoop(adapts=adapt)` does without a name, but
  can't be written to the settings of a run.

  Args:
    name: any that is not taken.
    adapt: pure, called as `adapt_heads` is: (θ, backbone_vars, rates, tasks, *, backbone, inner)
      -> query logits [tasks, N*Q, N]. `tasks` are Episodes stacked along axis 0 with normalised
      images; meta-test hands over one task at a time.
    adapts_network: whether each task adapts kernels of its own. Then all tasks of a meta-batch are
      in memory together, and `batching` is chosen by measurement.
    init: pure, (backbone, backbone_vars, way) -> θ, the parameters of its own that the outer loop
      learns: any tree, such as {} or a temperature. By default a linear base-learner of zeros.
    learns_rates: whether the logits have a gradient with respect to the rates, so that these may be
      learned (`Learn.inner_lr`).

  Raises:
    ValueError: the name is taken.
  """
  if name in LOOPS:
    raise ValueError(f'expected a name for the inner loop other than {", ".join(LOOPS)}, got '
                     f'{name!r}')
  LOOPS[name] = Adaptation(adapt, adapts_network, init, learns_rates)


def find(adapts: str | Callable[..., jax.Array]) -> Adaptation:
  """Returns the inner loop that `InnerLoop.adapts` stands for.

  Args:
    adapts: a name in `LOOPS`, or a function with the signature of `adapt_heads`.

  Raises:
    ValueError: an unknown name.
  """
  if callable(adapts):
    return Adaptation(adapts)
  if adapts not in LOOPS:
    raise ValueError(f'expected adapts to be one of {", ".join(LOOPS)}, got {adapts!r}')
  return LOOPS[adapts]
