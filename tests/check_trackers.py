"""Runs W&B and MLflow themselves, offline, and reads back what they were told.

    python -m tests.check_trackers

It needs the extras `wandb` and `mlflow`, and no network: a run of `pretrain` and one of `fit` that
is stopped and resumed write to both, and a third run where neither answers. It is no test of
pytest, as both bring many packages; `tests/runs/trackers_test.py` has modules in their place, whose
calls are held against the libraries' own signatures here.
"""
import contextlib
import inspect
import json
import os
import pathlib
import struct
import tempfile
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mlflow
import wandb
from wandb.proto import wandb_internal_pb2

from mtl_jax.runs import fit, metrics, trackers, workdirs
from mtl_jax.types import Score
from tests import tiny_runs
from tests.runs import fake_trackers

_BLOCK, _HEAD = 2**15, 7  # of W&B's files, in bytes
_LINES = 200


class State(NamedTuple):
  """Of a toy training, which takes two steps in each call."""
  step: jax.Array


def main() -> None:
  """Checks all of it, and prints figures."""
  os.environ |= {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'DO_NOT_TRACK': '1'}
  print(f'wandb {wandb.__version__}, mlflow {mlflow.__version__}')
  _check_signatures()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    os.environ['MLFLOW_TRACKING_URI'] = f'sqlite:///{folder / "mlflow.db"}'
    _check_resuming(folder)
    _show_cost(folder)
    _check_command(folder)
    _check_without_network(folder)


def _check_signatures() -> None:
  """Each call of the tests' modules is one that the libraries take."""
  run = wandb.Run
  calls = {fake_trackers.wandb: {'init': wandb.init, 'Settings': wandb.Settings, 'Run.log': run.log,
                                 'Run.finish': run.finish}}
  client = fake_trackers.mlflow([]).MlflowClient
  calls[fake_trackers.mlflow] = {f'MlflowClient.{name}': getattr(mlflow.MlflowClient, name)
                                 for name in vars(client) if not name.startswith('_')}
  number = 0
  for make, real in calls.items():
    for path, function in real.items():
      fake = make([])
      for part in path.split('.'):
        fake = getattr(fake, part)
      taken = set(inspect.signature(function).parameters)
      if path == 'Settings':
        taken = set(wandb.Settings.model_fields)
      missing = set(inspect.signature(fake).parameters) - taken
      _expect(not missing, f'{make.__name__}.{path} takes no {", ".join(missing)}')
      number += 1
  print(f'{number} calls have the parameters that are given')


def _check_command(folder: pathlib.Path) -> None:
  """A command with all trackers writes the lines of one with none, and both libraries know it."""
  for name in ('none', 'tensorboard,wandb,mlflow'):
    _pretrain(folder / name, name)
  lines = (folder / name / 'metrics.jsonl').read_bytes()
  _expect(lines == (folder / 'none' / 'metrics.jsonl').read_bytes(), 'the lines differ')
  _expect((folder / name / 'tensorboard').is_dir(), 'no events')
  told = _told(folder / name)
  _compare(folder / name, told, 'pretrain')
  print(f'pretrain: {len(told)} lines, the same with all trackers and with none, in both libraries')


def _check_resuming(folder: pathlib.Path) -> None:
  """A run that was stopped goes on with the runs that it began."""
  workdir, numbers = folder / 'resumed', {}
  workdirs.claim(workdir, {'command': 'toy', 'config': {'steps': 20}})
  for fail_at in (15, None):
    def advance(state, fail_at=fail_at):
      step = state.step + 2
      if fail_at is not None and step >= fail_at:
        raise KeyboardInterrupt
      return State(step), {'loss': 1 / step, 'accuracy': jnp.float32(0.5)}

    with contextlib.suppress(KeyboardInterrupt):
      fit.fit(State(jnp.int32(0)), advance, lambda state: Score(float(state.step) / 20, 0.1),
              phase='toy', num_steps=20, validate_every=4, workdir=workdir,
              trackers=('wandb', 'mlflow'))
    numbers[fail_at] = workdirs.read_json(workdir, trackers.FILE)
  _expect(numbers[15] == numbers[None], f'other runs after resuming: {numbers}')
  told = _told(workdir)
  _compare(workdir, told, 'toy')
  print(f'stopped at step 14, resumed from 12: the same runs, {len(told)} lines in both')


def _told(workdir: pathlib.Path) -> list[dict]:
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  return [{key: value for key, value in line.items() if key not in ('phase', 'checksum')}
          for line in lines]


