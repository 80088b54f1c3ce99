"""Phases killed once; `python -m tests.runs.kill_resume` does so many times."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from mtl_jax.runs import fit
from mtl_jax.types import Score
from tests.runs import kill_resume


class _State(NamedTuple):
  step: jax.Array
  value: jax.Array


def _fit(workdir, die_at=None):
  def advance(state):
    if state.step == die_at:
      raise KeyboardInterrupt
    metrics = {'loss': 1 / state.value, 'accuracy': state.value}
    return _State(state.step + 1, state.value * 1.5), metrics

  start = _State(jnp.int32(0), jnp.float32(0.1))
  return fit.fit(start, advance, lambda state: Score(float(state.value)), phase='p', num_steps=6,
                 validate_every=2, workdir=workdir)


@pytest.mark.parametrize('die_at', range(6))
def test_metrics_and_state_of_a_run_stopped_at_any_step(tmp_path, die_at):
  """Step 0 included: its checkpoint is there, and its line must be there again."""
  unbroken = _fit(tmp_path / 'unbroken')
  with pytest.raises(KeyboardInterrupt):
    _fit(tmp_path / 'stopped', die_at)
  resumed = _fit(tmp_path / 'stopped')
  assert resumed.resumed_from == die_at // 2 * 2
  best = (6, Score(float(unbroken.state.value)))
  assert (resumed.step, resumed.score) == (unbroken.step, unbroken.score) == best
  assert resumed.state.value == unbroken.state.value
  metrics = [(tmp_path / name / 'metrics.jsonl').read_bytes() for name in ('stopped', 'unbroken')]
  assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.parametrize(('phase', 'share'), [
    ('pretrain', 0.8), ('meta_train', 0.7), ('meta_train_host', 0.7), ('meta_test', 0.8)])
def test_a_run_killed_and_started_again_ends_bitwise_as_the_unbroken_one(tmp_path, phase, share):
  unbroken = kill_resume.run_unbroken(phase, tmp_path)
  kill = kill_resume.kill_and_resume(phase, tmp_path / 'killed', unbroken, share)
  assert kill.differing == []


@pytest.mark.parametrize('file', ['metrics.jsonl', 'accuracies.npy'])
def test_the_comparison_sees_one_changed_byte(tmp_path, file):
  (tmp_path / 'results.json').write_text('{"accuracy": 0.5}')
  (tmp_path / file).write_bytes(b'content')
  before = kill_resume.outcome(tmp_path)
  (tmp_path / file).write_bytes(b'kontent')
  assert kill_resume.outcome(tmp_path) != before
