"""Winograd's form of a 3x3 convolution against the direct one.

In float64, rounding is so fine that only a wrong formula differs.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.backbones import layers, winograd

SIZES = [(4, 4), (5, 7), (1, 2), (10, 3)]
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def direct(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)),
                                      dimension_numbers=DIMENSIONS)


def arrays(*shape, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(size=(*shape, 3)), random.normal(size=(3, 3, 3, 4))


def close(found, expected):
  def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)

  jax.tree.map(assert_close, found, expected)


def loss_and_gradients(function, *inputs):
  def loss(*inputs):
    return jnp.sum(jnp.sin(function(*inputs)))

  return jax.value_and_grad(loss, tuple(range(len(inputs))))(*inputs)


def test_one_dimension_is_the_polynomial_identity():
  """Aᵀ [(G k) ⊙ (Bᵀ d)] is the convolution of six inputs with three taps."""
  outputs, kernels, inputs = winograd._matrices(winograd._POINTS)
  random = np.random.default_rng(0)
  d, k = random.normal(size=6), random.normal(size=3)
  found = outputs @ ((kernels @ k) * (inputs @ d))
  np.testing.assert_allclose(found, np.correlate(d, k, 'valid'), atol=1e-13)


@pytest.mark.parametrize('height, width', SIZES)
def test_value_and_both_gradients_are_those_of_the_direct_form(height, width):
  with jax.enable_x64(True):
    x, kernel = arrays(2, height, width)
    close(winograd.conv3x3(x, kernel), direct(x, kernel))
    close(loss_and_gradients(winograd.conv3x3, x, kernel), loss_and_gradients(direct, x, kernel))


@pytest.mark.parametrize('height, width', SIZES)
def test_the_transposed_form_is_the_gradient_to_the_inputs_and_has_gradients(height, width):
  with jax.enable_x64(True):
    x, kernel = arrays(2, height, width)
    y = np.random.default_rng(1).normal(size=(2, height, width, 4))

    def transposed(y, kernel):
      return winograd.conv3x3(y, kernel, True)

    def reference(y, kernel):
      return jax.vjp(lambda x: direct(x, kernel), x)[1](y)[0]

    close(transposed(y, kernel), reference(y, kernel))
    close(loss_and_gradients(transposed, y, kernel), loss_and_gradients(reference, y, kernel))


@pytest.mark.parametrize('height, width', SIZES)
def test_the_gradient_to_the_kernel_has_gradients_itself(height, width):
  with jax.enable_x64(True):
    x, kernel = arrays(2, height, width)
    y = np.random.default_rng(1).normal(size=(2, height, width, 4))

    def reference(x, y):
      return jax.vjp(lambda kernel: direct(x, kernel), kernel)[1](y)[0]

    close(winograd.kernel_gradient(x, y), reference(x, y))
    close(loss_and_gradients(winograd.kernel_gradient, x, y), loss_and_gradients(reference, x, y))


@pytest.mark.parametrize('images, part, parts', [
    pytest.param(60, 64, 15, marks=pytest.mark.slow), (61, 64, 16), (7, 1, 7),
    pytest.param(7, 1000, 1, marks=pytest.mark.slow)])
def test_more_tiles_than_a_part_takes(monkeypatch, images, part, parts):
  """61 images fill equal parts only with black ones; a part of one image may exceed the limit."""
  monkeypatch.setattr(winograd, '_PART', part)
  with jax.enable_x64(True):
    x, kernel = arrays(images, 8, 7)
    assert len(winograd._in_parts(x, 4)) == parts
    close(loss_and_gradients(winograd.conv3x3, x, kernel), loss_and_gradients(direct, x, kernel))


def test_second_order_under_vmap_and_in_a_scan():
  """Inner loops need both that adapt the kernels of each task, here of two layers."""
  with jax.enable_x64(True):
    x, first = arrays(2, 6, 5)
    kernels = first, np.random.default_rng(1).normal(size=(3, 3, 4, 2))
    of_tasks = jax.tree.map(lambda kernel: jnp.stack([kernel, 2 * kernel]), kernels)

    def adapted(convolve):
      def loss(kernels):
        return jnp.mean(jnp.sin(convolve(jnp.tanh(convolve(x, kernels[0])), kernels[1])))

      def one(kernels, _):
        return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, jax.grad(loss)(kernels)), None

      def adapted_loss(kernels):
        return loss(jax.lax.scan(one, kernels, length=3)[0])

      return jax.jit(jax.vmap(jax.value_and_grad(adapted_loss)))(of_tasks)

    close(adapted(winograd.conv3x3), adapted(direct))


def test_float32_rounds_five_times_as_coarsely():
  random = np.random.default_rng(0)
  x, kernel = random.normal(size=(4, 12, 12, 128)), random.normal(size=(3, 3, 128, 256)) / 34
  with jax.enable_x64(True):
    exact = np.asarray(direct(x, kernel))
  with jax.default_matmul_precision('highest'):
    inputs = x.astype(np.float32), kernel.astype(np.float32)
    errors = [np.sqrt(np.mean((f(*inputs) - exact)**2)) for f in (winograd.conv3x3, direct)]
  assert errors[0] < 8 * errors[1] and errors[0] < 2e-6 * np.sqrt(np.mean(exact**2))


def through_layers(x, kernel, strides=(1, 1)):
  return layers.conv(x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS)


@pytest.mark.parametrize('images, pixels, c_in, c_out, dtype, forward, gradient', [
    (80, 8, 128, 256, 'float32', True, True), (80, 2, 512, 512, 'float32', True, True),
    (80, 1, 512, 512, 'float32', False, False), (80, 8, 128, 128, 'float32', False, True),
    (80, 8, 64, 256, 'float32', False, True), (80, 8, 32, 64, 'float32', False, False),
    (80, 8, 3, 256, 'float32', False, False), (9, 8, 256, 256, 'float32', False, False),
    (10, 8, 256, 256, 'float32', True, True), (80, 8, 256, 256, 'bfloat16', False, False)])
def test_it_is_taken_where_channels_and_tiles_are_many(monkeypatch, images, pixels, c_in, c_out,
                                                       dtype, forward, gradient):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  shapes = (images, pixels, pixels, c_in), (3, 3, c_in, c_out)
  inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  assert ('dot_general' in str(jax.make_jaxpr(through_layers)(*inputs))) == forward
  to_kernel = jax.grad(lambda x, kernel: jnp.sum(through_layers(x, kernel)), 1)
  assert ('dot_general' in str(jax.make_jaxpr(to_kernel)(*inputs))) == gradient


@pytest.mark.parametrize('c_in, c_out, strides', [
    (128, 256, (1, 1)), (128, 256, (2, 2)), (64, 64, (1, 1)), (64, 128, (2, 2))])
def test_values_and_gradients_of_layers_in_this_form(monkeypatch, c_in, c_out, strides):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'cpu')
  random = np.random.default_rng(0)
  with jax.enable_x64(True):
    x, kernel = random.normal(size=(40, 5, 4, c_in)), random.normal(size=(3, 3, c_in, c_out)) / 34

    def reference(x, kernel):
      return direct(x, kernel)[:, ::strides[0], ::strides[1]]

    found = loss_and_gradients(lambda *a: through_layers(*a, strides), x, kernel)
    close(found, loss_and_gradients(reference, x, kernel))
