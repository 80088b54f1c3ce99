"""Eight devices against one: the same parameters to rounding, and one all-reduce a step."""
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import scale_shift, sharding
from mtl_jax.configs import InnerLoop, Learn, MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.execution import from_host, on_device, placement
from mtl_jax.phases import encoding, meta_test, meta_train, pretrain
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import BaseLearner, MetaParams
from tests.backbones import public_networks_test
from tests.execution.toy_phases import ROOT, network
from tests.phases import toy_pool

POOL = toy_pool([6, 9, 7, 5, 8, 6, 7, 7])  # 55 images: the parts of 8 devices do not go even
# Two cycles of 5 steps.
META = MetaTrainConfig(steps=10, way=3, shot=1, query=3, meta_batch=8, num_ordinary_tasks=24,
                       num_hard_tasks=16, crop_padding=2, inner=InnerLoop(lr=0.1, steps=2))
PRE = PretrainConfig(steps=10, batch_size=16, lr=0.1, crop_padding=2, color=0.3, steps_per_call=5)
TEST = MetaTestConfig(num_tasks=12, way=3, shot=2, query=3, inner=InnerLoop(lr=0.1, steps=5))
layout_of = sharding.make_layout


def prepared(phase, room, layout):
  """(context of `advance`, state at the start); `room` is on_device or from_host."""
  backbone, variables = network()
  if phase == 'meta_train':
    state = meta_train.init(backbone, variables, META)
    advance = room.meta_training(ROOT, variables, POOL, backbone=backbone, config=META,
                                 layout=layout)
  else:
    state = pretrain.init(jax.random.key(0), backbone, len(POOL.class_sizes), PRE)
    advance = room.pretraining(ROOT, POOL, backbone=backbone, config=PRE, layout=layout)
  return advance, placement.replicate(jax.tree.map(np.array, state), layout)


def ten_steps(phase, room, layout):
  """Two calls: (state, metrics), as NumPy arrays."""
  context, state = prepared(phase, room, layout)
  with context as advance:
    for _ in range(2):
      state, metrics = advance(state)
  return jax.tree.map(np.array, (state, metrics))


@functools.cache
def on_one(phase):
  return ten_steps(phase, on_device, None)


def assert_close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize('num, pool', [
    pytest.param(2, 'replicated', marks=pytest.mark.slow), (8, 'sharded')])
def test_meta_training_in_memory(num, pool):
  found = ten_steps('meta_train', on_device, layout_of(num, pool))
  assert int(found[0].step) == 10
  assert_close(found, on_one('meta_train'))
  assert np.abs(found[0].meta_params.scale_shift['block1']['conv']['scale'] - 1).max() > 1e-3


@pytest.mark.parametrize('num', [pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize('phase, module, loop', [('meta_train', meta_train, 'cycle'),
                                                 ('pretrain', pretrain, 'many_steps')])
def test_the_steady_loop_is_donated_compiled_once_and_transfers_nothing(
    phase, module, loop, num, monkeypatch):
  original, traced = getattr(module, loop), []

  def counted(*arguments, **options):
    traced.append(1)  # Python runs through it to compile it
    return original(*arguments, **options)

  monkeypatch.setattr(module, loop, counted)
  context, state = prepared(phase, on_device, layout_of(num))
  with context as advance:
    middle, _ = advance(state)
    with jax.transfer_guard('disallow_explicit'):
      with pytest.raises(jax.errors.JaxRuntimeError, match='host-to-device'):
        jax.device_put(np.zeros(1))  # the guard works
      end = jax.block_until_ready(advance(middle))
  assert len(traced) == 1
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, middle)))
  assert_close(jax.tree.map(np.array, end), on_one(phase))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['efficientnet_lite0', 'vit_small_16'])
