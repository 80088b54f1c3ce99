"""The phases over images on the host against the same phases in memory: the same images, the same parameters."""
import contextlib
import functools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import scale_shift
from mtl_jax.execution import from_host, on_device, read_ahead
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import BaseLearner, MetaParams
from tests.phases import MEAN, STD, smooth_features, smooth_network, toy_pool

ROOT = jax.random.key(9)
SIZES = [6, 9, 7, 5, 8, 6, 7]
META = meta_train.MetaTrainConfig(steps=14, way=3, shot=1, query=3, ordinary_tasks=6, hard_tasks=4, inner_lr=0.1,
                                  inner_steps=2, crop_padding=2, outer_lr=0.01)  # three cycles of 5 steps
PLAIN = META._replace(crop_padding=0, flip=False)  # compiles faster
PRE = pretrain.PretrainConfig(steps=8, batch_size=8, lr=0.2, crop_padding=2, color=0.3, steps_per_call=3)
TEST = meta_test.MetaTestConfig(num_tasks=12, way=3, shot=2, query=3, inner_lr=0.1, inner_steps=5)


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
  """The toy pool in a file, mapped read-only."""
  path = tmp_path_factory.mktemp('images') / 'images.npy'
  in_ram = toy_pool(SIZES)
  np.save(path, in_ram.images)
  return in_ram._replace(images=np.load(path, mmap_mode='r'))


@functools.cache
def network():
  """A toy network that can be pre-trained, too."""
  backbone, variables = smooth_network()
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)

  def train_features(variables, images):
    stats = jax.tree.map(lambda x: 0.9 * x + 0.1 * jnp.mean(images), variables.batch_stats)
    return smooth_features(variables, images, batch_stats_mode='batch'), stats

  return backbone._replace(init=lambda key: variables, train_features=train_features), variables


def meta_training(loops, pool, config=PLAIN):
  backbone, variables = network()
  return loops.meta_training(ROOT, variables, pool, MEAN, STD, backbone=backbone, config=config)


def pretraining(loops, pool, config=PRE):
  return loops.pretraining(ROOT, pool, MEAN, STD, backbone=network()[0], config=config)


def copied(tree):
  """Survives donation."""
  return jax.tree.map(lambda x: jnp.asarray(np.array(x)), tree)


def start(phase):
  backbone, variables = network()
  if phase is meta_training:
    return copied(meta_train.init(backbone, variables, META))
  return copied(pretrain.init(jax.random.key(0), backbone, len(SIZES), PRE))


def run(phase, loops, pool, calls=3, state=None, **options):
  """Runs calls of `advance`: [(state, metrics) after each], as NumPy arrays."""
  after, state = [], start(phase) if state is None else copied(state)
  with phase(loops, pool, **options) as advance:
    for _ in range(calls):
      state, metrics = advance(state)
      after.append(jax.tree.map(np.array, (state, metrics)))
  return after


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected)


# --- The same images bit for bit. The same parameters to 1e-6: XLA is free to round the steps of a scan otherwise. ---

def record(monkeypatch, module, pick):
  """Keeps what each `step_on` of a phase is given: number of the step -> arrays."""
  seen, original = {}, module.step_on

  def spy(state, *arguments, **options):
    jax.debug.callback(lambda step, *arrays: seen.update({int(step): jax.tree.map(np.array, arrays)}), state.step,
                       *pick(arguments), ordered=True)
    return original(state, *arguments, **options)

  monkeypatch.setattr(module, 'step_on', spy)
  return seen


def both(monkeypatch, phase, pool, module, pick, **options):
  results = []
  for loops in (on_device, from_host):
    with monkeypatch.context() as patch:
      seen = record(patch, module, pick)
      after = run(phase, loops, pool, **options)
      jax.effects_barrier()
      results += [after, seen]
  return results


def test_meta_training(pool, monkeypatch):
  expected, seen, found, streamed_seen = both(monkeypatch, meta_training, pool, meta_train, lambda a: (*a[1], a[6]),
                                              config=META)
  assert list(seen) == list(streamed_seen) == list(range(15)) and int(found[-1][0].step) == 15
  for step in range(15):
    assert seen[step][0].dtype == np.uint8 and seen[step][0].shape == (2, 3, 16, 16, 3)
    assert_equal(streamed_seen[step], seen[step])
  assert [bool(streamed_seen[step][-1]) for step in range(15)] == 3 * [False, False, False, True, True]
  assert found[-1][1].keys() == {'loss', 'accuracy', 'hard_loss', 'hard_accuracy'}
  assert_close(found, expected)
  assert np.abs(found[-1][0].meta_params.scale_shift['block1']['conv']['scale'] - 1).max() > 1e-2


