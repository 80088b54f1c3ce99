"""Signals that tell a run to stop: it saves where it stands, ends soon, and resumes bitwise."""
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import terminal
from mtl_jax.runs import preemption
from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs import hosts_test, kill_resume, told_to_stop

MOST_SECONDS = 10


@pytest.fixture
def unbroken(tmp_path):
  """What a toy training leaves that nobody stops."""
  fitted = told_to_stop.train(tmp_path / 'unbroken')
  return fitted, (tmp_path / 'unbroken' / 'metrics.jsonl').read_bytes()


def check_resumed(workdir, unbroken, resumed_from):
  fitted = told_to_stop.train(workdir)
  expected, lines = unbroken
  assert fitted.resumed_from == resumed_from
  assert (fitted.step, fitted.score, fitted.last_step) == (6, expected.score, 6)
  assert fitted.state.value == expected.state.value
  assert (workdir / 'metrics.jsonl').read_bytes() == lines
  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    assert checkpoints.accuracies()[6] == expected.score.accuracy


@pytest.mark.parametrize('call', range(6))
def test_saved_after_any_call_and_resumed(tmp_path, monkeypatch, unbroken, call):
  """After calls 1, 3 and 5 a validation is due, which comes on resuming."""
  calls = itertools.count()
  workdir = tmp_path / 'stopped'
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'told', lambda: signal.SIGTERM if next(calls) == call else None)
    with pytest.raises(preemption.Stopped) as stopped:
      told_to_stop.train(workdir)
  assert stopped.value.status == 143
  checkpoints = Checkpoints(workdir / 'checkpoints')
  assert checkpoints.steps()[-1] == call + 1
  assert checkpoints.awaits_validation(call + 1) == (call % 2 == 1)
  check_resumed(workdir, unbroken, call + 1)


@pytest.mark.parametrize(('moment', 'names', 'status', 'steps'), [
    ('call', ['SIGTERM'], 143, [0, 2, 3]),
    ('call', ['SIGHUP', 'SIGTERM'], 129, [0, 2, 3]),
    ('call', ['SIGUSR1'], 138, [0, 2, 3]),
    ('call', ['SIGUSR2', 'SIGUSR2'], 140, [0, 2, 3]),
    ('call', ['SIGINT', 'SIGINT'], 130, [0, 2]),  # whoever asks twice does not want to wait
    ('validation', ['SIGTERM'], 143, [0, 2, 4]),
    ('compiling', ['SIGTERM'], 143, []),
    ('import', ['SIGUSR1'], 138, []),
])
def test_real_signals(tmp_path, unbroken, moment, names, status, steps):
  workdir, began = tmp_path / 'stopped', time.monotonic()
  result = tiny_runs.start('tests.runs.told_to_stop', str(workdir), moment, *names, timeout=60)
  assert time.monotonic() - began < MOST_SECONDS + 20  # with the start of the forking process
  assert result.returncode == status, result.stderr
  assert 'Traceback' not in result.stderr
  assert [line.startswith('error: ') for line in result.stderr.splitlines()].count(True) == 1
  assert result.stderr.endswith('start the same command again to resume\n')
  found = Checkpoints(workdir / 'checkpoints').steps()
  assert found == steps[-len(found):] or len(names) == 2 and set(found) <= set(steps)
  check_resumed(workdir, unbroken, found[-1] if found else 0)


