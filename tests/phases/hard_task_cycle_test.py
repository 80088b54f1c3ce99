"""The cycle of meta-training: ordinary tasks, then hard tasks of the classes that failed."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import sharding
from mtl_jax.execution import on_device
from mtl_jax.phases import meta_train
from tests.phases import changed
from tests.phases.one_layer import CLASSES, CONFIG, draw, network, outer_step, pool

ROOT = jax.random.key(7)
STEPS, NUM_ORDINARY = 5, 3  # outer steps of a cycle, and those on ordinary tasks


def steps_of(cycles, monkeypatch, config=CONFIG):
  """Runs cycles on one compiled call.

  Returns:
    (state, metrics, [step, classes, failed classes] of each outer step, number of traces).
  """
  backbone, variables = network()
  seen, traces = [], []
  step_on, pmean_and_gather = meta_train.step_on, sharding.pmean_and_gather

  def record(*arrays):
    seen.append([np.asarray(a) for a in arrays])

  def spy(state, failures, tasks, *arguments, **options):
    def meet(means, failed, layout):
      jax.debug.callback(record, state.step, tasks.class_ids, failed, ordered=True)
      return pmean_and_gather(means, failed, layout)

    with monkeypatch.context() as patch:
      patch.setattr(sharding, 'pmean_and_gather', meet)
      return step_on(state, failures, tasks, *arguments, **options)

  def counted(*arguments, **options):
    traces.append(1)
    return meta_train.cycle(*arguments, **options)

  monkeypatch.setattr(meta_train, 'step_on', spy)
  advance = on_device.compiled(counted, ROOT, variables, pool(), backbone=backbone, config=config)
  state = meta_train.init(backbone, variables, config)
  for _ in range(cycles):
    state, metrics = advance(state)
  jax.effects_barrier()
  return state, metrics, seen, len(traces)


@pytest.mark.parametrize('weights', ['counts', 'equal'])
def test_a_cycle_is_ordinary_tasks_then_hard_tasks_of_the_classes_that_failed(monkeypatch, weights):
  cycles = 4
  config = changed(CONFIG, failure_weights=weights)
  state, metrics, seen, traces = steps_of(cycles, monkeypatch, config)
  assert traces == 1 and int(state.step) == STEPS * cycles
  assert [int(s[0]) for s in seen] == list(range(STEPS * cycles))
  assert set(metrics) == {'loss', 'accuracy', 'hard_loss', 'hard_accuracy', 'failure_classes',
                          'most_failed'}
  checked = outside_earlier = most = 0
  earlier = set()
  for first in range(0, STEPS * cycles, STEPS):
    failures = np.zeros(CLASSES, np.int32)
    for t in range(first, first + STEPS):
      is_hard = t - first >= NUM_ORDINARY
      _, classes_of_tasks, failed_of_tasks = seen[t]
      expected = draw(jax.random.fold_in(ROOT, t), failures, is_hard).class_ids
      np.testing.assert_array_equal(classes_of_tasks, expected)
      assert all(len(set(classes)) == 2 for classes in classes_of_tasks)
      assert all(failed in classes for failed, classes in zip(
          failed_of_tasks, classes_of_tasks, strict=True))
      if not is_hard:
        np.add.at(failures, failed_of_tasks, 1)
        most = max(most, failures.max())
        failures = np.minimum(failures, 1) if weights == 'equal' else failures
      elif np.sum(failures > 0) >= CONFIG.way:
        assert np.all(failures[classes_of_tasks] > 0)
        checked += 1
    outside_earlier += len(earlier - set(np.flatnonzero(failures)))
    earlier |= set(np.flatnonzero(failures))
  assert int(metrics['failure_classes']) == np.sum(failures > 0)
  assert int(metrics['most_failed']) == failures.argmax()
  # The collection of one cycle did not hold all of the ones before.
  assert checked >= 6 and outside_earlier > 0 and most > 1


@functools.cache
def compiled_cycle():
  cycle = functools.partial(meta_train.cycle, backbone=network()[0], config=CONFIG)
  return jax.jit(cycle, donate_argnums=0)


def test_cycle_equals_its_outer_steps_one_by_one():
  backbone, variables = network()
  step = jax.jit(functools.partial(outer_step, backbone=backbone, config=CONFIG))
  state, start = (meta_train.init(backbone, variables, CONFIG) for _ in range(2))
  failures, each = np.zeros(CLASSES, np.int32), []
  found, metrics = compiled_cycle()(start, ROOT, variables, pool())
  for t in range(STEPS):
    tasks = draw(jax.random.fold_in(ROOT, t), failures, t >= NUM_ORDINARY)
    state, values, failed = step(state, variables, tasks)
    each.append(values)
    if t < NUM_ORDINARY:
      np.add.at(failures, np.asarray(failed), 1)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
               found.meta_params, state.meta_params)
  for name in ('loss', 'accuracy'):
    for prefix, part in (('', each[:NUM_ORDINARY]), ('hard_', each[NUM_ORDINARY:])):
      expected = np.mean([values[name] for values in part])
      np.testing.assert_allclose(metrics[prefix + name], expected, rtol=1e-3)


def test_cycle_without_hard_tasks(monkeypatch):
  state, metrics, seen, _ = steps_of(1, monkeypatch, changed(CONFIG, num_hard_tasks=0))
  assert int(state.step) == len(seen) == 3 and set(metrics) == {'loss', 'accuracy'}


def test_resuming_donation_and_a_backbone_that_stays():
  backbone, variables = network()
  before = jax.tree.map(np.array, variables)
  jitted = compiled_cycle()
  arguments = (ROOT, variables, pool())
  start = meta_train.init(backbone, variables, CONFIG)
  middle, _ = jitted(start, *arguments)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
  on_host = jax.tree.map(np.array, middle)
  end, metrics = jitted(middle, *arguments)
  assert int(on_host.step) == 5 and int(end.step) == 10 and jitted._cache_size() == 1
  resumed, resumed_metrics = jitted(jax.tree.map(jnp.asarray, on_host), *arguments)
  jax.tree.map(np.testing.assert_array_equal, (end, metrics), (resumed, resumed_metrics))
  jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, variables))
  assert np.any(np.asarray(end.meta_params.scale_shift['conv']['scale']) != 1)
