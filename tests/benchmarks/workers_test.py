"""Workers that follow a script: who is asked when, what the answers become, and failures."""
import sys
import time

import pytest

from benchmarks import rounds, workers
from mtl_jax.execution import memory
from tests.benchmarks.in_process import scripted

# Seconds of each run: the first compiles, one warms up, then the rounds.
TIMES = """
TIMES = {'a': [9, 5, 1, 2, 3], 'b': [8, 5, 4, 2, 9]}
runs = 0
def answer(request, number):
  global runs
  if request['do'] == 'setup':
    return {'seconds': 0.0}
  runs += 1
  peak = 100 * runs if runs != 4 else None
  return {'seconds': TIMES[sys.argv[1]][runs - 1], 'value': runs, 'peak_bytes': peak}
"""
EFFORT = workers.Effort(pairs=3, warmup=1, least_seconds=0.0, pause=0.0, limit=20)


def bench(command, effort=EFFORT, names=('a', 'b')):
  return workers.Bench({name: [*command, name] for name in names}, effort)


def test_sides_take_turns_after_warming_up(tmp_path):
  log = tmp_path / 'log'
  each = bench(scripted(tmp_path, TIMES, log))
  sides = {name: rounds.Side(each, name, 'measure', 'mode') for name in 'ab'}
  assert all(side.prepare({}) for side in sides.values())
  found = rounds.in_turn(sides, 3)
  for side in sides.values():
    side.close()
  warm = [f'{name} {do}' for name in 'ab' for do in ('setup', 'run', 'run')]
  assert log.read_text().split('\n')[:-1] == warm + ['a run', 'b run'] * 3
  expected = {'first': 9, 'turns': [1, 2, 3], 'median': 2, 'min': 1, 'max': 3, 'value': 5,
              'peak_bytes': 500}
  assert {key: found['a'][key] for key in expected} == expected
  over = rounds.ratios(found['b']['turns'], found['a']['turns'])
  assert over == {'median': 3, 'min': 1, 'max': 4}
  assert rounds.strongest(found) == 'a' and each.about['b']['name'] == 'scripted'


def test_a_short_run_is_repeated_within_its_turn(tmp_path):
  effort = EFFORT._replace(warmup=0, least_seconds=6.0)
  side = rounds.Side(bench(scripted(tmp_path, TIMES), effort), 'a', 'measure', 'mode')
  side.prepare({})
  # 5 and 1 s are enough; their median.
  assert rounds.in_turn({'a': side}, 1)['a']['turns'] == [3]
  side.close()


FAILURES = """
ANSWERS = {'skips': {'skip': 'no compiler'}, 'fails': {'error': 'out of\\nmemory'}}
def answer(request, number):
  if request['do'] == 'run' and sys.argv[1] == 'ends':
    print('the last words', file=sys.stderr)
    sys.exit(3)
  if request['do'] == 'run' and sys.argv[1] == 'sleeps':
    time.sleep(60)
  return ANSWERS.get(sys.argv[1], {'seconds': 0.0})
"""


@pytest.mark.parametrize(('name', 'says'), [
    ('skips', 'no compiler'), ('fails', 'out of memory'),
    ('ends', 'worker ended with status 3: the last words'), ('sleeps', '> 0.5 s')])
def test_a_side_that_fails_is_left_out_with_the_reason(tmp_path, name, says):
  effort = EFFORT._replace(limit=0.5 if name == 'sleeps' else 20)
  each = bench(scripted(tmp_path, FAILURES), effort, (name,))
  side = rounds.Side(each, name, 'measure', 'mode')
  began = time.monotonic()
  assert not side.prepare({})
  found = rounds.in_turn({name: side}, 3)
  assert time.monotonic() - began < 20
  assert found == {name: {'skip': says}}
  assert rounds.skipped([found, found]) == [f'{name}: {says} (2 times)']
  assert rounds.strongest(found) is None


HUNGRY = """
def answer(request, number):
  try:
    return {'bytes': len(bytearray(2**28))}
  except MemoryError:
    return {'error': 'out of memory'}
"""


@pytest.mark.parametrize('there, says', [
    (2**31, {'bytes': 2**28}), (None, {'bytes': 2**28}), (2**27, 'out of memory')])
def test_a_worker_on_a_cpu_gets_no_more_memory_than_there_is(tmp_path, monkeypatch, there, says):
  monkeypatch.setattr(memory, 'free_host_bytes', lambda: there)
  worker = workers.Bench({'jax': scripted(tmp_path, HUNGRY)}, EFFORT).start('jax')
  if isinstance(says, dict):
    assert worker.ask({'do': 'run'}) == says
  else:
    with pytest.raises(workers.WorkerError, match=says):
      worker.ask({'do': 'run'})
  worker.close()


def test_a_program_that_is_not_there():
  with pytest.raises(workers.WorkerError, match="expected a program to run, got 'no_such_python'"):
    workers.Bench({'jax': ['no_such_python']}, EFFORT).start('jax')


def test_commands_have_pytorch_only_where_it_is():
  assert list(workers.commands(None)) == ['jax']
  assert workers.commands('torchenv/bin/python')['pytorch'][0] == 'torchenv/bin/python'
  assert workers.commands(None)['jax'] == [sys.executable, '-m', 'benchmarks.ours.worker']
