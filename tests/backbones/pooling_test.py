"""Pooling; and the end of a block of ResNet-12, with one byte per patch kept for its gradient."""
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones
from mtl_jax.backbones import layers, pooling, resnet12

SLOPE = 0.1
SHAPES = [(4, 6), (5, 6), (4, 7), (5, 5), (2, 3)]  # an odd side loses its last row or column


@pytest.mark.parametrize('height, width', SHAPES)
def test_max_pool_equals_reduce_window(height, width):
  x = jax.random.normal(jax.random.key(0), (2, height, width, 3))

  def reference(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')

  np.testing.assert_array_equal(pooling.max_pool(x), reference(x))
  gradients = [jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(x)
               for pool in (pooling.max_pool, reference)]
  np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)


@pytest.mark.parametrize('options', [{}, {'xla_backend_optimization_level': 0}])
def test_gradient_of_max_pool_does_not_need_equal_roundings(options):
  # A compiler may compute x again, rounded otherwise, where the gradient looks for its maximum.
  rng = np.random.default_rng(0)
  x, weights, scale = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                       for shape in ((6, 8, 8, 4), (6, 4, 4, 4), (1, 1, 1, 4)))
  gradient = jax.grad(lambda x: jnp.sum(weights * pooling.max_pool(x * scale + 0.3)))
  patches = (np.asarray(x) * scale + 0.3).reshape(6, 4, 2, 4, 2, 4)
  is_max = patches == patches.max(axis=(2, 4), keepdims=True)
  of_patches = np.asarray(weights)[:, :, None, :, None]
  expected = (is_max * of_patches).reshape(x.shape) * np.asarray(scale)
  found = jax.jit(gradient, compiler_options=options)(x)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def plainly(x, shortcut):
  """The definition in NumPy: the value, and the gradients of its sum to x and to the shortcut."""
  total = np.where(x > 0, x, SLOPE * x) + shortcut
  batch, height, width, channels = x.shape
  pooled = np.zeros((batch, height // 2, width // 2, channels), x.dtype)
  x_bar, shortcut_bar = np.zeros_like(x), np.zeros_like(x)
  for b, i, j, c in np.ndindex(pooled.shape):
    patch = total[b, 2 * i:2 * i + 2, 2 * j:2 * j + 2, c]
    row, column = np.unravel_index(patch.argmax(), (2, 2))  # the first of several
    place = b, 2 * i + row, 2 * j + column, c
    pooled[b, i, j, c], shortcut_bar[place] = patch.max(), 1
    x_bar[place] = 1 if x[place] > 0 else SLOPE
  return pooled, x_bar, shortcut_bar


def maps(shape, seed=0, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=(2, *shape)).astype(dtype)


def gradients_of_sum(x, shortcut):
  return jax.grad(lambda *maps: jnp.sum(pooling.pool_by_places(*maps, SLOPE)), (0, 1))(x, shortcut)


@pytest.mark.parametrize('height, width', SHAPES)
def test_equals_the_definition(height, width):
  x, shortcut = maps((3, height, width, 2))
  value, gradients = jax.jit(lambda *maps: (
      pooling.pool_by_places(*maps, SLOPE), gradients_of_sum(*maps)))(x, shortcut)
  for found, expected in zip((value, *gradients), plainly(x, shortcut), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose(pooling.add_and_pool(x, shortcut, SLOPE), value, rtol=1e-6)


def test_the_first_of_equal_values_gets_the_gradient():
  x, shortcut = np.zeros((2, 1, 4, 4, 3), np.float32)
  gradients = gradients_of_sum(x, shortcut)
  for found, expected in zip(gradients, plainly(x, shortcut)[1:], strict=True):
    np.testing.assert_array_equal(found, expected)
    assert np.count_nonzero(found) == 4 * 3


def test_the_first_of_equal_values_gets_the_second_derivative_too():
  x, shortcut = np.zeros((2, 1, 2, 2, 1), np.float32)
  inner = jax.grad(lambda x: jnp.sum(pooling.pool_by_places(x, shortcut, SLOPE)**2))
  found = jax.grad(lambda x: jnp.sum(inner(x)))(x)  # of 2 SLOPE pool(x)
  np.testing.assert_allclose(found.ravel(), [2 * SLOPE**2, 0, 0, 0], rtol=1e-6)


def test_two_orders_of_reverse_mode_equal_those_of_the_plain_form():
  x, shortcut = maps((2, 5, 4, 3), dtype=np.float64)
  with jax.enable_x64(True):
    def gradient_length(pool):
      inner = jax.grad(lambda *maps: jnp.sum(jnp.sin(pool(*maps)) * pool(*maps)), (0, 1))

      def outer(*maps):
        return sum(jnp.sum(g**2 * m) for g, m in zip(inner(*maps), maps, strict=True))

      return jax.grad(outer, (0, 1))

    def ours(x, shortcut):
      return pooling.pool_by_places(x, shortcut, SLOPE)

    def plain(x, shortcut):
      return pooling.max_pool(layers.relu(x, SLOPE) + shortcut)

    ours, plain = (gradient_length(pool)(x, shortcut) for pool in (ours, plain))
    chex.assert_trees_all_close(ours, plain, rtol=1e-12, atol=1e-12)
    assert all(np.abs(g).max() > 0.1 for g in ours)


def test_without_a_slope_a_negative_value_gets_no_gradient():
  x, shortcut = -np.ones((2, 1, 2, 2, 1), np.float32)
  _, pullback = jax.vjp(lambda *maps: pooling.pool_by_places(*maps, 0.0), x, shortcut)
  x_bar, shortcut_bar = pullback(np.full((1, 1, 1, 1), np.inf, np.float32))
  np.testing.assert_array_equal(x_bar, np.zeros_like(x))
  assert np.isinf(shortcut_bar).sum() == 1


def test_vmap_over_tasks_and_half_precision():
  x, shortcut = (jnp.asarray(m, jnp.bfloat16) for m in maps((3, 2, 4, 4, 2)))
  together = jax.vmap(lambda *maps: pooling.pool_by_places(*maps, SLOPE))(x, shortcut)
  assert together.dtype == jnp.bfloat16
  for task in range(3):
    alone = pooling.pool_by_places(x[task], shortcut[task], SLOPE)
    np.testing.assert_array_equal(together[task], alone)


def test_nan_stays_nan():
  x, shortcut = maps((1, 4, 4, 2))
  x[0, 1, 1, 0] = np.nan
  found = pooling.pool_by_places(x, shortcut, SLOPE)
  assert np.isnan(found[0, 0, 0, 0]) and np.isnan(found).sum() == 1


def test_backward_pass_keeps_a_byte_per_patch():
  x, shortcut = maps((2, 6, 6, 4))
  _, pullback = jax.vjp(lambda *maps: pooling.pool_by_places(*maps, SLOPE), x, shortcut)
  kept = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size]
  assert [(leaf.dtype, leaf.shape) for leaf in kept] == [(jnp.uint8, (2, 3, 3, 4))]


class TwoBlocks(nn.Module):
  """The first two blocks of ResNet-12: one that reads an image, and one that reads maps."""
  dtype: Any

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    for i in (1, 2):
      x = resnet12._Block(4 * i, False, 1e-5, self.dtype, layers.conv, name=f'block{i}')(
          x, batch_stats_mode)
    return pooling.global_average(x)


def adapted_loss(dtype):
  """Value and gradient, by task, of the loss of two blocks that take a step of descent."""
  images = jax.random.normal(jax.random.key(0), (3, 4, 21, 18, 3))
  network = backbones.from_linen(TwoBlocks(dtype), (21, 18, 3), last_block='block2')
  variables = jax.jit(network.init)(jax.random.key(1))

  def adapted(params, images):
    def loss(params):
      changed = variables._replace(params=params)
      return jnp.mean(network.features(changed, images, batch_stats_mode='running')**2)

    return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))

  found = jax.jit(jax.vmap(jax.value_and_grad(adapted), (None, 0)))(variables.params, images)
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])


def test_blocks_compute_the_same_in_the_forms_of_an_accelerator(monkeypatch):
  plain = adapted_loss('float32')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert np.linalg.norm(adapted_loss('float32') - plain) < 1e-5 * np.linalg.norm(plain)


@pytest.mark.slow
def test_blocks_in_half_precision_are_as_near_in_the_forms_of_an_accelerator(monkeypatch):
  plain, plain_half = adapted_loss('float32'), adapted_loss('bfloat16')
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  ours_half, length = adapted_loss('bfloat16'), np.linalg.norm(plain)
  # Every operation is rounded, as tests compile without optimization.
  rounding = np.linalg.norm(plain_half - plain)
  assert rounding < 0.3 * length
  # In half precision there are many equal maxima, and each of them counts once.
  assert np.linalg.norm(ours_half - plain) < 1.5 * rounding
