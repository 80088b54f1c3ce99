"""The inner loop over a meta-batch of tasks: of θ alone over features, or of the network with θ.

Where θ alone is adapted, all images of the meta-batch pass the network once and
`base_learner.adapt` does the rest in dual form. Where the affine parameters of normalisation are
adapted with θ ('film'), the tasks share all kernels, and stay one batch. Where the network is
adapted along with θ, as MAML does, each task has kernels of its own, and `InnerLoop.batching` says
how tasks are computed: which form is fastest depends on the device and the shapes, and
`execution.task_batching` measures it.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, parts
from mtl_jax.configs import InnerLoop
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  BaseLearner,
  Episode,
  NetworkAdaptResult,
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
  """
  adapt: Callable[..., jax.Array]
  adapts_network: bool = False
  init: Callable[[Backbone, BackboneVars, int], Tree] = _linear


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


def adapt_networks(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
                   tasks: Episode, *, backbone: Backbone, inner: InnerLoop,
                   factors: tuple[Tree, BaseLearner] | None = None) -> jax.Array:
  """Adapts weights and θ to each task (`adapts='last_block'` or `'all'`).

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted or meta-learned.
    rates: α, a scalar or one per inner step [steps].
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: settings of the loop; `batching` says how the tasks are computed.
    factors: as in `adapt_network`.

  Returns:
    Query logits [tasks, N*Q, N]; the same by every `batching`, to rounding.

  Raises:
    ValueError: as `adapt_network`.
  """
  if inner.batching == 'patches':
    backbone = backbone.by_patches or backbone

  def one_task(task):
    return adapt_network(theta, backbone_vars, task.support, task.support_labels, task.query,
                         rates, backbone=backbone, inner=inner, factors=factors).query_logits

  return jax.lax.map(one_task, tasks) if inner.batching == 'loop' else jax.vmap(one_task)(tasks)


