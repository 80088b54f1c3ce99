"""Backbones against a NumPy forward written from the networks' definition, and their layers against plain `lax`."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, scale_shift
from mtl_jax.backbones import layers
from mtl_jax.types import BackboneVars

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def plain_conv(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=DIMENSIONS)


def random_tree(tree, seed):
  """A tree of the same shapes with random values; variances positive."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    values = rng.normal(size=x.shape) / np.sqrt(max(1, np.prod(x.shape[:-1])))
    return jnp.asarray(np.exp(values) if path[-1].key in ('var', 'scale') else values, jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def network(name, seed=0, **options):
  """A tiny backbone with random parameters and statistics, and images for it."""
  backbone = backbones.create(name, (16, 19, 3), width=4, **options)
  variables = random_tree(jax.eval_shape(backbone.init, jax.random.key(0)), seed)
  images = np.random.default_rng(seed + 1).normal(size=(6, 16, 19, 3)).astype(np.float32)
  return backbone, variables, images


class NumpyForward:
  """The two networks in float64; `moments` collects the batch's mean and variance of each batch norm."""

  def __init__(self, variables, mode):
    self.params, self.stats = jax.tree.map(lambda x: np.asarray(x, np.float64), tuple(variables))
    self.mode, self.moments = mode, {}

  def conv(self, x, block, name):
    kernel, bias = self.params[block][name]['kernel'], self.params[block][name]['bias']
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bias + sum(padded[:, i:i + height, j:j + width] @ kernel[i, j] for i in range(3) for j in range(3))

  def norm(self, x, block, name):
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    self.moments.setdefault(block, {})[name] = {'mean': mean, 'var': var}
    if self.mode == 'running':
      mean, var = self.stats[block][name]['mean'], self.stats[block][name]['var']
    affine = self.params[block].get(name, {})
    return (x - mean) / np.sqrt(var + 1e-5) * affine.get('scale', 1) + affine.get('bias', 0)

  def pool(self, x):
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return np.max([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)], axis=0)

  def conv4(self, x):
    for block in ('block1', 'block2', 'block3', 'block4'):
      x = self.pool(np.maximum(self.norm(self.conv(x, block, 'conv'), block, 'bn'), 0))
    return x.reshape(len(x), -1)

  def resnet12(self, x):
    for block in ('block1', 'block2', 'block3', 'block4'):
      shortcut = x @ self.params[block]['shortcut']['kernel']
      for i in (1, 2, 3):
        x = self.norm(self.conv(x, block, f'conv{i}'), block, f'bn{i}')
        x = np.where(x > 0, x, 0.1 * x)
      x = self.pool(x + shortcut)
    return x.mean(axis=(1, 2))


def shapes_of(name, size):
  backbone = backbones.create(name, (size, size, 3))
  return backbone, jax.eval_shape(backbone.init, jax.random.key(0))


def test_resnet12_has_the_published_number_of_weights_and_of_scales_and_shifts():
  backbone, variables = shapes_of('resnet12', 84)
  assert scale_shift.count(variables.params) == 7_992_000
  scale_and_shift = jax.eval_shape(lambda params: scale_shift.init(params, backbone.scaled_layers), variables.params)
  assert scale_shift.count(scale_and_shift) == 871_424
  assert len(backbone.scaled_layers) == 12 and not any('shortcut' in path for path in backbone.scaled_layers)
  assert backbone.last_block == tuple(('block4', f'conv{i}') for i in (1, 2, 3))


def test_conv4_has_113088_weights_at_64_filters():
  _, variables = shapes_of('conv4', 84)
  assert scale_shift.count(variables.params) == (27 + 3 * 576) * 64 + 4 * 3 * 64  # kernels; bias, scale and offset


@pytest.mark.parametrize('name, size, expected', [
    ('resnet12', 28, 512), ('resnet12', 32, 512), ('resnet12', 84, 512), ('resnet12', 224, 512),
    ('conv4', 28, 64), ('conv4', 32, 256), ('conv4', 84, 1600), ('conv4', 224, 64 * 14 * 14)])
def test_feature_width_at_every_image_size(name, size, expected):
  backbone, variables = shapes_of(name, size)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  for mode in ('running', 'batch'):
    features = jax.eval_shape(lambda v, x, m=mode: backbone.features(v, x, batch_stats_mode=m), variables, images)
    assert (features.shape, features.dtype) == ((2, expected), jnp.float32)
  assert backbone.feature_dim == expected and backbone.image_shape == (size, size, 3)


