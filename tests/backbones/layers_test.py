"""What the layers of backbones compute, against plain `lax` and flax."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.backbones import layers

DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def plain_conv(x, kernel):
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=DIMENSIONS)


def conv_arguments(seed=0):
  rng = np.random.default_rng(seed)
  return (jnp.asarray(rng.normal(size=(2, 5, 4, 3)), jnp.float32),
          jnp.asarray(rng.normal(size=(3, 3, 3, 2)), jnp.float32),
          jnp.asarray(rng.normal(size=(2, 5, 4, 2)), jnp.float32))


def assert_trees_close(found, expected):
  def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

  jax.tree.map(assert_close, found, expected)


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
  of_seeds = [conv_arguments(seed) for seed in range(3)]
  many = [jnp.stack(parts) for parts in zip(*of_seeds, strict=True)]
  expected = jax.vmap(value_and_gradients(plain_conv))(*many)
  assert_trees_close(jax.vmap(value_and_gradients(layers.conv3x3))(*many), expected)
  ours = value_and_gradients(layers.conv3x3)
  _, scanned = jax.lax.scan(lambda _, each: (None, ours(*each)), None, tuple(many))
  assert_trees_close(scanned, expected)


def test_gradient_through_a_scan_of_conv3x3():
  kernels = jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 2)) / 3
  x = jax.random.normal(jax.random.key(1), (1, 4, 4, 2))

  def looped(kernels, conv):
    y, _ = jax.lax.scan(lambda y, kernel: (jnp.tanh(conv(y, kernel)), None), x, kernels)
    return jnp.sum(y ** 2)

  ours, plain = (jax.grad(looped)(kernels, conv) for conv in (layers.conv3x3, plain_conv))
  assert_trees_close(ours, plain)


def test_conv3x3_second_order():
  x, kernel, weights = conv_arguments()

  def gradient_norm(conv):
    def run(x, kernel):
      of_x, of_kernel = value_and_gradients(conv)(x, kernel, weights)[1]
      return jnp.sum(of_x ** 2) + jnp.sum(of_kernel ** 3)
    return jax.grad(run, (0, 1))(x, kernel)

  assert_trees_close(gradient_norm(layers.conv3x3), gradient_norm(plain_conv))


@pytest.mark.parametrize('height, width', [(4, 6), (5, 5), (4, 7)])
def test_strided_conv_has_the_value_and_both_gradients_of_lax(height, width):
  rng = np.random.default_rng(0)
  shapes = (2, height, width, 3), (3, 3, 3, 2), (2, (height + 1) // 2, (width + 1) // 2, 2)
  arguments = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
  options = {'window_strides': (2, 2), 'padding': [(1, 1), (1, 1)]}

  def ours(x, kernel):
    return layers.conv(x, kernel, *options.values(), dimension_numbers=DIMENSIONS)

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, **options, dimension_numbers=DIMENSIONS)

  assert_trees_close(value_and_gradients(ours)(*arguments), value_and_gradients(plain)(*arguments))


@pytest.mark.parametrize('dtype, tolerance', [(jnp.float32, 1e-6), (jnp.bfloat16, 8e-3)])
def test_sum_of_products_equals_the_matrix_product(dtype, tolerance):
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (2, 4, 5, 3)).astype(dtype)
  kernel = jax.random.normal(keys[1], (3, 8)).astype(dtype)
  exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  found = layers.sum_of_products(x, kernel)
  assert found.dtype == dtype
  np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=tolerance, atol=tolerance)

  def total(x, kernel):
    return jnp.sum(layers.sum_of_products(x, kernel))

  gradients = jax.grad(total, (0, 1))(x, kernel)
  wide_x, wide_kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  expected = (np.broadcast_to(wide_kernel.sum(1), x.shape),
              np.broadcast_to(wide_x.sum((0, 1, 2))[:, None], kernel.shape))
  for gradient, exact in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(np.asarray(gradient, np.float64), exact, rtol=4 * tolerance,
                               atol=4 * tolerance)


@pytest.mark.parametrize('slope, reference', [
    (0.0, nn.relu), (0.1, lambda x: nn.leaky_relu(x, 0.1))])
def test_relu_has_the_values_and_derivatives_of_flax(slope, reference):
  x = jnp.asarray(np.random.default_rng(0).normal(size=50), jnp.float32)
  ours = functools.partial(layers.relu, slope=slope)
  for each in (lambda f: f, jax.grad, jax.jacfwd, lambda f: jax.grad(jax.grad(lambda x: f(x)**3))):
    found, expected = (jax.vmap(each(function))(x) for function in (ours, reference))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert jax.grad(layers.relu)(0.0, slope) == np.float32(slope)
  no_numbers = jnp.array([-jnp.inf, jnp.inf, jnp.nan])
  np.testing.assert_array_equal(layers.relu(no_numbers, slope), reference(no_numbers))
