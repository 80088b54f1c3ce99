"""Training by the clock: what is decided, that it is kept, and that the time before counts."""
import contextlib
import json
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.configs import PretrainConfig
from mtl_jax.runs import time_budgets, trainings
from mtl_jax.runs.time_budgets import Measured, TimeBudget, Training
from mtl_jax.types import Score
from tests import tiny_runs


class State(NamedTuple):
  step: jax.Array
  value: jax.Array


class Machine:
  """A machine whose calls take the seconds that are said, by a clock of its own."""

  def __init__(self, monkeypatch):
    self.now, self.call, self.compiling, self.validation = 1000.0, 1.0, 5.0, 2.0
    self.die_after = None  # calls
    self.calls = 0
    monkeypatch.setattr(time_budgets, 'time', types.SimpleNamespace(monotonic=lambda: self.now))

  @contextlib.contextmanager
  def advance(self, config):
    """Compiles at the first call; the rate falls along the steps of the config."""
    compiling = iter([self.compiling])

    def call(state):
      self.now += self.call + next(compiling, 0.0)
      self.calls += 1
      if self.calls == self.die_after:
        raise KeyboardInterrupt
      rate = 1 - state.step / config.steps
      later = State(state.step + 2, state.value * (1 - 0.1 * rate))
      return later, {'loss': later.value, 'accuracy': jnp.float32(0.5)}

    yield call

  def validate(self, state):
    self.now += self.validation
    return Score(float(state.step) / 1e4, 0.01)

  def train(self, workdir, minutes=2.0, most_steps=None, **changes):
    vars(self).update({'calls': 0, 'die_after': None} | changes)
    training = Training(
        lambda config: State(jnp.int32(0), jnp.float32(1.0)), self.advance, self.validate,
        lambda config, steps: PretrainConfig(steps=steps), 2, 20)
    workdir.mkdir(exist_ok=True)
    budget = TimeBudget(minutes, most_steps, began=self.now)
    return trainings.run(training, PretrainConfig(steps=10), phase='toy', num_steps=10,
                         workdir=workdir, budget=budget)


@pytest.fixture
def machine(monkeypatch):
  return Machine(monkeypatch)


def kept(workdir):
  return json.loads((workdir / 'schedule.json').read_text())


def assert_same_end(one, other):
  assert one[1].last_step == other[1].last_step and one[0] == other[0]
  assert np.asarray(one[1].state.value).tobytes() == np.asarray(other[1].state.value).tobytes()


def test_a_run_takes_its_time_and_the_schedule_is_that_of_its_steps(machine, tmp_path):
  began = machine.now
  config, fitted = machine.train(tmp_path / 'run')
  assert 0.9 <= (machine.now - began) / 120 <= 1.0
  assert config.steps == fitted.last_step == kept(tmp_path / 'run')['steps'] > 100
  measured = kept(tmp_path / 'run')['measured']
  assert measured == pytest.approx({'compiling': 5, 'call': 1, 'validation': 2})


@pytest.mark.parametrize('die_after', [15, 40, 60])
def test_a_resumed_run_ends_as_the_unbroken_one_on_another_machine(machine, tmp_path, die_after):
  unbroken = machine.train(tmp_path / 'unbroken')
  with pytest.raises(KeyboardInterrupt):
    machine.train(tmp_path / 'stopped', die_after=die_after)
  machine.now += 1e6  # nobody works on it meanwhile
  resumed = machine.train(tmp_path / 'stopped', call=0.1)
  assert resumed[1].resumed_from > 0 or die_after == 15
  assert_same_end(resumed, unbroken)
  metrics = [(tmp_path / name / 'metrics.jsonl').read_bytes() for name in ('stopped', 'unbroken')]
  assert metrics[0] == metrics[1]


