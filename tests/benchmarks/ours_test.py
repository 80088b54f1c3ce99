"""This library's worker: what it times, writes and refuses; and numbers in the tables."""
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import formatting, inputs, rounds, workers
from benchmarks.ours import worker
from benchmarks.ours.timed_unit import TimedUnit
from tests.benchmarks.in_process import InProcess


def test_a_run_is_timed_until_its_result_is_there(monkeypatch):
  slow = jax.jit(lambda x: jax.pure_callback(lambda y: (time.sleep(0.3), y)[1], x, x))
  monkeypatch.setattr(worker.measures, 'prepare',
                      lambda *_: TimedUnit(lambda: np.mean(slow(jnp.ones(3)))))
  server = worker.Server()
  server.answer({'do': 'setup', 'measure': 'any', 'mode': 'any'})
  answer = server.answer({'do': 'run'})
  assert answer['value'] == 1 and answer['seconds'] >= 0.3


def test_all_forms_of_the_inner_loop_give_the_same_gradients(tmp_path):
  """The library's three forms, by what the worker writes."""
  path = inputs.write(str(tmp_path / 'in.npz'),
                      inputs.features(tasks=2, way=3, support=6, query=9, dim=4))
  process, saved = InProcess(), {}
  for order, modes in (('second', ('dual', 'scan', 'unrolled')), ('first', ('dual', 'unrolled'))):
    for mode in modes:
      process.ask({'do': 'setup', 'measure': 'inner_loop', 'mode': mode, 'inputs': path,
                   'inner_steps': 3, 'inner_lr': 0.1, 'order': order})
      process.ask({'do': 'save', 'path': str(tmp_path / 'out.npz')})
      saved[order, mode] = dict(np.load(tmp_path / 'out.npz'))
    for mode in modes[1:]:
      for name in ('loss', 'support', 'query', 'kernel', 'bias'):
        np.testing.assert_allclose(saved[order, mode][name], saved[order, 'dual'][name], atol=1e-6)
  second, first = saved['second', 'dual'], saved['first', 'dual']
  assert np.abs(second['support'] - first['support']).max() > 1e-4


@pytest.mark.parametrize(('request_', 'says'), [
    ({'do': 'run'}, 'expected a setup before run'),
    ({'do': 'fly'}, "setup, run or save, got 'fly'"),
    ({'do': 'setup', 'measure': 'speed', 'mode': 'x'},
     "expected measure to be one of .* got 'speed'"),
    ({'do': 'setup', 'measure': 'peak', 'mode': 'x', 'size': 4}, 'KeyError.*dtype'),
    ({'do': 'setup', 'measure': 'inner_loop', 'mode': 'func'},
     "dual, scan, unrolled, got 'func'")])
def test_what_the_worker_refuses(request_, says):
  with pytest.raises(workers.WorkerError, match=says):
    InProcess().ask(request_)


def test_numbers_of_the_tables():
  assert [formatting.number(value) for value in (0, 0.01234, 4.561, 45.61, 1234.5)] == [
      '0', '0.0123', '4.56', '45.6', '1,234']
  record = {'median': 2.0, 'min': 1.0, 'max': 3.0}
  assert formatting.seconds(record, 1e3) == '2,000 (1,000-3,000)'
  too_long = {'skip': '> 300 s to compile fewer or as many steps'}
  assert formatting.seconds(too_long) == '> 300 s'
  assert formatting.seconds({'skip': 'no compiler'}) == formatting.NONE
  assert formatting.seconds(None) == formatting.NONE
  assert rounds.spread([3.0]) == {'median': 3.0, 'min': 3.0, 'max': 3.0}
