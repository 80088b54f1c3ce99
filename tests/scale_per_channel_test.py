"""Φ_S per channel: on every kind of kernel, on outputs and in kernels, and in the inner loops."""
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable, network_loop, parts, scale_shift
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.types import BaseLearner, Episode


class Small(nn.Module):
  """A convolution without a bias, a depthwise one with one, attention, and a dense layer."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(8, (3, 3), 2, use_bias=False, name='conv')(x))
    x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=8, name='depthwise')(x))
    x = x.reshape(x.shape[0], -1, 8)
    x = x + nn.MultiHeadDotProductAttention(2, name='attention')(x, x)
    return nn.LayerNorm(name='norm')(nn.Dense(6, use_bias=False, name='dense')(x.mean(axis=1)))


@pytest.fixture(scope='module')
def small():
  backbone = backbones.from_linen(Small(), (8, 8, 3), last_block='dense')
  return backbone, jax.jit(backbone.init)(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def features(backbone, variables, images):
  return backbone.features(variables, images, batch_stats_mode='running')


def images(number=4, seed=1):
  return jax.random.normal(jax.random.key(seed), (number, 8, 8, 3))


def random_like(tree, seed=2):
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  drawn = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys,
                                                                               strict=True)]
  return jax.tree.unflatten(structure, drawn)


def test_shapes_of_both_forms_on_every_kind_of_kernel(small):
  params = small[1].params
  shapes = {per: jax.tree.map(jnp.shape, scale_shift.init(params, per=per))
            for per in ('slice', 'channel')}
  scales = {per: {'/'.join(path): scale_shift_at(tree, path)['scale']
                  for path in scale_shift.layer_paths(params)} for per, tree in shapes.items()}
  assert scales['slice'] == {
      'conv': (1, 1, 3, 8), 'depthwise': (1, 1, 1, 8), 'dense': (8, 6),
      'attention/query': (8, 2, 4), 'attention/key': (8, 2, 4), 'attention/value': (8, 2, 4),
      'attention/out': (2, 4, 8)}
  assert scales['channel'] == {
      'conv': (1, 1, 1, 8), 'depthwise': (1, 1, 1, 8), 'dense': (1, 6),
      'attention/query': (1, 2, 4), 'attention/key': (1, 2, 4), 'attention/value': (1, 2, 4),
      'attention/out': (1, 1, 8)}


def scale_shift_at(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def test_gains_are_for_every_layer_and_change_nothing_at_first(small):
  backbone, variables = small
  phi = scale_shift.init(variables.params, per='channel', on_outputs=True)
  assert phi['conv']['gain'].shape == phi['conv']['shift'].shape == (8,)
  assert phi['attention']['query']['gain'].shape == (2, 4)
  modulated = variables._replace(params=scale_shift.modulate(variables.params, phi))
  np.testing.assert_array_equal(features(backbone, modulated, images()),
                                features(backbone, variables, images()))


def test_a_gain_on_outputs_equals_a_scale_in_kernels(small):
  backbone, variables = small
  on_outputs = random_like(scale_shift.init(variables.params, per='channel', on_outputs=True))
  modulated = scale_shift.modulate(variables.params, on_outputs)
  # By hand: W Φ_S1 and b + Φ_S2, in a network whose layers all have a bias.
  by_hand = jax.tree.map(lambda x: x, variables.params)
  expected = {}
  for path in scale_shift.layer_paths(variables.params):
    layer, leaf = scale_shift_at(by_hand, path), scale_shift_at(on_outputs, path)
    expected[path] = leaf['gain'], layer.get('bias', 0) + leaf['shift']
  x = images()
  found = features(backbone, variables._replace(params=modulated), x)

  def intercept(next_function, arguments, keywords, context):
    y = next_function(*arguments, **keywords)
    if context.module.path not in expected or context.method_name != '__call__':
      return y
    gain, shift = expected[context.module.path]
    bias = scale_shift_at(by_hand, context.module.path).get('bias', jnp.zeros_like(shift))
    lift = lambda a: jnp.expand_dims(a, tuple(range(y.ndim - a.ndim)))  # noqa: E731
    return (y - lift(bias)) * lift(gain) + lift(shift)

  with nn.intercept_methods(intercept):  # around a program that is traced here
    theirs = jax.jit(lambda v, x: backbone.features(v, x, batch_stats_mode='running'))(variables, x)
  np.testing.assert_allclose(found, theirs, rtol=2e-5, atol=2e-5)


def test_scales_in_kernels_equal_gains_where_all_layers_have_a_bias():
  module = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean(axis=(1, 2)), nn.Dense(3)])
  linen = backbones.from_linen(module, (8, 8, 3), last_block='layers_3')
  variables = linen.init(jax.random.key(0))
  functions = backbones.from_functions(
      lambda key: variables.params, lambda params, x: module.apply({'params': params}, x),
      (8, 8, 3), last_block='layers_3')
  gains = random_like(scale_shift.init(variables.params, per='channel', on_outputs=True))
  scales = {name: {'scale': leaf['gain'].reshape((1,) * (variables.params[name]['kernel'].ndim - 1)
                                                 + (-1,)), 'shift': leaf['shift']}
            for name, leaf in gains.items()}
  assert not functions.scales_outputs and linen.scales_outputs
  outputs = [features(backbone, variables._replace(
      params=scale_shift.modulate(variables.params, phi)), images())
             for backbone, phi in ((linen, gains), (functions, scales))]
  np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


def test_its_gradient_needs_no_kernel_and_is_that_of_finite_differences(small):
  backbone, variables = small
  phi = random_like(scale_shift.init(variables.params, per='channel', on_outputs=True))
  weights = jax.random.normal(jax.random.key(3), (4, 6))

  def loss(phi):
    params = scale_shift.modulate(variables.params, phi)
    return jnp.sum(weights * features(backbone, variables._replace(params=params), images()))

  direction = random_like(jax.tree.map(jnp.zeros_like, phi), seed=4)
  ahead, behind = (jax.tree.map(lambda p, d, s=s: p + s * d, phi, direction) for s in (1e-2, -1e-2))
  loss, gradient = jax.jit(loss), jax.jit(jax.grad(loss))(phi)
  slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient),
                                             jax.tree.leaves(direction), strict=True))
  np.testing.assert_allclose(slope, (loss(ahead) - loss(behind)) / 2e-2, rtol=1e-2)


def tasks(number=2, way=3, shot=2, query=2):
  keys = jax.random.split(jax.random.key(5), 2)
  labels = [jnp.tile(jnp.repeat(jnp.arange(way), n)[None], (number, 1)) for n in (shot, query)]
  support, queries = (jax.random.normal(key, (number, way * n, 8, 8, 3))
                      for key, n in zip(keys, (shot, query), strict=True))
  return Episode(support, labels[0], queries, labels[1], jnp.zeros((number, way), jnp.int32))


@pytest.mark.parametrize('channel', [False, True])
def test_film_of_several_tasks_is_that_of_each_by_hand(small, channel):
  backbone, variables = small
  if channel:
    phi = random_like(scale_shift.init(variables.params, per='channel', on_outputs=True))
    variables = variables._replace(params=scale_shift.modulate(variables.params, phi))
  inner, theta = InnerLoop('film', lr=0.1, steps=3), BaseLearner(jnp.ones((6, 3)), jnp.zeros(3))
  batch = tasks()
  adapt = jax.jit(functools.partial(network_loop.adapt_film, backbone=backbone, inner=inner))
  found = adapt(theta, variables, inner.lr, batch)
  start = parts.film_part(variables.params, backbone)
  names = {'/'.join(str(key.key) for key in path)
           for path, _ in jax.tree_util.tree_flatten_with_path(start)[0]}
  assert names == ({f'{layer}/{leaf}' for layer in (
      'conv', 'depthwise', 'dense', 'attention/query', 'attention/key', 'attention/value',
      'attention/out') for leaf in ('gain', 'offset')} if channel else {'norm/scale', 'norm/bias'})

  @jax.jit
  def loss(adapted, x, y):
    params = parts.merge(variables.params, adapted[0])
    scores = features(backbone, variables._replace(params=params), x) @ adapted[1].kernel
    scores = scores + adapted[1].bias[None]
    return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(y)), y]), scores

  gradient_of = jax.jit(jax.grad(loss, has_aux=True))
  for i in range(2):
    adapted = (start, theta)
    for _ in range(3):
      gradient = gradient_of(adapted, batch.support[i], batch.support_labels[i])[0]
      adapted = jax.tree.map(lambda p, g: p - 0.1 * g, adapted, gradient)
    expected = loss(adapted, batch.query[i], batch.query_labels[i])[1]
    np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)


def test_film_without_normalisation_adapts_gains_or_is_refused():
  module = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(4)])
  backbone = backbones.from_linen(module, (8, 8, 3), last_block='layers_1')
  params = backbone.init(jax.random.key(0)).params
  assert set(parts.film_part(params, backbone)['layers_1']) == {'gain', 'offset'}
  with pytest.raises(ValueError, match='adapts=film'):
    parts.film_part(params, backbone._replace(scales_outputs=False))


def test_affine_alone_learns_the_parameters_of_normalisation(small):
  backbone, variables = small
  learned = learnable.init(backbone, variables, 3, Learn('affine'), InnerLoop())
  assert set(learned.weights) == {'norm'} and learned.scale_shift == {}
  learnable.check_combination(backbone, variables.params, Learn('affine'), InnerLoop())
  assert (learnable.row_name(Learn('affine'), 'film', False)
          == 'affine[Θ;θ] (inner film), meta-batch')
  assert learnable.row_name(Learn(scale_per='channel'), 'head', True) == (
      'SS[Θ;θ] per channel, HT meta-batch')
  with pytest.raises(ValueError, match='learn=affine with a backbone whose normalisation'):
    without = {name: layer for name, layer in variables.params.items() if name != 'norm'}
    learnable.check_combination(backbone, without, Learn('affine'), InnerLoop())
  with pytest.raises(ValueError, match='scale_per or replace_bias with learn=ft'):
    learnable.check_combination(backbone, variables.params, Learn('ft', scale_per='channel'),
                                InnerLoop())


@pytest.mark.parametrize('leaf, message', [
    ({'gain': jnp.ones(7), 'shift': jnp.zeros(8)}, 'a gain of shape'),
    ({'scale': jnp.ones((1, 1, 1, 7))}, r'per slice\) or .* \(per channel'),
    ({'scale': jnp.ones((1, 1, 3, 8)), 'shift': jnp.zeros(8)}, 'no bias')])
def test_wrong_shapes_are_refused(small, leaf, message):
  with pytest.raises(ValueError, match=message):
    scale_shift.modulate(small[1].params, {'conv': leaf})


def test_per_channel_is_a_hundredth_of_a_large_network():
  backbone = backbones.create('efficientnet_lite0', (64, 64, 3))
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  sizes = {per: scale_shift.count(jax.eval_shape(
      lambda v, per=per: learnable.init(backbone, v, 5, Learn(scale_per=per), InnerLoop()),
      shapes).scale_shift) for per in ('slice', 'channel')}
  assert sizes == {'slice': 3_155_168, 'channel': 42_016}
  assert dataclasses.replace(Learn(), scale_per='channel').scale_per == 'channel'