@pytest.mark.parametrize('mode', ['running', 'batch'])
@pytest.mark.parametrize('name', ['conv4', 'resnet12'])
def test_forward_equals_numpy(name, mode):
  backbone, variables, images = network(name)
  found = backbone.features(variables, images, batch_stats_mode=mode)
  expected = getattr(NumpyForward(variables, mode), name)(images.astype(np.float64))
  assert np.std(expected) > 0.1  # not a comparison of zeros
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['conv4', 'resnet12'])
def test_running_statistics_move_a_tenth_of_the_way_to_the_batch(name):
  backbone, variables, images = network(name)
  features, new_stats = backbone.train_features(variables, images)
  reference = NumpyForward(variables, 'batch')
  expected_features = getattr(reference, name)(images.astype(np.float64))
  expected = jax.tree.map(lambda old, batch: 0.9 * np.asarray(old) + 0.1 * batch, variables.batch_stats,
                          reference.moments)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), new_stats, expected)
  np.testing.assert_allclose(features, expected_features, rtol=1e-4, atol=1e-4)


def test_running_mode_sees_each_image_alone_and_batch_mode_does_not():
  backbone, variables, images = network('conv4')
  running = backbone.features(variables, images, batch_stats_mode='running')
  np.testing.assert_allclose(backbone.features(variables, images[:2], batch_stats_mode='running'), running[:2],
                             rtol=1e-5, atol=1e-5)
  batch = backbone.features(variables, images, batch_stats_mode='batch')
  assert np.abs(backbone.features(variables, images[:2], batch_stats_mode='batch') - batch[:2]).max() > 0.01


def test_batch_norm_affine_of_each_network():
  # ResNet-12 follows the TensorFlow column: no trained scale or offset. 4CONV is MAML's, with both.
  for name, expected in (('resnet12', set()), ('conv4', {'bn'})):
    backbone = backbones.create(name, (16, 16, 3), width=4)
    block = jax.eval_shape(backbone.init, jax.random.key(0)).params['block1']
    assert {layer for layer in block if layer.startswith('bn')} == expected


def test_init_depends_on_the_key_alone():
  backbone = backbones.create('conv4', (16, 16, 3), width=4)
  first, again, other = (jax.jit(backbone.init)(jax.random.key(seed)) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert np.any(np.asarray(first.params['block1']['conv']['kernel'] != other.params['block1']['conv']['kernel']))
  np.testing.assert_array_equal(first.batch_stats['block1']['bn']['mean'], 0)
  np.testing.assert_array_equal(first.batch_stats['block1']['bn']['var'], 1)


@pytest.mark.parametrize('name', ['conv4', 'resnet12'])
def test_bfloat16_gives_float32_features_near_those_of_float32(name):
  backbone, variables, images = network(name)
  half = backbones.create(name, (16, 19, 3), width=4, compute_dtype='bfloat16')
  assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0)))} == {jnp.dtype('float32')}
  exact = backbone.features(variables, images, batch_stats_mode='running')
  rounded = half.features(variables, images, batch_stats_mode='running')
  assert rounded.dtype == jnp.float32
  error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
  assert 1e-5 < error < 0.05  # bfloat16 rounds to 3 digits; an error of zero would mean that it was not used


def conv_arguments(seed=0):
  rng = np.random.default_rng(seed)
  return (jnp.asarray(rng.normal(size=(2, 5, 4, 3)), jnp.float32),
          jnp.asarray(rng.normal(size=(3, 3, 3, 2)), jnp.float32),
          jnp.asarray(rng.normal(size=(2, 5, 4, 2)), jnp.float32))


def assert_trees_close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


def value_and_gradients(conv):
  def run(x, kernel, weights):
    return jnp.sum(weights * jnp.tanh(conv(x, kernel)))
  return jax.value_and_grad(run, (0, 1))


def test_conv3x3_has_the_value_and_both_gradients_of_lax():
  x, kernel, weights = conv_arguments()
  np.testing.assert_allclose(layers.conv3x3(x, kernel), plain_conv(x, kernel), rtol=1e-5, atol=1e-5)
  assert_trees_close(value_and_gradients(layers.conv3x3)(x, kernel, weights),
                     value_and_gradients(plain_conv)(x, kernel, weights))


def test_conv3x3_under_vmap_and_inside_scan():
  many = [jnp.stack(parts) for parts in zip(*(conv_arguments(seed) for seed in range(3)), strict=True)]
  expected = jax.vmap(value_and_gradients(plain_conv))(*many)
  assert_trees_close(jax.vmap(value_and_gradients(layers.conv3x3))(*many), expected)
  _, scanned = jax.lax.scan(lambda _, each: (None, value_and_gradients(layers.conv3x3)(*each)), None, tuple(many))
  assert_trees_close(scanned, expected)


