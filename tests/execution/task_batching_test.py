"""Batchings of tasks with kernels of their own: the same values, and the choice between them."""
import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, inner_loop, network_loop
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.execution import task_batching
from mtl_jax.phases import meta_train
from tests.phases import changed

CONFIG = MetaTrainConfig(way=3, query=2, meta_batch=2, learn=Learn('ft'),
                         inner=InnerLoop(adapts='all', lr=0.1, steps=2))
LONG = dataclasses.replace(CONFIG, steps=50)


@pytest.fixture(scope='module')
def network():
  backbone = backbones.create('conv4', (16, 16, 3), width=3)
  return backbone, backbone.init(jax.random.key(0))


@pytest.mark.parametrize('batching', ['patches', pytest.param('vmap', marks=pytest.mark.slow)])
def test_every_batching_has_the_same_loss_and_gradient(network, batching):
  backbone, frozen = network
  meta_params = meta_train.init(backbone, frozen, CONFIG).meta_params
  tasks = task_batching.noise_tasks(backbone, CONFIG)

  def loss_and_gradient(batching):
    function = task_batching.loss_and_gradient(backbone, CONFIG, batching)
    return jax.jit(function)(meta_params, frozen, tasks)

  loss, gradient = loss_and_gradient('loop')
  assert sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) > 0
  other, of_other = loss_and_gradient(batching)
  np.testing.assert_allclose(other, loss, rtol=1e-5)
  for ours, expected in zip(jax.tree.leaves(of_other), jax.tree.leaves(gradient), strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def count_convolutions(jaxpr):
  return str(jaxpr).count('conv_general_dilated')


def test_patches_are_products_and_leave_the_network_itself_alone(network):
  backbone, frozen = network
  meta_params = meta_train.init(backbone, frozen, CONFIG).meta_params
  tasks = task_batching.noise_tasks(backbone, CONFIG)

  def convolutions(batching):
    function = task_batching.loss_and_gradient(backbone, CONFIG, batching)
    return count_convolutions(jax.make_jaxpr(function)(meta_params, frozen, tasks))

  assert convolutions('loop') > 0
  assert convolutions('patches') == 0
  assert convolutions('vmap') == convolutions('loop')  # nothing is left switched over


def clock(*readings):
  """A stand-in for `time` whose clock shows these seconds, each added to those before."""
  times = itertools.accumulate(readings)
  return types.SimpleNamespace(monotonic=lambda: next(times)), times


def test_the_fastest_is_taken_and_slow_ones_run_once(network, monkeypatch):
  # Before and after loop, vmap, patches; then of those that are near the fastest.
  stand_in, times = clock(0, 30, 0, 12, 0, 10, *[0, 8, 0, 9] * 2)
  monkeypatch.setattr(task_batching, 'time', stand_in)
  monkeypatch.setattr(task_batching, 'loss_and_gradient',
                      lambda *_: jax.jit(lambda *_: jnp.zeros(())))
  assert task_batching.choose('auto', *network, LONG) == 'vmap'
  assert next(times, None) is None


def test_of_short_steps_a_slow_first_call_does_not_count(network, monkeypatch):
  stand_in, _ = clock(0, 1.9, 0, 0.2, 0, 0.3, *[0, 0.1, 0, 0.2, 0, 0.3] * 2)
  monkeypatch.setattr(task_batching, 'time', stand_in)
  monkeypatch.setattr(task_batching, 'loss_and_gradient',
                      lambda *_: jax.jit(lambda *_: jnp.zeros(())))
  assert task_batching.choose('auto', *network, LONG) == 'loop'


def test_a_batching_that_needs_too_much_memory_is_left_out(network, monkeypatch):
  def loss_and_gradient(backbone, config, batching):
    def call(*_):
      if batching == 'patches':
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
      return jnp.zeros(())
    return jax.jit(call)

  monkeypatch.setattr(task_batching, 'loss_and_gradient', loss_and_gradient)
  assert set(task_batching.measure(*network, CONFIG)) == {'loop', 'vmap'}


def test_an_inner_loop_of_ones_own_is_measured_where_it_adapts_the_network(network, monkeypatch):
  monkeypatch.setattr(inner_loop, 'LOOPS', dict(inner_loop.LOOPS))
  monkeypatch.setattr(task_batching, 'measure', lambda *_: {'loop': 2.0, 'vmap': 1.0})
  for name, adapts_network, expected in (('mine', True, 'vmap'), ('other', False, 'loop')):
    inner_loop.register(name, network_loop.adapt_networks, adapts_network=adapts_network)
    config = changed(LONG, inner={'adapts': name})
    assert task_batching.choose('auto', *network, config) == expected


@pytest.mark.parametrize('choice, config, expected', [
    ('patches', CONFIG, 'patches'), ('auto', dataclasses.replace(CONFIG, steps=49), 'loop'),
    ('auto', dataclasses.replace(CONFIG, steps=1000, learn=Learn(), inner=InnerLoop()), 'loop')])
def test_without_measuring(choice, config, expected, network, monkeypatch):
  monkeypatch.setattr(task_batching, 'measure', lambda *_: pytest.fail('measured'))
  assert task_batching.choose(choice, *network, config) == expected


def test_what_is_refused(network):
  with pytest.raises(ValueError, match="one of auto, loop, vmap, patches, got 'fast'"):
    task_batching.choose('fast', *network, CONFIG)
