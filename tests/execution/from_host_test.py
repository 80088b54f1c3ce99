"""The phases over images on the host against those in memory: same images, same parameters."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import scale_shift
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.execution import from_host, on_device, readers
from mtl_jax.phases import encoding, meta_test, meta_train, pretrain
from mtl_jax.types import BaseLearner, MetaParams
from tests.execution.both_rooms import META, PLAIN, meta_training, pretraining, run
from tests.execution.toy_phases import ROOT, mapped_pool, network
from tests.phases import changed

TEST = MetaTestConfig(num_tasks=12, way=3, shot=2, query=3, inner=InnerLoop(lr=0.1, steps=5))


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
  return mapped_pool(tmp_path_factory.mktemp('images'))


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found, expected):
  # The same parameters to 1e-6: XLA is free to round the steps of a scan otherwise.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
               found, expected)


def record(monkeypatch, module, pick):
  """Keeps what each `step_on` of a phase is given: number of the step -> arrays."""
  seen, original = {}, module.step_on

  def keep(step, *arrays):
    seen[int(step)] = jax.tree.map(np.array, arrays)

  def spy(state, *arguments, **options):
    jax.debug.callback(keep, state.step, *pick(arguments), ordered=True)
    return original(state, *arguments, **options)

  monkeypatch.setattr(module, 'step_on', spy)
  return seen


def both(monkeypatch, phase, pool, module, pick, **options):
  """[states in memory, what its steps were given, states from the host, what its steps ...]."""
  results = []
  for room in (on_device, from_host):
    with monkeypatch.context() as patch:
      seen = record(patch, module, pick)
      after = run(phase, room, pool, **options)
      jax.effects_barrier()
      results += [after, seen]
  return results


def tasks_and_hard(arguments):
  """Of the arguments of `meta_train.step_on` behind the state."""
  _, tasks, _, _, _, hard = arguments
  return *tasks, hard


def test_meta_training(pool, monkeypatch):
  expected, seen, found, streamed_seen = both(monkeypatch, meta_training, pool, meta_train,
                                              tasks_and_hard, config=META)
  assert list(seen) == list(streamed_seen) == list(range(15))
  assert int(found[-1][0].step) == 15
  for step in range(15):
    assert seen[step][0].dtype == np.uint8 and seen[step][0].shape == (2, 3, 16, 16, 3)
    assert_equal(streamed_seen[step], seen[step])
  hard = [bool(streamed_seen[step][-1]) for step in range(15)]
  assert hard == 3 * [False, False, False, True, True]
  assert found[-1][1].keys() == {'loss', 'accuracy', 'hard_loss', 'hard_accuracy',
                                      'failure_classes', 'most_failed'}
  assert_close(found, expected)
  assert np.abs(found[-1][0].meta_params.scale_shift['block1']['conv']['scale'] - 1).max() > 1e-2


def test_meta_training_without_hard_tasks(pool, monkeypatch):
  seen = record(monkeypatch, meta_train, lambda arguments: arguments[1])
  config = dataclasses.replace(PLAIN, num_hard_tasks=0)
  found = run(meta_training, from_host, pool, calls=2, config=config)
  jax.effects_barrier()
  read = readers.ordinary_tasks(ROOT, pool, config)
  assert list(seen) == list(range(6))
  for step, tasks in seen.items():
    assert_equal(tasks, tuple(read(step)))
  assert [metrics.keys() for _, metrics in found] == [{'loss', 'accuracy'}] * 2


def test_pretraining(pool, monkeypatch):
  expected, seen, found, streamed_seen = both(monkeypatch, pretraining, pool, pretrain,
                                              lambda arguments: arguments[:2])
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

  def float32(x):
    return jnp.asarray(x, jnp.float32)

  phi = jax.tree.map(lambda x: float32(x + 0.3 * rng.normal(size=x.shape)),
                     scale_shift.init(variables.params, backbone.scaled_layers))
  shapes = ((backbone.feature_dim, 3), 3)
  theta = BaseLearner(*(float32(rng.normal(size=shape)) for shape in shapes))
  return MetaParams(phi, {}, theta, {}, {}), variables


@pytest.mark.parametrize('config', [
    TEST, meta_test.apply_protocol(TEST, 'paper'), changed(TEST, inner={'adapts': 'last_block'})],
    ids=['encoded', 'paper', 'last_block'])
def test_meta_test(pool, monkeypatch, config):
  monkeypatch.setattr(encoding, 'IMAGES_PER_PASS', 20)  # 48 images: two chunks and a rest
  keys = meta_test.task_keys(ROOT, TEST.num_tasks)
  expected, score = (room.scorer(pool, keys, backbone=network()[0], config=config)
                     for room in (on_device, from_host))
  found = np.asarray(score(*learned()))
  assert found.shape == (12,) and found.dtype == np.float32 and len(set(found)) > 2
  np.testing.assert_array_equal(found, expected(*learned()))  # shares of few queries
  np.testing.assert_array_equal(found, score(*learned()))  # a second time, as in validation


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
  message = 'expected images as a NumPy array on the host, got ArrayImpl'
  with pytest.raises(ValueError, match=message):
    run(pretraining, from_host, placed, calls=1)
  assert from_host.place(pool) is pool
