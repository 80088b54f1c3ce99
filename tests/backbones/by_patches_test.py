"""The twin of a network whose 3x3 convolutions are products of patches."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_jax import backbones
from mtl_jax.backbones import layers
from tests.backbones import SMALL

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
OPTIONS = {'xla_backend_optimization_level': 0}  # compiles in half the time
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 19, 3)).astype(np.float32)


@functools.cache
def network(name):
  backbone = backbones.create(name, IMAGES.shape[1:], width=10 if name == 'wrn28_10' else 4)
  return backbone, jax.jit(backbone.init)(jax.random.key(0))


def features(backbone, variables, images, mode='running'):
  return backbone.features(variables, images, batch_stats_mode=mode)


def program(backbone, variables):
  """The operations of a forward pass, traced anew."""
  return str(jax.make_jaxpr(lambda *inputs: features(backbone, *inputs))(variables, IMAGES))


def assert_close(found, expected):
  scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
  assert scale > 0

  def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale)

  jax.tree.map(close, found, expected)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in ('conv4', 'resnet12') else pytest.mark.slow)
    for name in SMALL])
def test_the_twin_computes_the_same_with_products(name):
  backbone, variables = network(name)
  twin = backbone.by_patches
  assert twin.by_patches is None
  assert 'conv_general_dilated' in program(backbone, variables)
  assert 'conv_general_dilated' not in program(twin, variables)

  def outputs(each):
    def run(variables):
      running, batch = (features(each, variables, IMAGES, mode) for mode in ('running', 'batch'))
      return running, batch, each.train_features(variables, IMAGES)
    return jax.jit(run, compiler_options=OPTIONS)(variables)

  assert_close(outputs(twin), outputs(backbone))


@pytest.mark.parametrize('name', SMALL)
def test_the_twin_has_the_same_parameters(name):
  backbone, _ = network(name)
  ours, theirs = (jax.eval_shape(each.init, jax.random.key(0))
                  for each in (backbone, backbone.by_patches))
  assert ours == theirs
  kept = ('feature_dim', 'image_shape', 'scaled_layers', 'last_block', 'temperature')
  for field in kept:
    assert getattr(backbone.by_patches, field) == getattr(backbone, field)


def test_the_twin_has_the_same_gradients_where_each_task_has_kernels_of_its_own():
  backbone, variables = network('conv4')
  images = jnp.asarray(np.random.default_rng(1).normal(size=(2, *IMAGES.shape)), jnp.float32)
  params = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), variables.params)

  def gradients(each):
    def loss(params, images):
      return jnp.sum(features(each, variables._replace(params=params), images)**2)
    return jax.jit(jax.vmap(jax.grad(loss)), compiler_options=OPTIONS)(params, images)

  assert_close(gradients(backbone.by_patches), gradients(backbone))


def test_no_function_depends_on_when_it_is_traced():
  """Neither network changes the other: before, after, or traced inside of the other's trace."""
  backbone, variables = network('conv4')
  twin = backbone.by_patches
  plain, by_patches = program(backbone, variables), program(twin, variables)
  assert plain != by_patches
  assert program(backbone, variables) == plain and program(twin, variables) == by_patches

  cached = jax.jit(lambda *inputs: features(backbone, *inputs))
  before = cached(variables, IMAGES)
  inside = []

  def both(variables, images):
    found = features(twin, variables, images)
    inside.append(str(jax.make_jaxpr(cached)(variables, images)))
    inside.append(program(backbone, variables))
    return found, features(backbone, variables, images), features(twin, variables, images)

  together = str(jax.make_jaxpr(both)(variables, IMAGES))
  convolutions = plain.count('conv_general_dilated')
  assert [text.count('conv_general_dilated') for text in inside] == [convolutions] * 2
  assert together.count('conv_general_dilated') == convolutions
  np.testing.assert_array_equal(cached(variables, IMAGES), before)
  assert program(backbone, variables) == plain


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(5, 6), (8, 8)])
def test_patches_are_a_convolution(stride, size):
  keys = jax.random.split(jax.random.key(1), 3)
  x, kernel = jax.random.normal(keys[0], (2, *size, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)),
                                        dimension_numbers=DIMENSIONS)

  def by_patches(x, kernel):
    return layers.conv_patches(x, kernel, (stride, stride))

  expected = plain(x, kernel)
  weights = jax.random.normal(keys[2], expected.shape)
  np.testing.assert_allclose(by_patches(x, kernel), expected, rtol=1e-5, atol=1e-5)
  ours, theirs = (jax.grad(lambda x, k, f=f: jnp.sum(weights * f(x, k)), (0, 1))(x, kernel)
                  for f in (by_patches, plain))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('size, strides, padding, options, plain', [
    (3, (1, 1), 'SAME', {}, True),
    (3, (1, 1), [(1, 1), (1, 1)], {}, True),
    (3, (2, 2), [(1, 1), (1, 1)], {}, True),
    (3, (2, 2), 'SAME', {}, False),  # pads an even side at its end alone
    (3, (1, 1), 'VALID', {}, False),
    (3, (1, 1), [(2, 2), (2, 2)], {'rhs_dilation': (2, 2)}, False),
    (3, (1, 1), 'SAME', {'feature_group_count': 2}, False),
    (5, (1, 1), 'SAME', {}, False)])
