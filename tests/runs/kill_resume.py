"""Kills each phase at random moments, starts it again, and compares with an unbroken run.

  python -m tests.runs.kill_resume --kills=20 --phase=all
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import time
from typing import NamedTuple

from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs.toy_states import load_tree

# meta_train_host: with images streamed from host memory.
PHASES = ('pretrain', 'meta_train', 'meta_train_host', 'meta_test')
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
  launcher = phase.removesuffix('_host')
  source = {'pretrain': [], 'meta_train': [f'--pretrained={tiny_runs.pretrained()}'],
            'meta_test': [f'--checkpoint={tiny_runs.meta_trained()}']}
  images = ['--images=host'] if phase.endswith('_host') else []
  return tiny_runs.command(launcher, *LONGER[launcher], *source[launcher], *images,
                           f'--workdir={workdir}')


def run_unbroken(phase: str, folder: pathlib.Path) -> Unbroken:
  """Runs twice, as the first run compiles; returns the second."""
  for name in ('compiling', 'unbroken'):
    began = time.monotonic()
    _finish(phase, folder / name)
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
  while not _killed_after(seconds, phase, workdir):
    workdir, seconds = workdir.with_name(workdir.name + '_'), 0.9 * seconds
  steps = Checkpoints(workdir / 'checkpoints').steps()
  saving = any((workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))
  _finish(phase, workdir)
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


def _killed_after(seconds: float, phase: str, workdir: pathlib.Path) -> bool:
  """Kills a run after some seconds: whether that came before its end."""
  process = subprocess.Popen(command(phase, workdir), cwd=tiny_runs.ROOT,
                             env=tiny_runs.environment(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
  try:
    process.wait(seconds)
    return False
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()
    return not (workdir / 'results.json').exists()


def _finish(phase: str, workdir: pathlib.Path) -> None:
  result = subprocess.run(command(phase, workdir), cwd=tiny_runs.ROOT, env=tiny_runs.environment(),
                          capture_output=True, text=True, timeout=300)
  if result.returncode != 0:
    raise RuntimeError(f'{phase} in {workdir} ended with status {result.returncode}: '
                       f'{result.stderr}')


def many_kills(phase: str, kills: int, seed: int) -> int:
  """Prints a line for each kill and one for all.

  The first third of a run is imports and compiling, so one kill in five falls there and the others
  on the rest, each on a random moment of its own part of it.

  Returns:
    How many runs ended otherwise than the unbroken one.
  """
  folder = tiny_runs.shared() / 'kill_resume' / phase
  folder.mkdir(parents=True)
  unbroken = run_unbroken(phase, folder)
  print(f'{phase}: unbroken run of {unbroken.seconds:.1f} s, {len(unbroken.outcome)} arrays and '
        'files compared', flush=True)
  moments, bad, saving = random.Random(seed), 0, 0
  for index in range(kills):
    share = (index + moments.random()) / kills
    share = share / 0.2 / 3 if share < 0.2 else 1 / 3 + (share - 0.2) / 0.8 * 2 / 3
    kill = kill_and_resume(phase, folder / str(index), unbroken, share)
    bad, saving = bad + bool(kill.differing), saving + kill.saving
    during = ', during a save' if kill.saving else ''
    differing = '; '.join(kill.differing[:5])
    print(f'{phase} kill {index + 1}: after {kill.seconds:.2f} s, newest step {kill.newest}'
          f'{during}: {f"differs: {differing}" if differing else "bitwise equal"}', flush=True)
  print(f'{phase}: {kills - bad} of {kills} bitwise equal, {saving} killed during a save',
        flush=True)
  return bad


def main() -> None:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--kills', type=int, default=20, help='Kills of each phase.')
  parser.add_argument('--phase', default='all', choices=[*PHASES, 'all'], help='Which launcher.')
  parser.add_argument('--seed', type=int, default=0, help='Decides the moments.')
  arguments = parser.parse_args()
  phases = PHASES if arguments.phase == 'all' else [arguments.phase]
  sys.exit(1 if sum(many_kills(phase, arguments.kills, arguments.seed) for phase in phases) else 0)


if __name__ == '__main__':
  main()