@pytest.mark.parametrize('room', [on_device, from_host])
def test_a_large_network_on_four_devices_learns_what_it_does_on_one(name, room):
  backbone, variables, _ = public_networks_test.network(name)  # of 32 pixels, narrow
  variables = variables._replace(params=jax.tree.map(  # else all features are nearly the same
      lambda x: 2 * x if x.ndim > 1 else x, variables.params))
  times = 32 // POOL.images.shape[1]
  pool = POOL._replace(images=np.repeat(np.repeat(POOL.images, times, 1), times, 2))
  config = dataclasses.replace(META, learn=Learn(scale_per='channel'), microbatch=1)

  def learned(layout):
    state = placement.replicate(jax.tree.map(
        np.array, meta_train.init(backbone, variables, config)), layout)
    with room.meta_training(ROOT, variables, pool, backbone=backbone, config=config,
                            layout=layout) as advance:
      return jax.tree.map(np.array, advance(state))

  (one, metrics), (four, metrics_of_four) = learned(None), learned(layout_of(4))
  assert_close(metrics_of_four, metrics)
  # The averages of the gradients: Adam makes parameters of the rounding of gradients near zero.
  first, of_four = (jax.tree.leaves(state.opt_state[0].mu) for state in (one, four))
  largest = max(np.abs(leaf).max() for leaf in first)
  for a, b in zip(first, of_four, strict=True):
    np.testing.assert_allclose(b, a, atol=3e-4 * largest)  # rounding crosses kinks of ReLU6
  gains = jax.tree.leaves(one.meta_params.scale_shift)
  assert max(np.abs(gain - np.round(gain)).max() for gain in gains) > 1e-4  # they moved


def test_one_all_reduce_per_step_in_the_compiled_program():
  layout, (backbone, variables) = layout_of(8), network()
  state = placement.replicate(meta_train.init(backbone, variables, META), layout)
  cycle = functools.partial(sharding.per_device(meta_train.cycle, layout, pools=(3,)),
                            backbone=backbone, config=META)
  lowered = jax.jit(cycle).lower(state, *placement.replicate((ROOT, variables), layout),
                                 placement.place_pool(POOL, layout))
  program = lowered.compile().as_text()
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
  found = re.findall(rf'= (.*) ({kinds})(?:-start)?\(', program)
  # The gradient, loss, accuracy and failure class of each task, as one vector, within the loop over
  # the 5 steps.
  numbers = sum(leaf.size for leaf in jax.tree.leaves(state.meta_params)) + 2 + 8
  shapes = [(shape.split('{')[0], kind) for shape, kind in found]
  assert shapes == [(f'f32[{numbers}]', 'all-reduce')]
  assert len(re.findall(r' while\(.*trip_count\D*5\D', program)) >= 1


@pytest.mark.parametrize('pool', ['replicated', 'sharded'])
def test_pretraining_in_memory(pool):
  found = ten_steps('pretrain', on_device, layout_of(8, pool))
  assert_close(found, on_one('pretrain'))
  assert np.abs(found[0].head[0].kernel).max() > 1e-2


@pytest.mark.parametrize('phase', ['meta_train', 'pretrain'])
def test_streamed(phase):
  assert_close(ten_steps(phase, from_host, layout_of(8)), on_one(phase))


@pytest.mark.parametrize('config', [
    pytest.param(TEST, id='encoded'),
    pytest.param(meta_test.apply_protocol(TEST, 'paper'), id='paper', marks=pytest.mark.slow)])
def test_meta_test(config, monkeypatch):
  monkeypatch.setattr(encoding, 'IMAGES_PER_PASS', 3)
  backbone, variables = network()
  rng = np.random.default_rng(2)
  phi = jax.tree.map(lambda x: np.float32(x + 0.3 * rng.normal(size=x.shape)),
                     scale_shift.init(variables.params, backbone.scaled_layers))
  theta = BaseLearner(*(np.float32(rng.normal(size=shape))
                        for shape in ((backbone.feature_dim, 3), 3)))
  meta_params = MetaParams(phi, {}, theta, {}, {})

  def accuracies(room, layout):
    keys = meta_test.task_keys(ROOT, TEST.num_tasks)
    score = room.scorer(POOL, keys, backbone=backbone, config=config, layout=layout)
    return np.asarray(score(meta_params, variables))

  expected = accuracies(on_device, None)
  assert expected.shape == (12,) and len(set(expected)) > 2
  for room, layout in ((on_device, layout_of(8)), (on_device, layout_of(8, 'sharded')),
                       (from_host, layout_of(8))):
    np.testing.assert_array_equal(accuracies(room, layout), expected)  # shares of few queries


def test_a_checkpoint_of_eight_devices_resumes_on_any_number(tmp_path):
  state = meta_train.init(*network(), META)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, placement.replicate(state, layout_of(8)))
    for num in (1, 2):
      like = placement.replicate(jax.tree.map(jnp.zeros_like, state), layout_of(num))
      step, found = checkpoints.restore_latest(like)
      assert step == 5
      jax.tree.map(np.testing.assert_array_equal, found, state)
      assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(found)} == {num}