def test_time_spent_before_the_decision_counts(machine, tmp_path):
  _, unbroken = machine.train(tmp_path / 'unbroken')
  with pytest.raises(KeyboardInterrupt):
    machine.train(tmp_path / 'run', die_after=2)
  spent = kept(tmp_path / 'run')['spent_seconds']
  assert spent == pytest.approx(2 + 2 + 6)  # two validations, and the call that compiled
  machine.now += 1e6
  _, fitted = machine.train(tmp_path / 'run')
  assert fitted.last_step == pytest.approx(unbroken.last_step - 2 * spent / 1.2, abs=4)


def test_a_machine_that_becomes_slow_ends_in_time_and_so_does_the_resumed_run(machine, tmp_path):
  decided = machine.train(tmp_path / 'usual')[0].steps
  with pytest.raises(KeyboardInterrupt):
    machine.train(tmp_path / 'slow', die_after=12)
  machine.call = 4.0
  began, spent = machine.now, kept(tmp_path / 'slow')['spent_seconds']
  config, fitted = machine.train(tmp_path / 'slow')
  assert machine.now - began + spent == pytest.approx(120, abs=6)
  assert config.steps == decided > fitted.last_step == kept(tmp_path / 'slow')['last_step']
  again = machine.train(tmp_path / 'slow')  # as if it was killed before its results were written
  assert_same_end(again, (config, fitted))


def test_a_step_is_the_most(machine, tmp_path):
  assert machine.train(tmp_path / 'run', most_steps=9)[1].last_step == 10  # whole calls of two


def test_too_short_a_time_takes_one_call_and_says_so(machine, tmp_path, warnings):
  assert machine.train(tmp_path / 'run', minutes=0.1)[1].last_step == 2
  assert len(warnings) == 1 and 'too short for one call of 2 steps' in warnings[0]


@pytest.mark.parametrize('minutes', [0.0, -1.0, float('inf'), float('nan')])
def test_times_that_are_none(minutes):
  with pytest.raises(ValueError, match='expected max_minutes above 0, got'):
    TimeBudget(minutes)


def test_the_most_calls_that_fit():
  """By trying one number of calls after the other."""
  rng = np.random.default_rng(0)
  for _ in range(50):
    measured = Measured(*rng.uniform(0.1, 3, 3))
    per_call, every = int(rng.integers(1, 9)), int(rng.integers(1, 30))
    training = Training(None, None, None, None, per_call, every)
    seconds = rng.uniform(20, 200)

    def takes(calls, per_call=per_call, every=every, measured=measured):
      validations = 1 + -(-calls * per_call // every)
      return measured.compiling + calls * measured.call + validations * measured.validation

    expected = max([calls for calls in range(1, 3000) if takes(calls) <= seconds], default=1)
    assert time_budgets.steps_that_fit(measured, seconds, training) == expected * per_call


@pytest.mark.slow
def test_the_flag_end_to_end(tmp_path):
  for name, source in (('pretrain', []), ('meta_train', [f'--pretrained={tmp_path / "pretrain"}'])):
    workdir = tmp_path / name
    flags = [*source, f'--workdir={workdir}', '--max_minutes=0.2']
    # The steps of tiny runs are 8, which would be the most.
    flags.append('--steps=100000')
    result = tiny_runs.finished(name, *flags)
    assert 'steps fit into 0.2 minutes' in result.stderr
    schedule, results, model = (json.loads((workdir / file).read_text()) for file in (
        'schedule.json', 'results.json', 'model.json'))
    assert 0 < results['steps'] <= schedule['steps'] < 100000
    assert model['settings']['config']['steps'] == schedule['steps']
    assert schedule['spent_seconds'] < 2 * 12
    again = tiny_runs.finished(name, *flags)
    assert again.stderr.splitlines() == [f'the run in {workdir} is finished: nothing to do']
    other = tiny_runs.launch(name, *flags, '--max_minutes=0.3')
    assert 'time_budget.max_minutes: 0.2 there, 0.3 here' in other.stderr