def test_gradient_through_a_scan_of_conv3x3():
  kernels = jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 2)) / 3
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))

  def looped(kernels, conv):
    return jnp.sum(jax.lax.scan(lambda y, kernel: (jnp.tanh(conv(y, kernel)), None), x, kernels)[0] ** 2)

  assert_trees_close(jax.grad(looped)(kernels, layers.conv3x3), jax.grad(looped)(kernels, plain_conv))


def test_conv3x3_second_order():
  x, kernel, weights = conv_arguments()

  def gradient_norm(conv):
    def run(x, kernel):
      of_x, of_kernel = value_and_gradients(conv)(x, kernel, weights)[1]
      return jnp.sum(of_x ** 2) + jnp.sum(of_kernel ** 3)
    return jax.grad(run, (0, 1))(x, kernel)

  assert_trees_close(gradient_norm(layers.conv3x3), gradient_norm(plain_conv))


@pytest.mark.parametrize('height, width', [(4, 6), (5, 6), (4, 7), (5, 5), (2, 3)])
def test_max_pool_equals_reduce_window(height, width):
  x = jax.random.normal(jax.random.key(0), (2, height, width, 3))

  def reference(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')

  np.testing.assert_array_equal(layers.max_pool(x), reference(x))
  gradients = [jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(x) for pool in (layers.max_pool, reference)]
  np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)


@pytest.mark.parametrize('options', [{}, {'xla_backend_optimization_level': 0}])
def test_gradient_of_max_pool_does_not_need_equal_roundings(options):
  # A compiler may compute x again, rounded otherwise, where the gradient looks for its maximum.
  rng = np.random.default_rng(0)
  x, weights, scale = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 8, 8, 4), (6, 4, 4, 4), 4))
  gradient = jax.grad(lambda x: jnp.sum(weights * layers.max_pool(x * scale + 0.3)))
  patches = (np.asarray(x) * scale + 0.3).reshape(6, 4, 2, 4, 2, 4)
  is_max = patches == patches.max(axis=(2, 4), keepdims=True)
  expected = (is_max * np.asarray(weights)[:, :, None, :, None] * scale).reshape(x.shape)
  np.testing.assert_allclose(jax.jit(gradient, compiler_options=options)(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('arguments, message', [
    (('resnet50', (32, 32, 3)), 'conv4, resnet12.*resnet50'), (('conv4', (15, 32, 3)), 'at least 16 pixels.*15x32')])
def test_create_refuses_unknown_names_and_small_images(arguments, message):
  with pytest.raises(ValueError, match=message):
    backbones.create(*arguments)


def test_unknown_dtype_and_statistics_are_refused():
  with pytest.raises(ValueError, match="'float32' or 'bfloat16', got 'float16'"):
    backbones.create('conv4', (16, 16, 3), compute_dtype='float16')
  backbone, variables, images = network('conv4')
  with pytest.raises(ValueError, match="'running' or 'batch', got 'train'"):
    backbone.features(variables, images, batch_stats_mode='train')


class _Dense(nn.Module):
  """A module of one's own, without batch norm; a feature map instead of features where `flat` is off."""
  flat: bool = True

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    del batch_stats_mode
    return nn.Dense(5, name='dense')(x.reshape(x.shape[0], -1) if self.flat else x)


def test_from_linen_takes_a_module_of_ones_own():
  backbone = backbones.from_linen(_Dense(), (4, 4, 1), last_block='dense')
  variables = backbone.init(jax.random.key(0))
  assert variables.batch_stats == {} and backbone.feature_dim == 5 and backbone.scaled_layers == (('dense',),)
  images = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32)
  expected = images.reshape(3, 16) @ np.asarray(variables.params['dense']['kernel'])
  for mode in ('running', 'batch'):
    np.testing.assert_allclose(backbone.features(variables, images, batch_stats_mode=mode), expected, rtol=1e-4,
                               atol=1e-5)
  assert backbone.train_features(BackboneVars(variables.params, {}), images)[1] == {}


def test_from_linen_refuses_output_that_is_not_one_row_per_image():
  with pytest.raises(ValueError, match=r'\[B, d\], got \(2, 4, 4, 5\)'):
    backbones.from_linen(_Dense(flat=False), (4, 4, 1), last_block='dense')
