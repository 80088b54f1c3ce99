"""Phase 1, pre-training: [Θ; θ_base] learns to classify all base classes; θ_base is dropped then.

References: Sun et al., CVPR 2019, section 4.1.
"""
import functools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax

from mtl_jax import augment, base_learner, episodes, sharding
from mtl_jax.configs import PretrainConfig
from mtl_jax.phases import distillation
from mtl_jax.phases.distillation import Teacher, classify
from mtl_jax.types import (
  Array,
  Backbone,
  BackboneVars,
  BaseLearner,
  BatchKeys,
  ImagePool,
  Normalization,
  PretrainState,
  Tree,
)

__all__ = ['PretrainConfig', 'batch_keys', 'classify', 'init', 'learned', 'loss', 'make_optimizer',
           'many_steps', 'step', 'step_on']

Trained = tuple[Tree, tuple[BaseLearner, ...]]  # (backbone params, head)

MOMENTUM = 0.9
NUM_TURNS = 4  # by 0, 90, 180 and 270 degrees


def make_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
  """Builds SGD with Nesterov momentum under a cosine schedule, with decay of kernels alone.

  Args:
    config: rate, steps and weight decay.

  Returns:
    An optax transformation for the pair (backbone params, head).
  """
  def is_kernel(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)

  schedule = optax.cosine_decay_schedule(config.lr, max(1, config.steps))
  return optax.chain(optax.add_decayed_weights(config.weight_decay, is_kernel),
                     optax.sgd(schedule, momentum=MOMENTUM, nesterov=True))


def init(key: Array, backbone: Backbone, num_classes: int, config: PretrainConfig) -> PretrainState:
  """Makes the state before the first step.

  Args:
    key: consumed.
    backbone: makes the initial weights.
    num_classes: number of base classes.
    config: hidden units, and whether quarter turns are told apart.

  Returns:
    A PretrainState at step 0 with a zero classifier [d, num_classes], or [d, num_classes + 4]
    where the last four columns tell quarter turns apart; with a hidden layer before it where
    `hidden_units` says so.
  """
  backbone_key, hidden_key = jax.random.split(key)
  variables = backbone.init(backbone_key)
  outputs = num_classes + (NUM_TURNS if config.rotation_weight else 0)
  head = (base_learner.init(config.hidden_units or backbone.feature_dim, outputs),)
  if config.hidden_units:
    shape = (backbone.feature_dim, config.hidden_units)
    kernel = jax.nn.initializers.he_normal()(hidden_key, shape)
    head = (BaseLearner(kernel, jnp.zeros(config.hidden_units)), *head)
  opt_state = make_optimizer(config).init((variables.params, head))
  # A copy, as the arrays of a state are donated to its next step.
  average = jax.tree.map(jnp.copy, variables) if config.ema else None
  return PretrainState(jnp.zeros((), jnp.int32), variables, head, opt_state, average)


def learned(state: PretrainState) -> BackboneVars:
  """Returns Θ: the average of the backbone along the steps where one is kept, else the last.

  Args:
    state: after any step.
  """
  return state.backbone if state.average is None else state.average


def loss(trained: Trained, batch_stats: Tree, images: Array,
         labels: Array, teach: Callable[[Array], jax.Array] | None = None, *, backbone: Backbone,
         config: PretrainConfig) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
  """Classifies one batch: L(Θ, θ_base), by batch statistics.

  With `rotation_weight` w, image i is turned by (4 i // B) quarters, the class must be found all
  the same, and so must the turn: (1 - w) L_class + w L_turn. With a teacher the cross-entropy in
  L_class, smoothed or not, is mixed with the divergence from its answers (`distillation`).

  Args:
    trained: (backbone params, head), differentiated.
    batch_stats: running statistics, to be moved on.
    images: float32 [B, H, W, C], normalised.
    labels: int [B], base classes.
    teach: maps images to a teacher's logits [B, classes], or more columns; None for no teacher.
    backbone: maps images to features [B, d] and new statistics.
    config: with `label_smoothing` ε the target is 1 - ε on the class and ε spread evenly.

  Returns:
    (the loss in nats, (new batch_stats, accuracy in [0, 1] on the classes)).

  References: Sun et al., CVPR 2019, section 4.1, equation 1; turns: Gidaris et al., ICLR 2018.
  """
  params, head = trained
  turns = None
  if config.rotation_weight:
    images, turns = augment.quarter_turns(images)
  features, new_stats = backbone.train_features(BackboneVars(params, batch_stats), images)
  scores = classify(head, features)
  class_scores = scores if turns is None else scores[:, :-NUM_TURNS]
  targets = jax.nn.one_hot(labels, class_scores.shape[1])
  targets = optax.smooth_labels(targets, config.label_smoothing)
  value = jnp.mean(optax.softmax_cross_entropy(class_scores, targets))
  if teach is not None:
    taught = teach(images)[:, :class_scores.shape[1]]
    soft = distillation.divergence(class_scores, taught)
    value = (1 - config.distillation) * value + config.distillation * soft
  if turns is not None:
    turn_value = base_learner.cross_entropy(scores[:, -NUM_TURNS:], turns)
    value = (1 - config.rotation_weight) * value + config.rotation_weight * turn_value
  return value, (new_stats, jnp.mean(jnp.argmax(class_scores, axis=1) == labels))


