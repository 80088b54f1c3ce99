"""Kills a phase at a moment, starts it again, and compares with an unbroken run.

`python -m tests.faults --kills=20` does so twenty times with each phase.
"""
import json
import pathlib
import socket
import subprocess
import time
from typing import NamedTuple

from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs.toy_states import load_tree

# meta_train_host: with images streamed from host memory; meta_train_two: by two processes.
PHASES = ('pretrain', 'meta_train', 'meta_train_host', 'meta_train_two', 'meta_test')
# Some seconds of training each, a save every fraction of a second.
LONGER = {'pretrain': ['--steps=160', '--validate_every=10'],
          'meta_train': ['--steps=64', '--validate_every=4'],
          'meta_test': ['--num_tasks=2000']}


class Unbroken(NamedTuple):
  """The run to compare with."""
  seconds: float  # from start to end
  outcome: dict


class Kill(NamedTuple):
  """What one kill met, and how the run that was started again ended."""
  seconds: float     # after the start
  newest: int | None  # newest finished step at that moment
  saving: bool       # a step was being written
  differing: list[str]


def command(phase: str, workdir: pathlib.Path) -> list[str]:
  """The launcher of a phase on the tiny data set."""
  launcher = phase.removesuffix('_host').removesuffix('_two')
  source = {'pretrain': [], 'meta_train': [f'--pretrained={tiny_runs.pretrained()}'],
            'meta_test': [f'--checkpoint={tiny_runs.meta_trained()}']}
  more = ['--images=host'] if phase.endswith('_host') else []
  # Each process takes its own tasks of a meta-batch.
  more += ['--meta_batch=2', '--num_hard_tasks=4'] if phase.endswith('_two') else []
  return tiny_runs.command(launcher, *LONGER[launcher], *source[launcher], *more,
                           f'--workdir={workdir}')


def start(phase: str, workdir: pathlib.Path, output=subprocess.DEVNULL) -> list[subprocess.Popen]:
  """Starts the process of a phase, or both.

  Args:
    phase: one of PHASES.
    workdir: of the run.
    output: where the first one writes; the other is not heard.
  """
  commands = [command(phase, workdir)]
  if phase.endswith('_two'):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      address = f'127.0.0.1:{free.getsockname()[1]}'
    commands = [[*commands[0], f'--coordinator={address}', '--num_processes=2',
                 f'--process_id={number}'] for number in range(2)]
  return [subprocess.Popen(line, cwd=tiny_runs.ROOT, env=tiny_runs.environment(), text=True,
                           stdout=subprocess.DEVNULL if number else output,
                           stderr=subprocess.DEVNULL if number else subprocess.STDOUT)
          for number, line in enumerate(commands)]


def run_unbroken(phase: str, folder: pathlib.Path) -> Unbroken:
  """Runs twice, as the first run compiles; returns the second."""
  for name in ('compiling', 'unbroken'):
    began = time.monotonic()
    finish(phase, folder / name)
    seconds = time.monotonic() - began
  return Unbroken(seconds, outcome(folder / 'unbroken'))


def kill_and_resume(phase: str, workdir: pathlib.Path, unbroken: Unbroken, share: float) -> Kill:
  """Kills a run after `share` of the seconds of the unbroken one, starts it again and compares.

  Args:
    phase: one of PHASES.
    workdir: of the run; not there yet.
    unbroken: what to compare with.
    share: in [0, 1]; made smaller where the run ended before.

  Returns:
    A Kill.
  """
  seconds = share * unbroken.seconds
  while not kill(phase, workdir, seconds):
    workdir, seconds = workdir.with_name(workdir.name + '_'), 0.9 * seconds
  steps = Checkpoints(workdir / 'checkpoints').steps()
  saving = any((workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))
  finish(phase, workdir)
  found = outcome(workdir)
  differing = [name for name in unbroken.outcome if found.get(name) != unbroken.outcome[name]]
  newest = steps[-1] if steps else None
  resumed_from = json.loads((workdir / 'results.json').read_text()).get('resumed_from', 0)
  if resumed_from != (newest or 0):
    differing.append(f'resumed from step {resumed_from}, though step {newest} was finished')
  return Kill(seconds, newest, saving, differing)


def outcome(workdir: pathlib.Path) -> dict[str, object]:
  """All that must not depend on kills: name -> arrays as bytes, or the bytes of a file.

  Of checkpoints, the newest: a run killed while it removed an old one may keep that for longer.
  """
  found = {}
  if (workdir / 'checkpoints').is_dir():
    leaves = _bytes_of(load_tree(workdir / 'checkpoints'))
    found |= {f'checkpoints/{leaf}': data for leaf, data in leaves.items()}
  for name in ('metrics.jsonl', 'accuracies.npy', 'backbone.safetensors',
               'meta_params.safetensors', 'model.json', 'README.md'):
    if (workdir / name).exists():
      found[name] = (workdir / name).read_bytes()
  if (workdir / 'checkpoints').is_dir():
    found['newest step'] = Checkpoints(workdir / 'checkpoints').steps()[-1]
  results = json.loads((workdir / 'results.json').read_text())
  keys = ('best_step', 'validation_accuracy', 'accuracy', 'ci95', 'baselines')
  return found | {f'results.json {key}': results[key] for key in keys if key in results}


def _bytes_of(tree) -> dict[str, tuple]:
  if not isinstance(tree, dict):
    return {'': (tree.dtype.name, tree.shape, tree.tobytes())}
  return {f'{name}/{path}'.rstrip('/'): data for name, branch in tree.items()
          for path, data in _bytes_of(branch).items()}


def finish(phase: str, workdir: pathlib.Path) -> None:
  """Runs a phase to its end.

  Raises:
    RuntimeError: a process ended otherwise.
  """
  processes = start(phase, workdir, subprocess.PIPE)
  try:
    output, _ = processes[0].communicate(timeout=300)
    statuses = [process.wait(timeout=60) for process in processes]
  finally:
    for process in processes:
      process.kill()
  if any(statuses):
    raise RuntimeError(f'{phase} in {workdir} ended with status {statuses}: {output}')


def kill(phase: str, workdir: pathlib.Path, seconds: float) -> bool:
  """Starts a run and kills it after some seconds: whether that came before its end."""
  processes = start(phase, workdir)
  try:
    processes[0].wait(seconds)
    ended = True
  except subprocess.TimeoutExpired:
    ended = False
  finally:
    for process in processes:
      process.kill()
    for process in processes:
      process.wait()
  return not ended and not (workdir / 'results.json').exists()
