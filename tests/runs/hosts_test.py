"""Several processes: two real ones, either of them killed; and what each says to the other."""
import gzip
import json
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from mtl_jax.runs import hosts, models
from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs.toy_states import load_tree

# Ten cycles of three steps with a checkpoint after each.
RUN = ['--meta_batch=2', '--num_ordinary_tasks=4', '--num_hard_tasks=2', '--steps=30',
       '--validate_every=3']


def start(folder, workdir, *more):
  """Starts both processes of a run; their output goes to files."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  command = tiny_runs.command(
      'meta_train', *RUN, f'--pretrained={tiny_runs.pretrained()}', f'--workdir={workdir}',
      f'--coordinator=127.0.0.1:{port}', '--num_processes=2', *more)
  processes = []
  for number in range(2):
    with open(folder / f'output{number}', 'w', encoding='utf-8') as output:
      processes.append(subprocess.Popen(
          [*command, f'--process_id={number}'], cwd=tiny_runs.ROOT, stdout=output,
          stderr=subprocess.STDOUT, env=tiny_runs.environment()))
  return processes


def latest(workdir):
  return max(Checkpoints(workdir / 'checkpoints').steps(), default=0)


def lose(folder, workdir, number):
  """Starts a run and kills one process once there is a checkpoint of a new cycle.

  Returns:
    (status, output) of the other process.
  """
  there, processes = latest(workdir), start(folder, workdir)
  try:
    while latest(workdir) == there:
      ended = [process.poll() for process in processes]
      assert ended == [None, None], (folder / 'output0').read_text()
      time.sleep(0.05)
    processes[number].kill()
    return processes[1 - number].wait(120), (folder / f'output{1 - number}').read_text()
  finally:
    for process in processes:
      process.kill()


def test_two_processes_one_is_killed_and_the_run_resumes(tmp_path):
  one, two = tmp_path / 'one', tmp_path / 'two'
  status, output = lose(tmp_path, two, 1)
  last_line = output.strip().splitlines()[-1]
  assert status == 1 and last_line.startswith('error: lost another process of this run (')
  assert last_line.endswith('start the same command again in all processes to resume')
  assert not (two / 'results.json').exists()

  processes = start(tmp_path, two)
  assert [process.wait(240) for process in processes] == [0, 0], (tmp_path / 'output0').read_text()
  assert 'meta-trained on data' in (tmp_path / 'output0').read_text()
  assert 'validation' not in (tmp_path / 'output1').read_text()  # the first one speaks for both
  results = json.loads((two / 'results.json').read_text())
  assert results['resumed_from'] in range(3, 30, 3) and results['steps'] == 30
  assert (results['num_devices'], results['num_processes']) == (2, 2)

  tiny_runs.finished('meta_train', *RUN, f'--pretrained={tiny_runs.pretrained()}',
                     f'--workdir={one}', f'--profile={tmp_path / "trace"}')
  trees = [(load_tree(workdir / 'checkpoints'), models.read_tree(workdir, models.META_PARAMS),
            models.read_tree(workdir, models.BACKBONE)) for workdir in (two, one)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *trees)
  found, expected = (list(map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines()))
                     for workdir in (two, one))
  assert [line.keys() for line in found] == [line.keys() for line in expected]
  for a, b in zip(found, expected, strict=True):
    assert a['step'] == b['step'] and a.get('loss', 0) == pytest.approx(b.get('loss', 0), abs=1e-5)
  check_trace(tmp_path / 'trace')


@pytest.mark.slow
def test_without_the_first_process_the_other_ends_too(tmp_path):
  """With it goes JAX's service for all, which may be the first to tell."""
  status, output = lose(tmp_path, tmp_path / 'run', 0)
  assert status != 0
  assert 'error: lost another process of this run (' in output or 'another task died' in output
  assert not (tmp_path / 'run' / 'results.json').exists()


def check_trace(folder):
  """Both files of a trace are there, and name what was computed."""
  assert [path.stat().st_size > 1000 for path in folder.rglob('*.xplane.pb')] == [True]
  [perfetto] = folder.rglob('perfetto_trace.json.gz')
  with gzip.open(perfetto) as file:
    names = {event.get('name', '') for event in json.load(file)['traceEvents']}
  assert any('jit' in name.lower() for name in names) and len(names) > 20


# --- What the first process says to the others. ---

@pytest.fixture
def both(monkeypatch):
  """Runs a function as process 0 of 2, then as process 1, which hears what 0 said.

  Returns what each returned or raised.
  """
  said = []

  def run(function):
    outcomes = []
    for number in range(2):
      heard = iter(said.copy() if number else ())
      with monkeypatch.context() as patch:
        patch.setattr(jax, 'process_count', lambda: 2)
        patch.setattr(jax, 'process_index', lambda number=number: number)
        patch.setattr(hosts, '_broadcast', lambda data, heard=heard: (
            next(heard) if data is None else said.append(data) or data))
        try:
          outcomes.append(function(number))
        except Exception as error:
          outcomes.append(error)
    return outcomes

  return run


def test_all_get_what_the_first_one_returned(both):
  values = {'a': 1, 'b': np.array([-0.0, np.nan], np.float32)}
  first, second = both(lambda number: hosts.on_first(lambda: values | {'number': number}))
  assert second['number'] == 0
  assert second['b'].tobytes() == first['b'].tobytes() == values['b'].tobytes()


@pytest.mark.parametrize('error', [ValueError('bad'), FileNotFoundError('gone'), OSError('full'),
                                   FloatingPointError('nan')])
def test_all_get_its_error(both, error):
  def fail():
    raise error

  first, second = both(lambda number: hosts.on_first(fail))
  assert first is error and type(second) is type(error) and str(second) == str(error)


def test_a_process_with_other_settings_is_refused(both):
  first, second = both(lambda number: hosts.same_everywhere(
      {'seed': 0, 'images': {'train': 5, 'val': number}}, 'settings'))
  assert first is None
  assert str(second) == ('expected the settings of process 0 in process 1 too, got other values of '
                         'images.val; give all processes the same flags and files')


def test_the_others_come_after_the_first_one(both):
  order = []
  found = both(lambda number: hosts.in_turn(lambda: order.append(number) or f'of {number}'))
  assert found == ['of 0', 'of 1']
  assert order == [0, 1]


def test_only_the_first_one_writes(both):
  def write(number):
    with hosts.first_only(open, tmp, 'a') as file:
      return file.write(f'{number}')

  tmp = tiny_runs.shared() / 'written'
  assert both(write) == [1, None] and tmp.read_text() == '0'
