"""Winograd's form of a 3x3 convolution against the direct one, in float64, where only a wrong formula differs."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.backbones import layers, winograd

SIZES = [(4, 4), (5, 7), (1, 2), (10, 3)]
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def direct(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)


def arrays(height, width, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(size=(2, height, width, 3)), random.normal(size=(3, 3, 3, 4))


def close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


def test_more_tiles_than_a_part_takes():
  with jax.enable_x64(True):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(61, 8, 7, 3)), random.normal(size=(3, 3, 3, 4))
    assert winograd.tiles(x) == 61 * 16
    loss = lambda f: jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(x, kernel)  # noqa: E731
    close(loss(winograd.conv3x3), loss(direct))


@pytest.mark.parametrize('height, width', SIZES)
def test_value_and_both_gradients_are_those_of_the_direct_form(height, width):
  with jax.enable_x64(True):
    x, kernel = arrays(height, width)
    weight = np.random.default_rng(1).normal(size=(2, height, width, 4))
    for function in (lambda f: f(x, kernel), lambda f: jax.grad(lambda *a: jnp.sum(f(*a) * weight), (0, 1))(x, kernel)):
      close(function(winograd.conv3x3), function(direct))


@pytest.mark.parametrize('height, width', SIZES)
def test_the_transposed_form_is_the_gradient_to_the_inputs_and_has_gradients_itself(height, width):
  with jax.enable_x64(True):
    x, kernel = arrays(height, width)
    y = np.random.default_rng(1).normal(size=(2, height, width, 4))
    transposed = lambda y, kernel: winograd.conv3x3(y, kernel, True)  # noqa: E731
    reference = lambda y, kernel: jax.vjp(lambda x: direct(x, kernel), x)[1](y)[0]  # noqa: E731
    for function in (lambda f: f(y, kernel), lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(y, kernel)):
      close(function(transposed), function(reference))


def test_second_order_under_vmap_and_in_a_scan():
  """As inner loops need it that adapt the kernels of each task, here of two layers."""
  with jax.enable_x64(True):
    x, first = arrays(6, 5)
    kernels = first, np.random.default_rng(1).normal(size=(3, 3, 4, 2))
    of_tasks = jax.tree.map(lambda kernel: jnp.stack([kernel, 2 * kernel]), kernels)

    def adapted(convolve):
      def loss(kernels):
        return jnp.mean(jnp.sin(convolve(jnp.tanh(convolve(x, kernels[0])), kernels[1])))

      def one(kernels, _):
        return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, jax.grad(loss)(kernels)), None

      return jax.jit(jax.vmap(jax.value_and_grad(lambda k: loss(jax.lax.scan(one, k, length=3)[0]))))(of_tasks)

    close(adapted(winograd.conv3x3), adapted(direct))


def test_float32_rounds_as_the_direct_form_does():
  random = np.random.default_rng(0)
  x, kernel = random.normal(size=(4, 10, 10, 128)), random.normal(size=(3, 3, 128, 256)) / 34
  with jax.enable_x64(True):
    exact = np.asarray(direct(x, kernel))
  with jax.default_matmul_precision('highest'):
    errors = {f: np.abs(f(x.astype(np.float32), kernel.astype(np.float32)) - exact).max()
              for f in (winograd.conv3x3, direct)}
  assert errors[winograd.conv3x3] < 4 * errors[direct] < 1e-4


def through_layers(x, kernel, strides=(1, 1)):
  return layers.conv(x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)


@pytest.mark.parametrize('pixels, c_in, c_out, dtype, chosen', [
    (8, 128, 256, 'float32', True), (4, 512, 512, 'float32', True), (9, 128, 256, 'float32', False),
    (3, 512, 512, 'float32', False), (8, 128, 128, 'float32', False), (8, 64, 256, 'float32', False),
    (8, 256, 256, 'bfloat16', False)])
@pytest.mark.parametrize('images', [80, 1])
def test_it_is_taken_where_maps_are_small_and_deep_and_many(monkeypatch, images, pixels, c_in, c_out, dtype, chosen):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  shapes = (images, pixels, pixels, c_in), (3, 3, c_in, c_out)
  x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
  assert ('dot_general' in str(jax.make_jaxpr(through_layers)(x, kernel))) == (chosen and images > 1)


def test_a_layer_that_strides_over_odd_maps(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  random = np.random.default_rng(0)
  with jax.enable_x64(True):
    x, kernel = random.normal(size=(40, 7, 5, 128)), random.normal(size=(3, 3, 128, 256))
    strided = lambda x, kernel: through_layers(x, kernel, (2, 2))  # noqa: E731
    assert 'dot_general' in str(jax.make_jaxpr(strided)(x, kernel))
    np.testing.assert_allclose(strided(x, kernel), direct(x, kernel)[:, ::2, ::2], atol=1e-10)
