"""What an exported file computes: three pure functions, and the arrays that they read.

    features = encode(weights, images)
    classifier = adapt(classifier, features, labels)
    probabilities = predict(classifier, features)

A network is exported with all three, so that its file still adapts; a fitted classifier without
`adapt`.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import backbones, base_learner, configs, learnable
from mtl_jax.exports import about, softmax_minimum
from mtl_jax.phases import encoding
from mtl_jax.runs import finished
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import Array, BaseLearner, MetaParams

# Of networks whose head was not meta-learned. With this C, on photos of 16 kinds of groceries, 1, 5
# and 12 of each, the temperature of the highest likelihood is 0.52 each time.
STRENGTH, TEMPERATURE = 100.0, 0.5

Conv = Callable[..., jax.Array]


class Program(NamedTuple):
  """Functions to export; classifiers are float32 [d + 1, N], the last row is the bias."""
  encode: Callable[..., jax.Array]         # (weights, uint8 [n, H, W, C]) -> features [n, d]
  adapt: Callable[..., jax.Array] | None   # (classifier, features [n, d], int [n]) -> classifier
  predict: Callable[..., jax.Array]        # (classifier, features [m, d]) -> float32 [m, N]
  weights: Mapping[str, np.ndarray]        # of the network, by path
  classifier: np.ndarray | None            # what stands at the start; None: zeros of any N
  about: Mapping[str, Any]                 # what the file says of itself


def of_network(run: FinishedRun, conv: Conv, *, way: int | None = None) -> Program:
  """Returns a network that adapts to photos of any classes.

  After meta-training it adapts as meta-test does, by the run's inner loop. Other networks have no
  inner loop: see `of_photos`.

  Args:
    run: of the network.
    conv: how it convolves, as in `backbones.create`.
    way: the number of classes, where it is to be fixed: after meta-training at that way, θ is where
      the loop starts. None for any number; θ then starts from zero.

  Returns:
    A Program with `adapt`.

  Raises:
    ValueError: fewer than two classes, an inner loop that adapts the network too, or a network
      without running statistics.
  """
  if run.meta_params is None:
    return of_photos(run, conv, way=way)
  adapt, predict, head = _inner_loop(run, run.meta_params)
  start = _zeros(run, way)
  if way is not None and way == run.settings['config']['way']:
    theta = run.meta_params.base_learner
    start = np.concatenate([np.asarray(theta.kernel), np.asarray(theta.bias)[None]])
  encode, weights = _encoder(run, conv)
  return Program(encode, adapt, predict, weights, start,
                 about.of(run, kind='adapts', num_classes=way, **head))


def of_photos(run: FinishedRun, conv: Conv, *, way: int | None = None, strength: float = STRENGTH,
              temperature: float = TEMPERATURE) -> Program:
  """Returns a network that fits the softmax head of photos to its minimum (`softmax_minimum`).

  Args:
    run: of the network.
    conv: how it convolves, as in `backbones.create`.
    way: the number of classes, where it is to be fixed.
    strength: C of the head.
    temperature: of its probabilities.

  Returns:
    A Program with `adapt`.

  Raises:
    ValueError: fewer than two classes, or a network without running statistics.
  """
  start = _zeros(run, way)
  encode, weights = _encoder(run, conv)
  adapt, predict = _minimum(strength, temperature)
  return Program(encode, adapt, predict, weights, start,
                 about.of(run, kind='adapts', num_classes=way, head='softmax', strength=strength,
                          temperature=temperature))


def of_classifier(run: FinishedRun, conv: Conv, *, names: Sequence[str], classifier: np.ndarray,
                  kind: str, temperature: float) -> Program:
  """Returns a fitted classifier of photos, whose classes stay as they are.

  Args:
    run: of its network.
    conv: how that convolves, as in `backbones.create`.
    names: of the classes.
    classifier: its weights [d + 1, N] on features of length 1.
    kind: of its head, as in `classifiers.heads.Head`.
    temperature: of its probabilities.

  Returns:
    A Program without `adapt`.

  Raises:
    ValueError: a network without running statistics.
  """
  encode, weights = _encoder(run, conv)
  _, predict = _minimum(STRENGTH, temperature)
  return Program(encode, None, predict, weights, np.asarray(classifier, np.float32),
                 about.of(run, kind='classifies', num_classes=len(names), classes=list(names),
                          head=kind, temperature=temperature))


def _encoder(run, conv):
  """(encode, weights): the network as a function of its arrays by path, normalisation inside."""
  finished.check_statistics(run.settings['backbone']['name'], run.settings, 'running')
  network = backbones.create(image_shape=run.backbone.image_shape, conv=conv,
                             **run.settings['backbone'])
  network = backbones.read_out(network, **run.settings.get('readout', {}))
  leaves, structure = jax.tree_util.tree_flatten_with_path(finished.network_of(run))
  names = [f'network/{jax.tree_util.keystr(path, simple=True, separator="/")}'
           for path, _ in leaves]

  def encode(weights, images):
    variables = jax.tree.unflatten(structure, [weights[name] for name in names])
    return encoding.encode_images(variables, images, run.normalization, backbone=network)

  return encode, {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _minimum(strength, temperature):
  """(adapt, predict) by the minimum of the softmax loss."""
  def adapt(classifier, features, labels):
    x = softmax_minimum.with_constant(features)
    return softmax_minimum.fit(classifier, x, labels, strength=strength)

  def predict(classifier, features):
    scores = jnp.matmul(softmax_minimum.with_constant(features), classifier, precision='highest')
    return jax.nn.softmax(scores / temperature)

  return adapt, predict


def _zeros(run, way):
  if way is None:
    return None
  if way < 2:
    raise ValueError(f'expected at least 2 classes, got {way}')
  return np.zeros((run.backbone.feature_dim + 1, way), np.float32)


def _inner_loop(run: FinishedRun, meta_params: MetaParams):
  """(adapt, predict, what to say of them) by the inner loop of meta-test over a run."""
  config = configs.from_json(configs.MetaTrainConfig, run.settings['config'])
  if config.inner.adapts != 'head':
    raise ValueError(f'the inner loop of this run adapts more than θ (inner={config.inner.adapts}),'
                     ' which no file holds: export a classifier of it (mtl adapt RUN PHOTOS '
                     '--save=FILE.mtl), or meta-train with --inner=head')
  steps = run.settings['validation']['inner']['steps']  # as meta-test takes by default
  inner = dataclasses.replace(configs.TEST_LOOP, lr=config.inner.lr, steps=steps,
                              regularization=config.inner.regularization)
  rates = np.asarray(learnable.inner_rates(meta_params, inner), np.float32)

  def adapt(classifier, features, labels):
    adapted = base_learner.adapt(
        _split(classifier), features, labels, features, inner_lr=rates, num_steps=steps,
        regularization=inner.regularization).base_learner
    return jnp.concatenate([adapted.kernel, adapted.bias[None]])

  def predict(classifier, features):
    return jax.nn.softmax(base_learner.logits(_split(classifier), features))

  return adapt, predict, {'head': 'inner loop', 'inner_steps': steps,
                          'inner_lr': rates.tolist()}


def _split(classifier: Array) -> BaseLearner:
  return BaseLearner(classifier[:-1], classifier[-1])