def batch_keys(root_key: Array, step: Array | int) -> BatchKeys:
  """Returns the keys of one step, so that resuming needs no stored key.

  Args:
    root_key: of the run.
    step: t; its key is `fold_in(root_key, t)`.
  """
  return BatchKeys.split(jax.random.fold_in(root_key, step))


def step(state: PretrainState, root_key: Array, pool: ImagePool, teacher: Teacher | None = None, *,
         backbone: Backbone, config: PretrainConfig, layout: sharding.Layout | None = None,
         teacher_network: Backbone | None = None) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on a batch drawn, with replacement, from all base classes.

  Args:
    state: before the step.
    root_key: of the run; step t uses `batch_keys(root_key, t)`.
    pool: uint8 images of the base classes.
    teacher: whose answers are learned too, if any.
    backbone: maps images to features [B, d].
    config: settings.
    layout: devices that the batch is spread over; None for one device.
    teacher_network: that of the teacher.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, scalars).
  """
  keys = batch_keys(root_key, state.step)
  indices, labels = episodes.draw_batch(keys.indices, pool, config.batch_size)
  images = sharding.take_batch(pool.images, indices, layout)
  return step_on(state, images, labels, keys, pool.normalization, teacher, backbone=backbone,
                 config=config, layout=layout, teacher_network=teacher_network)


def step_on(state: PretrainState, images: Array, labels: Array, keys: BatchKeys,
            normalization: Normalization | None, teacher: Teacher | None = None, *,
            backbone: Backbone, config: PretrainConfig, layout: sharding.Layout | None = None,
            teacher_network: Backbone | None = None
            ) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on a batch that was drawn before.

  Args:
    state: before the step.
    images: uint8 [B, H, W, C].
    labels: int [B], base classes.
    keys: of the step; `augment` and `color` are consumed.
    normalization: mean and deviation of images / 255.
    teacher: as in `step`; it sees the images that the student sees.
    backbone: maps images to features [B, d].
    config: settings.
    layout: as in `step`; statistics of batch norm are those of the whole batch.
    teacher_network: that of the teacher.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, scalars).

  Raises:
    ValueError: a teacher without its network, or a network without a teacher.
  """
  images, labels = sharding.constrain_batch((images, labels), layout)
  images = augment.crop_and_flip(keys.augment, images, padding=config.crop_padding,
                                 flip=config.flip)
  images = augment.color_jitter(keys.color, images, config.color)
  images = augment.normalize(images, normalization)
  teach = None
  if (teacher is None) != (teacher_network is None):
    raise ValueError('expected teacher and teacher_network together, got one of them')
  if teacher is not None and teacher_network is not None:
    teach = functools.partial(distillation.teach, teacher, network=teacher_network)
  trained = (state.backbone.params, state.head)
  differentiate = jax.value_and_grad(loss, has_aux=True)
  (value, (new_stats, accuracy)), gradient = differentiate(
      trained, state.backbone.batch_stats, images, labels, teach, backbone=backbone, config=config)
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state, trained)
  params, head = cast(Trained, optax.apply_updates(trained, updates))
  backbone_vars = BackboneVars(params, new_stats)
  average = _averaged(state, backbone_vars, config)
  state = PretrainState(state.step + 1, backbone_vars, head, opt_state, average)
  return state, {'loss': value, 'accuracy': accuracy}


def _averaged(state: PretrainState, latest: BackboneVars, config: PretrainConfig
              ) -> BackboneVars | None:
  """w̄ <- d w̄ + (1 - d) w, d = min(ema, (1 + t) / (10 + t)), so that the start is forgotten."""
  if state.average is None:
    return None
  t = state.step.astype(jnp.float32)
  decay = jnp.minimum(config.ema, (1 + t) / (10 + t))
  return jax.tree.map(lambda mean, w: mean + (1 - decay) * (w - mean), state.average, latest)


def many_steps(state: PretrainState, root_key: Array, pool: ImagePool,
               teacher: Teacher | None = None, *, backbone: Backbone, config: PretrainConfig,
               layout: sharding.Layout | None = None, teacher_network: Backbone | None = None
               ) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes `config.steps_per_call` steps under one scan.

  Args:
    state: before the steps.
    root_key: of the run.
    pool: uint8 images of the base classes.
    teacher: as in `step`.
    backbone: maps images to features [B, d].
    config: settings.
    layout: as in `step`.
    teacher_network: as in `step`.

  Returns:
    (state after the steps, their mean metrics).
  """
  def one(state, _):
    return step(state, root_key, pool, teacher, backbone=backbone, config=config, layout=layout,
                teacher_network=teacher_network)

  state, metrics = jax.lax.scan(one, state, length=config.steps_per_call)
  return state, jax.tree.map(jnp.mean, metrics)