def test_meta_training_without_hard_tasks(pool, monkeypatch):
  seen = record(monkeypatch, meta_train, lambda a: a[1])
  found = run(meta_training, from_host, pool, calls=2, config=PLAIN._replace(hard_tasks=0))
  jax.effects_barrier()
  read = read_ahead.ordinary_reader(ROOT, pool, tasks=2, way=3, shot=1, query=3)
  assert list(seen) == list(range(6))
  for step, tasks in seen.items():
    assert_equal(tasks, tuple(read(step)))
  assert [metrics.keys() for _, metrics in found] == [{'loss', 'accuracy'}] * 2


def test_pretraining(pool, monkeypatch):
  expected, seen, found, streamed_seen = both(monkeypatch, pretraining, pool, pretrain, lambda a: a[:2])
  assert list(seen) == list(streamed_seen) == list(range(9)) and int(found[-1][0].step) == 9
  for step in range(9):
    assert seen[step][0].dtype == np.uint8
    assert_equal(streamed_seen[step], seen[step])
  assert len({images.tobytes() for images, _ in seen.values()}) == 9
  assert_close(found, expected)
  assert np.abs(found[-1][0].head[0].kernel).max() > 1e-2


def learned():
  backbone, variables = network()
  rng = np.random.default_rng(2)
  phi = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32),
                     scale_shift.init(variables.params, backbone.scaled_layers))
  theta = BaseLearner(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((backbone.feature_dim, 3), 3)))
  return MetaParams(phi, {}, theta, {}), variables


@pytest.mark.parametrize('settings', [
    {}, meta_test.protocol_settings('paper', 2), {'adapts': 'last_block'}], ids=['encoded', 'paper', 'last_block'])
def test_meta_test(pool, monkeypatch, settings):
  monkeypatch.setattr(from_host.meta_test, 'IMAGES_PER_PASS', 20)  # 48 images: two chunks and a rest
  config = TEST._replace(**settings)
  arguments = (pool, MEAN, STD, meta_test.task_keys(ROOT, TEST.num_tasks))
  expected, score = (loops.scorer(*arguments, backbone=network()[0], config=config) for loops in (on_device, from_host))
  found = np.asarray(score(*learned()))
  assert found.shape == (12,) and found.dtype == np.float32 and len(set(found)) > 2
  np.testing.assert_array_equal(found, expected(*learned()))  # shares of few queries
  np.testing.assert_array_equal(found, score(*learned()))  # a second time, as in validation


# --- Resuming, ends, bounds. ---

@contextlib.contextmanager
def threads_end():
  before = set(threading.enumerate())
  yield
  end = time.monotonic() + 10
  while not set(threading.enumerate()) <= before and time.monotonic() < end:
    time.sleep(0.01)
  assert set(threading.enumerate()) <= before


class _Interrupted(Exception):
  """Something in the loop around `advance`."""


@pytest.mark.parametrize('phase, streams', [(meta_training, 2), (pretraining, 1)])
def test_resumed_and_stopped_early(pool, monkeypatch, phase, streams):
  unbroken = run(phase, from_host, pool)
  opened, original = [], read_ahead.stream

  def spy(*arguments, **options):
    opened.append(original(*arguments, **options))
    return opened[-1]

  monkeypatch.setattr(read_ahead, 'stream', spy)
  state = copied(unbroken[0][0])
  with threads_end(), pytest.raises(_Interrupted), phase(from_host, pool) as advance:
    resumed = advance(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))  # donated
    raise _Interrupted
  assert len(opened) == streams and all(stream.gi_frame is None for stream in opened)  # closed
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(network()[1]))
  assert_equal(resumed, unbroken[1])  # bitwise
  assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(unbroken[1]), jax.tree.leaves(unbroken[2]), strict=True))


def test_a_run_that_takes_no_step_opens_no_stream(pool, monkeypatch):
  monkeypatch.setattr(read_ahead, 'stream', None)
  with threads_end(), meta_training(from_host, pool) as advance:
    assert callable(advance)


@pytest.mark.parametrize('kind', ['ordinary', 'drawn'])
def test_images_that_cannot_be_read_end_the_run_and_its_streams(pool, monkeypatch, kind):
  def read(number):
    raise OSError(5, 'Input/output error')

  monkeypatch.setattr(read_ahead, f'{kind}_reader', lambda *_, **__: read)
  with threads_end(), pytest.raises(OSError, match='item 0 of the stream could not be read.*Input/output error'):
    run(meta_training, from_host, pool, calls=1)


def test_the_host_waits_for_all_but_the_newest_result():
  class Result:
    waited = 0

    def block_until_ready(self):
      self.waited += 1
      return self

  results, made = [], [Result() for _ in range(4)]
  for count, result in enumerate(made):
    from_host._append(results, result)
    assert [bool(r.waited) for r in results] == [True] * count + [False]
  assert results == made


def test_images_on_the_device_are_refused(pool):
  placed = on_device.place(pool)
  with pytest.raises(ValueError, match='expected images as a NumPy array on the host, got ArrayImpl'):
    run(pretraining, from_host, placed, calls=1)
