"""What every backbone promises, of narrow forms of the public networks; and their own layers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones
from mtl_jax.backbones import depthwise, layers, pooling

NETWORKS = {'efficientnet_lite0': 8, 'resnet18': 8, 'resnet50': 8, 'vit_small_16': 64}  # -> width
SLOW = pytest.param('resnet50', marks=pytest.mark.slow)


def network(name, size=32, **options):
  backbone = backbones.create(name, (size, size, 3), width=NETWORKS[name], **options)
  variables = jax.jit(backbone.init)(jax.random.key(0))
  return backbone, variables, jax.random.normal(jax.random.key(1), (3, size, size, 3))


@pytest.mark.parametrize('name', [
    'efficientnet_lite0', SLOW,
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('resnet18', 'vit_small_16'))])
def test_the_parts_and_the_twin_are_the_network(name):
  backbone, variables, images = network(name)
  whole = jax.jit(lambda v, x: backbone.features(v, x, batch_stats_mode='running'))
  features = whole(variables, images)
  cut = jax.jit(lambda v, x: backbone.cut.last(v, backbone.cut.below(v, x)))
  np.testing.assert_allclose(cut(variables, images), features, rtol=1e-5, atol=1e-5)
  [block] = backbone.last_block
  assert any(path[:1] == block for path in backbone.scaled_layers)
  if name == 'vit_small_16':
    assert backbone.by_patches is None
    return
  twin = jax.jit(lambda v, x: backbone.by_patches.features(v, x, batch_stats_mode='running'))
  np.testing.assert_allclose(twin(variables, images), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', [
    'resnet18', SLOW, pytest.param('efficientnet_lite0', marks=pytest.mark.slow)])
def test_batch_statistics_move_the_running_ones(name):
  # Sixteen images of four last pixels each: statistics of fewer values magnify rounding.
  backbone, variables, _ = network(name, 64)
  images = jax.random.normal(jax.random.key(2), (16, 64, 64, 3))
  features, batch_stats = jax.jit(backbone.train_features)(variables, images)
  assert jax.tree.structure(batch_stats) == jax.tree.structure(variables.batch_stats)
  assert float(jnp.abs(batch_stats['stem_bn']['mean']).max()) > 0
  by_batch = jax.jit(lambda v, x: backbone.features(v, x, batch_stats_mode='batch'))
  np.testing.assert_allclose(by_batch(variables, images), features, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_bfloat16_stays_near():
  backbone, variables, images = network('vit_small_16')
  half = network('vit_small_16', compute_dtype='bfloat16')[0]
  full, found = (jax.jit(lambda v, x, b=b: b.features(v, x, batch_stats_mode='running'))(
      variables, images) for b in (backbone, half))
  assert found.dtype == jnp.float32
  assert float(jnp.abs(found - full).max()) < 0.1 * float(jnp.abs(full).max())


@pytest.mark.parametrize('size, kernel, stride', [
    (9, 3, 1), (8, 5, 2), *(pytest.param(*case, marks=pytest.mark.slow)
                            for case in ((9, 5, 2), (7, 3, 2)))])
def test_a_depthwise_convolution_and_its_gradients(size, kernel, stride):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, size, size, 6))
  filters = jax.random.normal(keys[1], (kernel, kernel, 1, 6))

  def by_lax(x, filters):
    return jax.lax.conv_general_dilated(x, filters, (stride, stride), 'SAME',
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                                        feature_group_count=6)

  def ours(x, filters):
    return layers.conv(x, filters, (stride, stride), 'SAME', feature_group_count=6,
                       dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  expected = by_lax(x, filters)
  np.testing.assert_allclose(ours(x, filters), expected, rtol=1e-5, atol=1e-5)
  weights = jax.random.normal(keys[2], expected.shape)
  gradients = [jax.grad(lambda x, f, c=conv: jnp.sum(weights * c(x, f)), argnums=(0, 1))(x, filters)
               for conv in (by_lax, ours)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *gradients)


@pytest.mark.parametrize('shape, kernel, strides, padding', [
    ((7, 10), (3, 2), (1, 1), 'VALID'), ((6, 9), (2, 5), (2, 1), 'SAME'),
    ((11, 5), (1, 2), (3, 2), ((2, 0), (0, 1))), ((8, 8), (3, 3), (2, 2), ((0, 0), (0, 0)))])
def test_the_gradients_of_a_depthwise_convolution_have_gradients(shape, kernel, strides, padding):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x, filters = rng.normal(size=(2, *shape, 3)), rng.normal(size=(*kernel, 1, 3))

    def by_lax(x, filters):
      return jax.lax.conv_general_dilated(x, filters, strides, padding, feature_group_count=3,
                                          dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    def ours(x, filters):
      return depthwise.conv(x, filters, strides, padding)

    def slopes(conv):
      def loss(x, filters):
        return jnp.sum(jnp.sin(conv(x, filters)))

      def length(x, filters):
        return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(loss, argnums=(0, 1))(x, filters))

      return [jax.grad(one, argnums=(0, 1))(x, filters) for one in (loss, length)]

    np.testing.assert_allclose(ours(x, filters), by_lax(x, filters), atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), slopes(ours),
                 slopes(by_lax))


def test_what_is_not_depthwise():
  x = jnp.zeros((1, 4, 4, 6))
  for shape, groups in (((3, 3, 1, 6), 1), ((3, 3, 2, 6), 3), ((3, 3, 1, 12), 6)):
    assert not depthwise.is_depthwise(x, jnp.zeros(shape), {'feature_group_count': groups})
  dilated = {'feature_group_count': 6, 'rhs_dilation': (2, 2)}
  assert not depthwise.is_depthwise(x, jnp.zeros((3, 3, 1, 6)), dilated)


@pytest.mark.parametrize('size', [6, 7])
def test_a_max_pool_of_3x3_is_that_of_a_window(size):
  x = np.abs(np.random.default_rng(0).normal(size=(2, size, size, 3))).astype(np.float32)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  places = range(0, size, 2)
  expected = np.stack([np.stack([padded[:, i:i + 3, j:j + 3].max(axis=(1, 2)) for j in places], 1)
                       for i in places], 1)
  np.testing.assert_array_equal(pooling.max_pool3x3(jnp.asarray(x)), expected)


def test_relu6_and_its_derivative_at_the_ends():
  x = jnp.array([-1.0, 0.0, 3.0, 6.0, 7.0])
  np.testing.assert_array_equal(layers.relu6(x), [0, 0, 3, 6, 6])
  np.testing.assert_array_equal(jax.vmap(jax.grad(layers.relu6))(x), [0, 0, 1, 0, 0])
