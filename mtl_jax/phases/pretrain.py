"""Phase 1, pre-training: [Θ; θ_base] learns to classify all base classes; θ_base is dropped afterwards."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtl_jax import augment, base_learner, episodes, sharding
from mtl_jax.types import Backbone, BackboneVars, BaseLearner, ImagePool, PretrainState, Tree


class PretrainConfig(NamedTuple):
  """Settings of pre-training: SGD with Nesterov momentum 0.9 under a cosine schedule."""
  steps: int = 5000
  batch_size: int = 128
  lr: float = 0.1               # resnet12 diverges with it, as its shortcuts have no batch norm; 0.02 works
  weight_decay: float = 5e-4    # on kernels
  label_smoothing: float = 0.0
  rotation_weight: float = 0.0  # share of the loss that tells quarter turns apart; 0 turns nothing
  crop_padding: int = 4         # pixels
  flip: bool = True
  color: float = 0.0            # strength of colour jitter
  hidden_units: int = 0         # of a hidden layer between features and classes (the authors' PyTorch: 1000); 0: none
  steps_per_call: int = 25      # optimizer steps in one compiled call


def make_optimizer(config: PretrainConfig) -> optax.GradientTransformation:
  """Builds the optimizer of pre-training.

  Args:
    config: its settings.

  Returns:
    An optax transformation for the pair (backbone params, head).
  """
  def is_kernel(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)

  return optax.chain(optax.add_decayed_weights(config.weight_decay, is_kernel),
                     optax.sgd(optax.cosine_decay_schedule(config.lr, config.steps), momentum=0.9, nesterov=True))


def init(key: jax.Array, backbone: Backbone, num_classes: int, config: PretrainConfig) -> PretrainState:
  """Makes the state before the first step.

  Args:
    key: consumed.
    backbone: the network.
    num_classes: number of base classes.
    config: settings.

  Returns:
    A PretrainState at step 0 with a zero classifier [d, num_classes], or [d, num_classes + 4] where the last four
    columns tell quarter turns apart; with a hidden layer before it where `hidden_units` says so.
  """
  backbone_key, hidden_key = jax.random.split(key)
  variables = backbone.init(backbone_key)
  outputs = num_classes + (4 if config.rotation_weight else 0)
  head = (base_learner.init(config.hidden_units or backbone.feature_dim, outputs),)
  if config.hidden_units:
    kernel = jax.nn.initializers.he_normal()(hidden_key, (backbone.feature_dim, config.hidden_units))
    head = (BaseLearner(kernel, jnp.zeros(config.hidden_units)), *head)
  opt_state = make_optimizer(config).init((variables.params, head))
  return PretrainState(jnp.zeros((), jnp.int32), variables, head, opt_state)


def classify(head: tuple[BaseLearner, ...], features: jax.Array) -> jax.Array:
  """Scores features by θ_base: linear layers with ReLU between them.

  Args:
    head: one layer, or a hidden one before it.
    features: [B, d].

  Returns:
    Logits [B, classes].
  """
  for layer in head[:-1]:
    features = jax.nn.relu(base_learner.logits(layer, features))
  return base_learner.logits(head[-1], features)


def loss(trained: tuple[Tree, tuple[BaseLearner, ...]], batch_stats: Tree, images: jax.Array, labels: jax.Array, *,
         backbone: Backbone, config: PretrainConfig) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
  """Classifies one batch: L(Θ, θ_base), by batch statistics.

  With `rotation_weight` w, image i is turned by (4 i // B) quarters, the class must be found all the same, and so must
  the turn: (1 - w) L_class + w L_turn.

  Args:
    trained: (backbone params, head), differentiated.
    batch_stats: running statistics, to be moved on.
    images: float32 [B, H, W, C], normalised.
    labels: int [B], base classes.
    backbone: the network.
    config: settings; with `label_smoothing` ε the target is 1 - ε on the class and ε spread evenly.

  Returns:
    (mean cross-entropy in nats, (new batch_stats, accuracy in [0, 1] on the classes)).

  References: Sun et al., CVPR 2019, section 4.1, equation 1; turns: Gidaris et al., ICLR 2018.
  """
  params, head = trained
  if config.rotation_weight:
    images, turns = augment.quarter_turns(images)
  features, new_stats = backbone.train_features(BackboneVars(params, batch_stats), images)
  scores = classify(head, features)
  if config.rotation_weight:
    scores, turn_scores = scores[:, :-4], scores[:, -4:]
  targets = optax.smooth_labels(jax.nn.one_hot(labels, scores.shape[1]), config.label_smoothing)
  value = jnp.mean(optax.softmax_cross_entropy(scores, targets))
  if config.rotation_weight:
    turn_value = base_learner.cross_entropy(turn_scores, turns)
    value = (1 - config.rotation_weight) * value + config.rotation_weight * turn_value
  return value, (new_stats, jnp.mean(jnp.argmax(scores, axis=1) == labels))


def step(state: PretrainState, root_key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, *,
         backbone: Backbone, config: PretrainConfig,
         layout: sharding.Layout | None = None) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on a batch drawn, with replacement, from all base classes.

  Args:
    state: before the step.
    root_key: of the run; step t uses `fold_in(root_key, t)`, so that resuming needs no stored key.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: of the devices that the batch is spread over; None: one device.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, scalars).
  """
  index_key, _, _ = jax.random.split(jax.random.fold_in(root_key, state.step), 3)
  indices, labels = episodes.draw_batch(index_key, pool, config.batch_size)
  images = sharding.take_spread(pool.images, indices, layout)
  return step_on(state, images, labels, root_key, mean, std, backbone=backbone, config=config, layout=layout)


def step_on(state: PretrainState, images: jax.Array, labels: jax.Array, root_key: jax.Array, mean: jax.Array,
            std: jax.Array, *, backbone: Backbone, config: PretrainConfig,
            layout: sharding.Layout | None = None) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on a batch that was drawn before, by the first of the three keys of the step.

  Args:
    state: before the step.
    images: uint8 [B, H, W, C], augmented here by the second and third key.
    labels: int [B], base classes.
    root_key: of the run; step t uses `fold_in(root_key, t)`, split in three.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: as in `step`; statistics of batch norm are those of the whole batch.

  Returns:
    (state after the step, metrics `loss` and `accuracy`, scalars).
  """
  images, labels = sharding.spread((images, labels), layout)
  _, augment_key, color_key = jax.random.split(jax.random.fold_in(root_key, state.step), 3)
  images = augment.crop_and_flip(augment_key, images, padding=config.crop_padding, flip=config.flip)
  images = augment.color_jitter(color_key, images, config.color)
  trained = (state.backbone.params, state.head)
  (value, (new_stats, accuracy)), gradient = jax.value_and_grad(loss, has_aux=True)(
      trained, state.backbone.batch_stats, augment.normalize(images, mean, std), labels,
      backbone=backbone, config=config)
  updates, opt_state = make_optimizer(config).update(gradient, state.opt_state, trained)
  params, head = optax.apply_updates(trained, updates)
  state = PretrainState(state.step + 1, BackboneVars(params, new_stats), head, opt_state)
  return state, {'loss': value, 'accuracy': accuracy}


def many_steps(state: PretrainState, root_key: jax.Array, pool: ImagePool, mean: jax.Array, std: jax.Array, *,
               backbone: Backbone, config: PretrainConfig,
               layout: sharding.Layout | None = None) -> tuple[PretrainState, dict[str, jax.Array]]:
  """Takes `config.steps_per_call` steps under one scan; arguments as `step`.

  Args:
    state: before the steps.
    root_key: of the run.
    pool: uint8 images of the base classes.
    mean: [C], of images / 255.
    std: [C], of images / 255.
    backbone: the network.
    config: settings.
    layout: as in `step`.

  Returns:
    (state after the steps, their mean metrics).
  """
  def one(state, _):
    return step(state, root_key, pool, mean, std, backbone=backbone, config=config, layout=layout)

  state, metrics = jax.lax.scan(one, state, length=config.steps_per_call)
  return state, jax.tree.map(jnp.mean, metrics)