def adapt_film(theta: BaseLearner, backbone_vars: BackboneVars, rates: Array | float,
               tasks: Episode, *, backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Adapts a scale and a shift per channel, and θ, to each task (`adapts='film'`).

      [Φ';θ'] <- [Φ';θ'] - α ∇ L_support(θ'; Θ, Φ'),  starting at [Φ;θ]

  Φ are the gains of Φ_S per channel where the network has them, else the affine parameters of its
  normalisation, else gains that start at 1. Kernels are shared, so every layer stays one
  convolution over the images of all tasks.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted.
    rates: α, a scalar or one per inner step [steps].
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: settings of the loop.

  Returns:
    Query logits [tasks, N*Q, N].

  Raises:
    ValueError: the network has neither gains nor affine parameters, and cannot hold gains.

  References: Requeima et al., NeurIPS 2019, arXiv 1906.07697; Lian et al., NeurIPS 2022.
  """
  def one_task(task):
    return adapt_network(theta, backbone_vars, task.support, task.support_labels, task.query,
                         rates, backbone=backbone, inner=inner).query_logits

  return jax.vmap(one_task)(tasks)


def adapt_network(theta: BaseLearner, backbone_vars: BackboneVars, support_images: Array,
                  support_labels: Array, query_images: Array, rates: Array | float, *,
                  backbone: Backbone, inner: InnerLoop,
                  factors: tuple[Tree, BaseLearner] | None = None) -> NetworkAdaptResult:
  """Adapts weights and θ to the support set by gradient descent and scores the query set.

      [Θ';θ'] <- [Θ';θ'] - α ∇ (L_support(θ'; Θ') + λ/2 |[Θ';θ'] - [Θ;θ]|²),  starting at [Θ;θ]

  For one episode. Every step is rematerialised, so a gradient through the loop keeps one copy of
  the adapted weights per step, and not the activations.

  Args:
    theta: θ, kernel [d, N] and bias [N].
    backbone_vars: Θ, scaled and shifted or meta-learned already.
    support_images: float32 [n, H, W, C], normalised.
    support_labels: int [n], in [0, N).
    query_images: float32 [m, H, W, C], normalised.
    rates: α, a scalar or one per step [steps].
    backbone: maps images to features [B, d].
    inner: settings; `adapts` 'last_block' or 'all' of the parameters, those of normalisation
      included, or 'film'. 'second' order differentiates through the loop; 'first' holds the changes
      Θ' - Θ, θ' - θ constant. With batch statistics those of the support count in the loop, those
      of the query after it.
    factors: (of the network's parameters, of θ), which the rate of each weight is multiplied by;
      None for 1.

  Returns:
    NetworkAdaptResult; its `params` are those of the whole network after adaptation.

  Raises:
    ValueError: fewer than one step, or a choice that this loop has not.

  References: Finn et al., ICML 2017; Sun et al., CVPR 2019, section 5.3.
  """
  _check_network_loop(inner)
  start = (_adapted_part(backbone_vars.params, backbone, inner), theta)
  first = inner.gradient_order == 'first'
  in_loop, start_of_loop = backbone_vars, start
  if first:
    in_loop, start_of_loop, rates = jax.lax.stop_gradient((backbone_vars, start, rates))

  of_adapted = None if factors is None else (
      _adapted_part(factors[0], backbone, inner), factors[1])

  def scores(variables, adapted, images):
    variables = variables._replace(params=parts.merge(variables.params, adapted[0]))
    features = backbone.features(variables, images, batch_stats_mode=inner.batch_stats_mode)
    return base_learner.logits(adapted[1], features)

  def support_loss(adapted):
    return base_learner.cross_entropy(scores(in_loop, adapted, support_images), support_labels)

  @jax.checkpoint
  def step(adapted, rate):
    loss, gradient = jax.value_and_grad(support_loss)(adapted)
    downhill = jax.tree.map(lambda p, g, p0: g + inner.regularization * (p - p0), adapted, gradient,
                       start_of_loop)
    downhill = downhill if of_adapted is None else jax.tree.map(jnp.multiply, of_adapted, downhill)
    return jax.tree.map(lambda p, d: p - rate * d, adapted, downhill), loss

  rates = base_learner.rates_per_step(rates, inner.steps, jnp.result_type(support_images))
  adapted, losses = jax.lax.scan(step, start_of_loop, rates)
  if first:  # the value of `adapted`, the gradient of `start`
    adapted = jax.tree.map(lambda p0, p: p0 + jax.lax.stop_gradient(p - p0), start, adapted)
  query_logits = scores(backbone_vars, adapted, query_images)
  params = parts.merge(backbone_vars.params, adapted[0])
  return NetworkAdaptResult(params, adapted[1], query_logits, losses)


def _adapted_part(params, backbone, inner):
  if inner.adapts == 'film':
    return parts.film_part(params, backbone)
  return parts.within(params, None if inner.adapts == 'all' else backbone.last_block)


def _check_network_loop(inner):
  if inner.steps < 1:
    raise ValueError(f'expected num_steps of at least 1, got {inner.steps}')
  if inner.adapts not in ('last_block', 'all', 'film') or inner.gradient_order == 'implicit':
    raise ValueError("expected adapts 'last_block', 'all' or 'film' and gradient_order 'first' or "
                     f"'second', got {inner.adapts!r} and {inner.gradient_order!r}")


# The inner loops known by name; `register` adds to them.
LOOPS: dict[str, Adaptation] = {
  'head': Adaptation(adapt_heads),
  'last_block': Adaptation(adapt_networks, adapts_network=True),
  'all': Adaptation(adapt_networks, adapts_network=True),
  'film': Adaptation(adapt_film),
}
OWN = frozenset(LOOPS)  # those of meta-transfer learning and its ablation


def register(name: str, adapt: Callable[..., jax.Array], *, adapts_network: bool = False,
             init: Callable[[Backbone, BackboneVars, int], Tree] = _linear) -> None:
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

  Raises:
    ValueError: the name is taken.
  """
  if name in LOOPS:
    raise ValueError(f'expected a name for the inner loop other than {", ".join(LOOPS)}, got '
                     f'{name!r}')
  LOOPS[name] = Adaptation(adapt, adapts_network, init)


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