def _compare(workdir: pathlib.Path, told: list[dict], phase: str) -> None:
  """Each number of the lines is in both libraries, and the settings are."""
  ids = workdirs.read_json(workdir, trackers.FILE)
  settings = workdirs.read_settings(workdir)
  runs, history = _wandb_of(workdir)
  _expect({run['id'] for run in runs} == {ids[f'wandb/{phase}']}, f'W&B has the runs {runs}')
  _expect(all(run['config'] == settings for run in runs), 'W&B has other settings')
  client, run_id = mlflow.MlflowClient(), ids[f'mlflow/{phase}']
  run = client.get_run(run_id)
  _expect(run.info.status == 'FINISHED', f'MLflow says {run.info.status}')
  _expect(run.data.params['config.steps'] == str(settings['config']['steps']), 'no parameters')
  for line in told:
    for name in line.keys() - {'step'}:
      where = (line['step'], name)
      _expect(history.get(where) == line[name], f'W&B has {history.get(where)} at {where}')
      found = {each.step: each.value for each in client.get_metric_history(run_id, name)}
      _expect(found[line['step']] == line[name], f'MLflow has {found} of {where}')


def _show_cost(folder: pathlib.Path) -> None:
  for name in trackers.NAMES:
    workdirs.claim(folder / f'cost_{name}', {'command': 'toy'})
    with metrics.MetricWriter(folder / f'cost_{name}', tracked_by=(name,)) as writer:
      began = time.perf_counter()
      for step in range(_LINES):
        writer.write(step, {'loss': 1.0, 'accuracy': 0.5}, {'steps_per_second': 2.0})
      seconds = time.perf_counter() - began
    print(f'{name}: {1000 * seconds / _LINES:.2f} ms for each line')


def _check_without_network(folder: pathlib.Path) -> None:
  """Where nothing answers, the run ends as if nobody had asked for a tracker."""
  nowhere = 'http://127.0.0.1:9'
  os.environ |= {'WANDB_MODE': 'online', 'WANDB_BASE_URL': nowhere, 'WANDB_API_KEY': '0' * 40,
                 'WANDB_INIT_TIMEOUT': '5', 'MLFLOW_TRACKING_URI': nowhere,
                 'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '1'}
  began = time.monotonic()
  said = _pretrain(folder / 'gone', 'wandb,mlflow')
  warnings = [line for line in said.splitlines() if 'the run goes on without it' in line]
  _expect(len(warnings) == 2, f'expected two warnings, got {said}')
  _expect((folder / 'gone' / 'metrics.jsonl').read_bytes()
          == (folder / 'none' / 'metrics.jsonl').read_bytes(), 'the lines differ')
  print(f'no network: finished in {time.monotonic() - began:.0f} s with the same lines, and said',
        *warnings, sep='\n  ')


def _pretrain(workdir: pathlib.Path, tracker: str) -> str:
  """Runs the command as a process of its own; returns what it said on stderr."""
  result = tiny_runs.python('-m', *tiny_runs.command(
      'pretrain', f'--workdir={workdir}', f'--tracker={tracker}')[2:])
  _expect(result.returncode == 0, result.stderr)
  return result.stderr


def _wandb_of(workdir: pathlib.Path) -> tuple[list[dict], dict]:
  """([id and config of each run], (step, name) -> value) in the files of W&B's offline mode."""
  runs, history = [], {}
  for path in sorted(workdir.glob('wandb/offline-run-*/*.wandb')):
    for text in _records(path.read_bytes()):
      record = wandb_internal_pb2.Record.FromString(text)
      if record.HasField('run'):
        config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        config.pop('_wandb', None)
        runs.append({'id': record.run.run_id, 'config': config})
      if record.HasField('history'):
        items = {item.key or item.nested_key[0]: json.loads(item.value_json)
                 for item in record.history.item}
        history |= {(items['_step'], name): value for name, value in items.items()}
  return runs, history


def _records(data: bytes) -> list[bytes]:
  """The records of LevelDB's log format: blocks of parts, each with checksum, length and kind."""
  found, place, parts = [], _HEAD, b''  # the file begins with a head of its own
  while place + _HEAD <= len(data):
    if _BLOCK - place % _BLOCK < _HEAD:  # the rest of the block is empty
      place += _BLOCK - place % _BLOCK
      continue
    _, length, kind = struct.unpack('<IHB', data[place:place + _HEAD])
    parts += data[place + _HEAD:place + _HEAD + length]
    place += _HEAD + length
    if kind in (1, 4):  # all of it, or its last part
      found.append(parts)
      parts = b''
  return found


def _expect(holds: bool, says: str) -> None:
  if not holds:
    raise SystemExit(says)


if __name__ == '__main__':
  tiny_runs.shared()
  main()