def test_patches_take_the_place_of_plain_3x3_kernels_alone(size, strides, padding, options, plain):
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, 6, 6, 4))
  c_in = 4 // options.get('feature_group_count', 1)
  kernel = jax.random.normal(keys[1], (size, size, c_in, 4))
  arguments = (x, kernel, strides, padding)
  run = functools.partial(layers.conv_by_patches, dimension_numbers=DIMENSIONS, **options)
  text = str(jax.make_jaxpr(lambda x, kernel: run(x, kernel, strides, padding))(x, kernel))
  assert ('conv_general_dilated' not in text) == plain
  expected = jax.lax.conv_general_dilated(*arguments, dimension_numbers=DIMENSIONS, **options)
  for found in (run(*arguments), layers.conv(*arguments, dimension_numbers=DIMENSIONS, **options)):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


class OwnNetwork(nn.Module):
  """A user's network with an attribute for its convolution."""
  width: int = 3
  conv: object = jax.lax.conv_general_dilated

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(self.width, (3, 3), conv_general_dilated=self.conv, name='conv')(images)
    return nn.relu(x).mean(axis=(1, 2))


def test_a_module_of_ones_own_with_a_twin():
  def make(**options):
    return backbones.from_linen(OwnNetwork(), IMAGES.shape[1:], last_block='conv', **options)

  assert make().by_patches is None
  backbone = make(by_patches=OwnNetwork(conv=backbones.conv_by_patches))
  variables = backbone.init(jax.random.key(0))
  twin = backbone.by_patches
  assert 'conv_general_dilated' not in program(twin, variables)
  assert_close(features(twin, variables, IMAGES), features(backbone, variables, IMAGES))
  maps = twin.cut.below(variables, IMAGES)
  assert_close(twin.cut.last(variables, maps), features(backbone, variables, IMAGES))


class OtherFeatures(OwnNetwork):
  @nn.compact
  def __call__(self, images):
    x = super().__call__(images)
    return jnp.concatenate([x, x], axis=1)


@pytest.mark.parametrize('twin, message', [
    (OwnNetwork(width=4), 'by_patches to take the parameters of module'),
    (OtherFeatures(), r'by_patches to return 3 features, as module does, got shape \(2, 6\)')])
def test_a_twin_of_another_network_is_refused(twin, message):
  with pytest.raises(ValueError, match=message):
    backbones.from_linen(OwnNetwork(), IMAGES.shape[1:], last_block='conv', by_patches=twin)


def test_functions_and_nnx_modules_have_no_twin():
  class Dense(nnx.Module):
    def __init__(self, rngs):
      self.dense = nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, images):
      return self.dense(images.reshape(len(images), -1))

  def apply(params, images):
    return images.reshape(len(images), -1) @ params['dense']['kernel']

  of_functions = backbones.from_functions(
      lambda key: {'dense': {'kernel': jnp.ones((12, 2))}}, apply, (2, 2, 3), last_block='dense')
  of_nnx = backbones.from_nnx(Dense, (2, 2, 3), last_block='dense')
  for backbone in (of_functions, of_nnx):
    assert backbone.by_patches is None and backbone.cut is None
