"""Winograd's form of a 3x3 convolution against the direct one, in float64, where only a wrong formula differs."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.backbones import layers, winograd

SIZES = [(4, 4), (5, 7), (1, 2), (10, 3)]


def direct(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def arrays(height, width, seed=0):
  random = np.random.default_rng(seed)
  return random.normal(size=(2, height, width, 3)), random.normal(size=(3, 3, 3, 4))


def close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, expected)


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
  """As inner loops need it that adapt the kernels of each task."""
  with jax.enable_x64(True):
    x, kernel = arrays(6, 5)
    kernels = jnp.stack([kernel, 2 * kernel])

    def adapted(convolve):
      def loss(kernel):
        return jnp.sum(jnp.sin(convolve(x, kernel)))

      def after(kernel):
        return loss(jax.lax.scan(lambda k, _: (k - 0.01 * jax.grad(loss)(k), None), kernel, length=3)[0])

      return jax.jit(jax.vmap(jax.value_and_grad(after)))(kernels)

    close(adapted(winograd.conv3x3), adapted(direct))


def test_float32_rounds_as_the_direct_form_does():
  random = np.random.default_rng(0)
  x, kernel = random.normal(size=(4, 10, 10, 128)), random.normal(size=(3, 3, 128, 256)) / 34
  with jax.enable_x64(True):
    exact = np.asarray(direct(x, kernel))
  errors = {f: np.abs(f(x.astype(np.float32), kernel.astype(np.float32)) - exact).max()
            for f in (winograd.conv3x3, direct)}
  assert errors[winograd.conv3x3] < 4 * errors[direct] < 1e-4


@pytest.mark.parametrize('pixels, c_in, c_out, dtype, chosen', [
    (10, 128, 256, 'float32', True), (4, 512, 512, 'float32', True), (16, 256, 256, 'float32', False),
    (8, 64, 64, 'float32', False), (8, 256, 256, 'bfloat16', False)])
def test_it_is_taken_where_maps_are_small_and_deep(pixels, c_in, c_out, dtype, chosen):
  x, kernel = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, pixels, pixels, c_in), (3, 3, c_in, c_out)))
  convolve = lambda *arrays: layers.conv(*arrays, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))  # noqa: E731
  assert ('dot_general' in str(jax.make_jaxpr(convolve)(x, kernel))) == chosen
