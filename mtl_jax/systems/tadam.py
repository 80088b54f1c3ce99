"""The task sets a scale and a shift of every channel, without gradient descent (TADAM).

A first pass, without conditioning, gives the mean of the class means: the code of the task. Small
networks of their own turn it into a scale and a shift for each channel of each normalisation; the
second pass uses them. Only these small networks and a scale of the scores are θ.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, inner_loop, parts
from mtl_jax.base_learner import product
from mtl_jax.configs import InnerLoop
from mtl_jax.systems import metric
from mtl_jax.systems.support_classifiers import class_means
from mtl_jax.types import Array, Backbone, BackboneVars, Episode, Tree

_START_SCALE = 5.0  # the middle of the values that the paper chooses from
_SCALES, _SHIFTS = ('scale', 'gain'), ('bias', 'offset')


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int) -> Tree:
  """Returns θ: the task embedding network, which changes nothing at the start.

  Args:
    backbone: its width of features d is read.
    backbone_vars: its affine parameters of normalisation, or gains, are conditioned.
    way: not read.

  Returns:
    {'log_scale': [], 'layers': nested as the network, with 'scale' and 'shift' for each layer of F
    channels: {'in': [d, F], 'middle', 'out': [F, F], 'in_bias', 'middle_bias', 'factor': [F]}}.

  Raises:
    ValueError: as `parts.film_part`.
  """
  del way
  part = parts.film_part(backbone_vars.params, backbone)
  keys = iter(jax.random.split(jax.random.key(0), 2 * len(jax.tree.leaves(part))))
  return {'log_scale': jnp.log(jnp.float32(_START_SCALE)),
          'layers': _each_layer(part, lambda layer: {
              name: _init_network(next(keys), backbone.feature_dim, _channels(layer))
              for name in ('scale', 'shift')})}


def adapt(theta: Tree, backbone_vars: BackboneVars, rates: Array | float, tasks: Episode, *,
          backbone: Backbone, inner: InnerLoop) -> jax.Array:
  """Conditions the network on each task, and scores by the distance to class means.

      c = mean_k c_k (unconditioned),   γ = γ0 h(c),  β = β0 g(c),   y <- (1 + γ) y + β
      z_k = -a |x - c_k|

  Args:
    theta: as `init` returns it.
    backbone_vars: Θ, scaled and shifted or meta-learned.
    rates: not read.
    tasks: Episodes stacked along axis 0, with normalised float32 images.
    backbone: maps images to features [B, d].
    inner: its `batch_stats_mode` is read.

  Returns:
    Query logits [tasks, N*Q, N].

  References: Oreshkin et al., NeurIPS 2018, sections 2.1 to 2.3.
  """
  del rates
  way, mode = tasks.class_ids.shape[-1], inner.batch_stats_mode
  plain = inner_loop.encode(backbone_vars, tasks.support, backbone=backbone, batch_stats_mode=mode)

  def one_task(task, features):
    classes = base_learner.one_hot(task.support_labels, way, features.dtype)
    code = jnp.mean(class_means(features, classes), axis=0)
    network = condition(theta, backbone_vars, code, backbone)
    support, query = (backbone.features(network, images, batch_stats_mode=mode)
                      for images in (task.support, task.query))
    squared = metric.squared_distances(query, class_means(support, classes))
    return -jnp.exp(theta['log_scale']) * jnp.sqrt(jnp.maximum(squared, 1e-12))

  return jax.vmap(one_task)(tasks, plain)


def condition(theta: Tree, backbone_vars: BackboneVars, code: Array, backbone: Backbone
              ) -> BackboneVars:
  """Returns the network for one task: scale <- (1 + γ) scale, bias <- (1 + γ) bias + β.

  Args:
    theta: as `init` returns it.
    backbone_vars: Θ.
    code: c [d].
    backbone: of `init`.
  """
  part = parts.film_part(backbone_vars.params, backbone)
  params = parts.merge(backbone_vars.params, _conditioned(part, theta['layers'], code))
  return backbone_vars._replace(params=params)


def _conditioned(part, layers, code):
  if not _is_layer(part):
    return {name: _conditioned(child, layers[name], code) for name, child in part.items()}
  gamma, beta = (_apply(layers[name], code) for name in ('scale', 'shift'))
  scaled = {name: leaf * (1 + gamma) for name, leaf in part.items()}
  return {name: leaf + beta if name in _SHIFTS else leaf for name, leaf in scaled.items()}


def _each_layer(part, make):
  if _is_layer(part):
    return make(part)
  return {name: _each_layer(child, make) for name, child in part.items()}


def _is_layer(tree):
  return not any(isinstance(child, Mapping) for child in tree.values())


def _channels(layer):
  return next(layer[name].shape[0] for name in _SCALES if name in layer)


def _init_network(key, width, channels):
  keys = jax.random.split(key, 3)
  draw, zeros = jax.nn.initializers.he_normal(), jnp.zeros(channels)
  return {'in': draw(keys[0], (width, channels)), 'in_bias': zeros,
          'middle': draw(keys[1], (channels, channels)), 'middle_bias': zeros,
          'out': draw(keys[2], (channels, channels)), 'factor': zeros}


def _apply(weights, code):
  """Three layers, the second beside an identity; times a factor per channel."""
  hidden = jax.nn.relu(_times(code, weights['in']) + weights['in_bias'])
  hidden = hidden + jax.nn.relu(_times(hidden, weights['middle']) + weights['middle_bias'])
  return weights['factor'] * _times(hidden, weights['out'])


def _times(vector, matrix):
  return product(vector[None], matrix)[0]
