"""Eight devices against one: the same episodes bit for bit, the same parameters to rounding, one all-reduce a step."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import episodes, scale_shift, sharding
from mtl_jax.execution import from_host, on_device
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import MEAN, STD, smooth_features, smooth_network, toy_pool

ROOT = jax.random.key(9)
POOL = toy_pool([6, 9, 7, 5, 8, 6, 7, 7])  # 55 images: the parts of 8 devices do not go even
META = meta_train.MetaTrainConfig(steps=10, way=3, shot=1, query=3, meta_batch=8, ordinary_tasks=24, hard_tasks=16,
                                  inner_lr=0.1, inner_steps=2, crop_padding=2)  # two cycles of 5 steps
PRE = pretrain.PretrainConfig(steps=10, batch_size=16, lr=0.1, crop_padding=2, color=0.3, steps_per_call=5)
TEST = meta_test.MetaTestConfig(num_tasks=12, way=3, shot=2, query=3, inner_lr=0.1, inner_steps=5)
LAYOUTS = [(2, 'replicated'), (8, 'replicated'), (8, 'sharded')]


@functools.cache
def network():
  """A toy network that can be pre-trained, too; its batch norm needs all of the batch."""
  backbone, variables = smooth_network()
  variables = jax.tree.map(lambda x: np.asarray(x, np.float32), variables)

  def train_features(variables, images):
    stats = jax.tree.map(lambda x: 0.9 * x + 0.1 * jnp.var(images), variables.batch_stats)
    return smooth_features(variables, images, batch_stats_mode='batch'), stats

  return backbone._replace(init=lambda key: variables, train_features=train_features), variables


def layout_of(num, pool='replicated'):
  return sharding.layout(num, pool)


def prepared(phase, loops, layout):
  """(context of `advance`, state at the start)."""
  backbone, variables = network()
  if phase == 'meta_train':
    state = meta_train.init(backbone, variables, META)
    advance = loops.meta_training(ROOT, variables, POOL, MEAN, STD, backbone=backbone, config=META, layout=layout)
  else:
    state = pretrain.init(jax.random.key(0), backbone, len(POOL.class_sizes), PRE)
    advance = loops.pretraining(ROOT, POOL, MEAN, STD, backbone=backbone, config=PRE, layout=layout)
  return advance, sharding.replicate(jax.tree.map(np.array, state), layout)


def ten_steps(phase, loops, layout):
  """Two calls: (state, metrics), as NumPy arrays."""
  context, state = prepared(phase, loops, layout)
  with context as advance:
    for _ in range(2):
      state, metrics = advance(state)
  return jax.tree.map(np.array, (state, metrics))


@functools.cache
def on_one(phase):
  return ten_steps(phase, on_device, None)


def assert_close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


# --- The pieces, against NumPy. ---

@pytest.mark.parametrize('num, pool', LAYOUTS)
def test_the_same_key_draws_the_same_images(num, pool):
  layout, shape = layout_of(num, pool), {'way': 3, 'shot': 1, 'query': 3}
  drawn = episodes.draw_meta_batch(ROOT, POOL, np.zeros(8, np.int32), False, tasks=8, **shape)

  def own_tasks(pool, key, layout):
    drawn = episodes.draw_meta_batch(key, pool, jnp.zeros(8, jnp.int32), False, tasks=8, **shape)
    own = jax.vmap(lambda task: episodes.gather(pool.images, task, shot=1, layout=layout))(sharding.own(drawn, layout))
    assert own.query_images.shape[0] == 8 // num
    return jax.tree.map(lambda x: sharding.everyone(x, 8, layout), own)

  found = jax.jit(sharding.on_each(own_tasks, layout, pools=(0,)))(
      sharding.place_pool(POOL, layout), sharding.replicate(ROOT, layout))
  np.testing.assert_array_equal(found.class_ids, drawn.class_ids)
  support, query = np.split(np.asarray(drawn.indices), [1], axis=2)
  for images, places in ((found.support_images, support), (found.query_images, query)):
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, POOL.images[places.reshape(8, -1)])


def test_a_sharded_pool_lies_in_equal_parts():
  placed = sharding.place_pool(POOL, layout_of(8, 'sharded')).images
  assert placed.shape == (56, 16, 16, 3) and {s.data.shape[0] for s in placed.addressable_shards} == {7}
  np.testing.assert_array_equal(placed, np.concatenate([POOL.images, np.zeros_like(POOL.images[:1])]))


def test_rows_and_means_meet():
  layout = layout_of(8)
  values, numbers = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), np.arange(16, dtype=np.int32) ** 2

  def work(values, numbers, layout):
    own = sharding.own((values, numbers), layout)
    return sharding.meet({'mean': own[0].mean(0)}, own[1], layout)

  means, rows = jax.jit(sharding.on_each(work, layout))(values, numbers)
  np.testing.assert_allclose(means['mean'], values.mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(rows, numbers)
  assert rows.dtype == np.int32


# --- The phases. ---

@pytest.mark.parametrize('num, pool', [(2, 'replicated'), (8, 'sharded')])
def test_meta_training_in_memory(num, pool):
  found, expected = ten_steps('meta_train', on_device, layout_of(num, pool)), on_one('meta_train')
  assert int(found[0].step) == 10
  assert_close(found, expected)
  assert np.abs(found[0].meta_params.scale_shift['block1']['conv']['scale'] - 1).max() > 1e-3


@pytest.mark.parametrize('num', [1, 8])
@pytest.mark.parametrize('phase, module, loop', [('meta_train', meta_train, 'cycle'),
                                                 ('pretrain', pretrain, 'many_steps')])
def test_the_steady_loop_is_donated_compiled_once_and_transfers_nothing(phase, module, loop, num, monkeypatch):
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


def test_one_all_reduce_per_step_in_the_compiled_program():
  layout, (backbone, variables) = layout_of(8), network()
  state = sharding.replicate(meta_train.init(backbone, variables, META), layout)
  cycle = functools.partial(sharding.on_each(meta_train.cycle, layout, pools=(3,)), backbone=backbone, config=META)
  lowered = jax.jit(cycle).lower(state, *sharding.replicate((ROOT, variables), layout),
                                 sharding.place_pool(POOL, layout), *sharding.replicate((MEAN, STD), layout))
  program = lowered.compile().as_text()
  kinds = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
  found = re.findall(rf'= (.*) ({kinds})(?:-start)?\(', program)
  # The gradient, loss, accuracy and failure class of each task, as one vector, within the loop over the 5 steps.
  numbers = sum(leaf.size for leaf in jax.tree.leaves(state.meta_params)) + 2 + 8
  assert [(shape.split('{')[0], kind) for shape, kind in found] == [(f'f32[{numbers}]', 'all-reduce')]
  assert len(re.findall(r' while\(.*trip_count\D*5\D', program)) >= 1


@pytest.mark.parametrize('pool', sharding.POOLS)
def test_pretraining_in_memory(pool):
  found, expected = ten_steps('pretrain', on_device, layout_of(8, pool)), on_one('pretrain')
  assert_close(found, expected)
  assert np.abs(found[0].head[0].kernel).max() > 1e-2


@pytest.mark.parametrize('phase', ['meta_train', 'pretrain'])
def test_streamed(phase):
  assert_close(ten_steps(phase, from_host, layout_of(8)), on_one(phase))


@pytest.mark.parametrize('settings', [{}, meta_test.protocol_settings('paper', 2)], ids=['encoded', 'paper'])
def test_meta_test(settings, monkeypatch):
  monkeypatch.setattr(meta_test, 'IMAGES_PER_PASS', 3)
  backbone, variables = network()
  rng = np.random.default_rng(2)
  phi = jax.tree.map(lambda x: np.float32(x + 0.3 * rng.normal(size=x.shape)),
                     scale_shift.init(variables.params, backbone.scaled_layers))
  theta = BaseLearner(*(np.float32(rng.normal(size=shape)) for shape in ((backbone.feature_dim, 3), 3)))

  def accuracies(loops, layout):
    score = loops.scorer(POOL, MEAN, STD, meta_test.task_keys(ROOT, TEST.num_tasks), backbone=backbone,
                         config=TEST._replace(**settings), layout=layout)
    return np.asarray(score(MetaParams(phi, {}, theta, {}), variables))

  expected = accuracies(on_device, None)
  assert expected.shape == (12,) and len(set(expected)) > 2
  for loops, layout in ((on_device, layout_of(8)), (on_device, layout_of(8, 'sharded')), (from_host, layout_of(8))):
    np.testing.assert_array_equal(accuracies(loops, layout), expected)  # shares of few queries


def test_a_checkpoint_of_eight_devices_resumes_on_any_number(tmp_path):
  state = meta_train.init(*network(), META)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, sharding.replicate(state, layout_of(8)))
    for num in (1, 2):
      like = sharding.replicate(jax.tree.map(jnp.zeros_like, state), layout_of(num))
      step, found = checkpoints.restore_latest(like)
      assert step == 5
      jax.tree.map(np.testing.assert_array_equal, found, state)
      assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(found)} == {num}


# --- What is refused. ---

def test_what_cannot_be_spread():
  assert layout_of(1) is None and layout_of(None) is None and layout_of('all').size == 8
  with pytest.raises(ValueError, match='expected meta_batch to be a multiple of the number of devices, 8, got 2; '
                                       'choose another --meta_batch or --devices'):
    sharding.check_divisible('meta_batch', 2, layout_of(8))
  sharding.check_divisible('meta_batch', 16, layout_of(8))
  for num in (9, 0, 'two', '-1'):
    with pytest.raises(ValueError, match="expected devices to be 'all' or from 1 to 8, .* got"):
      layout_of(str(num))
  with pytest.raises(ValueError, match='expected pool to be one of replicated, sharded, got .mirrored'):
    layout_of(8, 'mirrored')
