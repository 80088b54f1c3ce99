"""The ways of going over tasks with kernels of their own: the same values, and the choice between them."""
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones
from mtl_jax.backbones import layers
from mtl_jax.execution import task_batching
from mtl_jax.phases import meta_train

CONFIG = meta_train.MetaTrainConfig(learn='ft', adapts='all', way=3, query=2, meta_batch=2, inner_steps=2, inner_lr=0.1)


@pytest.fixture(scope='module')
def network():
  backbone = backbones.create('conv4', (16, 16, 3), width=3)
  return backbone, backbone.init(jax.random.key(0))


def test_every_way_gives_the_same_loss_and_gradient(network):
  backbone, frozen = network
  meta_params, tasks = meta_train.init(backbone, frozen, CONFIG).meta_params, task_batching.noise(backbone, CONFIG)
  loss, gradient = task_batching.gradient(backbone, CONFIG)(meta_params, frozen, tasks)
  assert sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) > 0
  for way in ('vmap', 'patches'):
    other, of_other = task_batching.gradient(backbone, CONFIG._replace(over_tasks=way))(meta_params, frozen, tasks)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    for ours, expected in zip(jax.tree.leaves(of_other), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('size', [(5, 6), (8, 8)])
def test_patches_are_a_convolution(stride, size):
  keys = jax.random.split(jax.random.key(1), 3)
  x, kernel = jax.random.normal(keys[0], (2, *size, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))

  def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)),
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  expected = plain(x, kernel)
  weights = jax.random.normal(keys[2], expected.shape)
  np.testing.assert_allclose(layers.conv_patches(x, kernel, (stride, stride)), expected, rtol=1e-5, atol=1e-5)
  ours, theirs = (jax.grad(lambda x, k, f=f: jnp.sum(weights * f(x, k)), (0, 1))(x, kernel)
                  for f in (lambda x, k: layers.conv_patches(x, k, (stride, stride)), plain))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


def test_patches_only_within():
  x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))

  def products():
    return str(jax.make_jaxpr(lambda x, k: layers.conv(x, k, (1, 1), 'SAME'))(x, kernel)).count('conv_general_dilated')

  assert products() > 0
  with layers.by_patches():
    assert products() == 0
  assert products() > 0


def test_the_fastest_is_taken_and_slow_ones_run_once(network, monkeypatch):
  # Before and after loop, vmap, patches; then of those that are near the fastest.
  clock = itertools.accumulate([0, 30, 0, 12, 0, 10] + [0, 8, 0, 9] * 2)
  monkeypatch.setattr(task_batching, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
  monkeypatch.setattr(task_batching, 'gradient', lambda backbone, config: jax.jit(lambda *_: jnp.zeros(())))
  assert task_batching.choose('auto', *network, CONFIG._replace(steps=50)) == 'vmap'
  assert next(clock, None) is None


def test_of_short_steps_a_slow_first_call_does_not_count(network, monkeypatch):
  clock = itertools.accumulate([0, 1.9, 0, 0.2, 0, 0.3] + [0, 0.1, 0, 0.2, 0, 0.3] * 2)
  monkeypatch.setattr(task_batching, 'time', types.SimpleNamespace(monotonic=lambda: next(clock)))
  monkeypatch.setattr(task_batching, 'gradient', lambda backbone, config: jax.jit(lambda *_: jnp.zeros(())))
  assert task_batching.choose('auto', *network, CONFIG._replace(steps=50)) == 'loop'


def test_a_way_that_needs_too_much_memory_is_left_out(network, monkeypatch):
  def gradient(backbone, config):
    def call(*_):
      if config.over_tasks == 'patches':
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
      return jnp.zeros(())
    return jax.jit(call)

  monkeypatch.setattr(task_batching, 'gradient', gradient)
  assert set(task_batching.measure(*network, CONFIG)) == {'loop', 'vmap'}


@pytest.mark.parametrize('choice, config, expected', [
    ('patches', CONFIG, 'patches'), ('auto', CONFIG._replace(steps=49), 'loop'),
    ('auto', CONFIG._replace(learn='ss', adapts='head', steps=1000), 'loop')])
def test_without_measuring(choice, config, expected, network, monkeypatch):
  monkeypatch.setattr(task_batching, 'measure', lambda *_: pytest.fail('measured'))
  assert task_batching.choose(choice, *network, config) == expected


def test_what_is_refused(network):
  with pytest.raises(ValueError, match="one of auto, loop, vmap, patches, got 'fast'"):
    task_batching.choose('fast', *network, CONFIG)