def test_a_signal_that_is_ignored_stays_so():
  """As under nohup; and what other handlers there are comes back."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  handlers = {number: signal.getsignal(number) for number in preemption.SIGNALS}
  try:
    with preemption.watched():
      os.kill(os.getpid(), signal.SIGHUP)
      assert preemption.told() is None
      assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in preemption.SIGNALS} == handlers
  finally:
    signal.signal(signal.SIGHUP, before)


def stop(command, folder, numbers, ready):
  """Sends signals to a real process once `ready`; returns (status, seconds to its end, output)."""
  with open(folder / 'output', 'w', encoding='utf-8') as output:
    process = subprocess.Popen(command, cwd=tiny_runs.ROOT, env=tiny_runs.environment(),
                               stdout=output, stderr=subprocess.STDOUT)
  until = time.monotonic() + 120
  while not ready() and process.poll() is None and time.monotonic() < until:
    time.sleep(0.01)
  began = time.monotonic()
  for number in numbers:
    process.send_signal(number)
  status = process.wait(60)
  return status, time.monotonic() - began, (folder / 'output').read_text()


def finish(phase, workdir):
  result = tiny_runs.start(*kill_resume.command(phase, workdir)[2:])
  assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(('phase', 'number'), [
    ('pretrain', signal.SIGTERM),
    pytest.param('meta_train', signal.SIGUSR1, marks=pytest.mark.slow),
    pytest.param('meta_train_host', signal.SIGHUP, marks=pytest.mark.slow),
    pytest.param('meta_test', signal.SIGTERM, marks=pytest.mark.slow),
])
def test_a_phase_ends_in_seconds_and_resumes_bitwise(tmp_path, phase, number):
  workdir, unbroken = tmp_path / 'stopped', tmp_path / 'unbroken'
  finish(phase, unbroken)
  begun = workdir / ('settings.json' if phase == 'meta_test' else 'checkpoints/0')
  status, seconds, output = stop(kill_resume.command(phase, workdir), tmp_path, [number],
                                 begun.exists)
  assert status == 128 + number and 'Traceback' not in output
  assert output.endswith(f'error: {preemption.message(number)}\n')
  assert seconds < MOST_SECONDS
  assert not (workdir / 'results.json').exists()
  finish(phase, workdir)
  assert kill_resume.outcome(workdir) == kill_resume.outcome(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize('told', [(0, 1), (1,)])
def test_two_processes_stop_at_one_step(tmp_path, told):
  """Also where only one of them hears of it."""
  workdir, unbroken = tmp_path / 'stopped', tmp_path / 'unbroken'
  processes = hosts_test.start(tmp_path, unbroken)
  assert [process.wait(240) for process in processes] == [0, 0]
  processes = hosts_test.start(tmp_path, workdir)
  while hosts_test.latest(workdir) == 0:
    time.sleep(0.01)
  began = time.monotonic()
  for number in told:
    processes[number].send_signal(signal.SIGTERM)
  outputs = [(tmp_path / f'output{number}') for number in range(2)]
  assert [process.wait(60) for process in processes] == [143, 143], outputs[0].read_text()
  assert time.monotonic() - began < MOST_SECONDS
  assert all('Traceback' not in output.read_text() for output in outputs)
  processes = hosts_test.start(tmp_path, workdir)
  assert [process.wait(240) for process in processes] == [0, 0]
  assert kill_resume.outcome(workdir) == kill_resume.outcome(unbroken)


# --- Nobody reads; the directory is gone. ---

def test_output_falls_silent_where_nobody_reads_it(monkeypatch):
  reads, writes = os.pipe()
  stream = open(writes, 'w', encoding='utf-8')
  monkeypatch.setattr(sys, 'stdout', stream)
  os.close(reads)
  with terminal.lasting_output():
    for _ in range(3):
      print('a line', flush=True)
  stream.close()


@pytest.mark.slow
def test_a_training_behind_head_goes_on(tmp_path):
  command = tiny_runs.command('pretrain', f'--workdir={tmp_path / "run"}')
  with subprocess.Popen(command, cwd=tiny_runs.ROOT, env=tiny_runs.environment(), text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    process.stdout.readline()
    process.stdout.close()
    assert 'error' not in process.stderr.read()
  assert process.returncode == 0 and (tmp_path / 'run' / 'results.json').exists()


@pytest.mark.parametrize('away', [shutil.rmtree, lambda folder: folder.rename(f'{folder}_'),
                                  lambda folder: (folder.rename(f'{folder}_'), folder.mkdir())])
def test_a_work_directory_that_goes_away_stops_the_run(tmp_path, away):
  workdir = tmp_path / 'run'

  def advance(state):
    if state.step == 3:
      while not (workdir / 'checkpoints' / '2').exists():  # it is written beside the training
        time.sleep(0.01)
      away(workdir)
    return told_to_stop.advance(state)

  with pytest.raises(OSError, match='was moved, removed or replaced while the run went on'):
    told_to_stop.train(workdir, advance)
  assert not workdir.exists() or not list(workdir.iterdir())
