"""The host's loop on a toy state: resuming, best against newest, a loss that is not finite."""
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.runs import fit as fit_module
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import Score


class State(NamedTuple):
  step: jax.Array
  value: jax.Array


def start():
  return State(jnp.int32(0), jnp.float32([1.0, 0.5]))


def advance_by(steps, *, fail_at=None, nan_at=None):
  """A call of some steps that decay the value; raises, or returns NaN, from a step on."""
  def advance(state):
    step = int(state.step) + steps
    if fail_at is not None and step >= fail_at:
      raise KeyboardInterrupt
    loss = jnp.nan if nan_at is not None and step >= nan_at else jnp.sum(state.value)
    later = State(state.step + steps, state.value * 0.9 ** steps)
    return later, {'loss': loss, 'accuracy': jnp.float32(0.5)}

  return advance


def validate(state):
  """Highest at step 12."""
  return Score(1 - abs(int(state.step) - 12) / 100, int(state.step) / 1000)


def fit(workdir, advance, *, num_steps=20, validate_every=4, validate=validate, state=None):
  state = start() if state is None else state
  return fit_module.fit(state, advance, validate, phase='toy', num_steps=num_steps,
                        validate_every=validate_every, workdir=workdir)


def lines(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def test_the_best_snapshot_is_returned_and_the_newest_kept(tmp_path):
  fitted = fit(tmp_path, advance_by(2))
  assert (fitted.step, int(fitted.state.step), fitted.resumed_from) == (12, 12, 0)
  assert fitted.score == (1.0, 0.012) and fitted.seconds > 0
  np.testing.assert_allclose(fitted.state.value, [0.9 ** 12, 0.5 * 0.9 ** 12], rtol=1e-5)
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    step, newest = checkpoints.restore_latest(start())
    assert step == 20 and int(newest.step) == 20


def test_metrics_of_every_call_and_every_validation(tmp_path):
  fit(tmp_path, advance_by(2))
  found = lines(tmp_path)
  assert [line['step'] for line in found if 'loss' in line] == list(range(2, 21, 2))
  np.testing.assert_allclose([line['loss'] for line in found if 'loss' in line],
                             1.5 * 0.9 ** np.arange(0, 20, 2), rtol=1e-5)
  validated = [(line['step'], line['validation_accuracy']) for line in found if 'loss' not in line]
  assert validated == [(step, 1 - abs(step - 12) / 100) for step in range(0, 21, 4)]
  assert {line['phase'] for line in found} == {'toy'}


def test_validation_is_rounded_up_to_a_call_and_ends_the_run(tmp_path):
  fit(tmp_path, advance_by(3), num_steps=11, validate_every=5)
  assert [line['step'] for line in lines(tmp_path) if 'loss' not in line] == [0, 6, 12]


def test_a_run_that_never_improves_returns_its_first_state(tmp_path):
  fitted = fit(tmp_path, advance_by(2), num_steps=8,
               validate=lambda state: Score(0.5 - int(state.step) / 100))
  assert (fitted.step, fitted.score) == (0, (0.5, None))
  np.testing.assert_array_equal(fitted.state.value, start().value)


@pytest.mark.parametrize('fail_at, resumed_from', [(2, 0), (6, 4), (14, 12), (20, 16)])
def test_an_interrupted_run_ends_as_the_unbroken_one(tmp_path, fail_at, resumed_from):
  unbroken = fit(tmp_path / 'unbroken', advance_by(2))
  with pytest.raises(KeyboardInterrupt):
    fit(tmp_path / 'broken', advance_by(2, fail_at=fail_at))
  resumed = fit(tmp_path / 'broken', advance_by(2))
  assert resumed.resumed_from == resumed_from and resumed[1:3] == unbroken[1:3]
  np.testing.assert_array_equal(resumed.state.value, unbroken.state.value)
  folders = [tmp_path / name for name in ('unbroken', 'broken')]
  metrics = [(folder / 'metrics.jsonl').read_bytes() for folder in folders]
  assert metrics[0] == metrics[1]
  newest = [Checkpoints(folder / 'checkpoints').restore_latest(start())[1] for folder in folders]
  jax.tree.map(np.testing.assert_array_equal, *newest)


def test_a_finished_run_is_not_run_again(tmp_path):
  first = fit(tmp_path, advance_by(2))
  before = (tmp_path / 'metrics.jsonl').read_bytes()

  def never(state):
    raise AssertionError('a finished run went on')

  again = fit(tmp_path, never, validate=never)
  assert (again.step, again.score, again.resumed_from) == (first.step, first.score, 20)
  np.testing.assert_array_equal(again.state.value, first.state.value)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_a_donated_state_is_not_read_again(tmp_path):
  def two_steps(state):
    later = State(state.step + 2, state.value * 0.81)
    return later, {'loss': jnp.sum(state.value), 'accuracy': 0.5}

  advance, state = jax.jit(two_steps, donate_argnums=0), start()
  fitted = fit(tmp_path, advance, state=state)
  assert state.value.is_deleted() and fitted.step == 12
  np.testing.assert_allclose(fitted.state.value, 0.81 ** 6 * np.array([1, 0.5]), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  with pytest.raises(FloatingPointError, match='toy stopped at step 10: loss is nan; the last '
                                               'checkpoint is of step 8; lower the learning rates'):
    fit(tmp_path, advance_by(2, nan_at=10))
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    assert checkpoints.steps()[-1] == 8
    np.testing.assert_allclose(checkpoints.restore_latest(start())[1].value[0], 0.9 ** 8, rtol=1e-5)
  assert max(line['step'] for line in lines(tmp_path)) == 8
  assert fit(tmp_path, advance_by(2)).resumed_from == 8
