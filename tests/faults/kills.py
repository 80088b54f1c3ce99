"""Ends each phase at random moments, by SIGKILL and by the signals of clusters, and resumes it."""
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from mtl_jax.runs import preemption
from tests.faults.tally import Tally
from tests.runs import kill_resume

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_MOST_SECONDS = 10.0  # from a signal to the end


def of_phases(folder: Path, kills: int, signals: int, seed: int) -> list[Tally]:
  """Kills each phase, then tells it to stop; each time it must end as the unbroken run.

  Args:
    folder: an empty one.
    kills: of each phase.
    signals: to each phase.
    seed: decides the moments.
  """
  for ignored in _SIGNALS:  # by nohup, say, which those that are started here would inherit
    if signal.getsignal(ignored) == signal.SIG_IGN:
      signal.signal(ignored, signal.SIG_DFL)
  tallies = []
  for phase in kill_resume.PHASES:
    draw, place = random.Random(seed), folder / phase
    place.mkdir()
    unbroken = kill_resume.run_unbroken(phase, place)
    tallies += [_kill(phase, place, unbroken, kills, draw) if kills else None,
                _tell_all(phase, place, unbroken, signals, draw) if signals else None]
  return [tally for tally in tallies if tally]


def _kill(phase, place, unbroken, number, draw) -> Tally:
  """The first third of a run is imports and compiling: one kill in five falls there, and each on a
  random moment of its own part of the rest.
  """
  tally, saving = Tally(f'SIGKILL of {phase}'), 0
  for index in range(number):
    share = (index + draw.random()) / number
    share = share / 0.2 / 3 if share < 0.2 else 1 / 3 + (share - 0.2) / 0.8 * 2 / 3
    workdir = place / f'kill{index}'
    kill = kill_resume.kill_and_resume(phase, workdir, unbroken, share)
    saving += kill.saving
    tally.tries += 1
    tally.failures += [f'after {kill.seconds:.1f} s: {name} differs' for name in kill.differing]
    shutil.rmtree(workdir, ignore_errors=True)
  tally.name += f' ({saving} during a save)'
  return tally


def _tell_all(phase, place, unbroken, number, draw) -> Tally:
  tally = Tally(f'signals to {phase}')
  for index in range(number):
    _tell(phase, place / f'told{index}', unbroken, draw, tally)
    shutil.rmtree(place / f'told{index}')
  return tally


def _tell(phase: str, workdir: Path, unbroken: kill_resume.Unbroken, draw: random.Random,
          tally: Tally) -> None:
  """Sends a signal once the run has begun, after a random part of its time."""
  number, tally.tries = draw.choice(_SIGNALS), tally.tries + 1
  processes = kill_resume.start(phase, workdir, subprocess.PIPE)
  while not (workdir / 'settings.json').exists() and processes[0].poll() is None:
    time.sleep(0.01)
  time.sleep(draw.random() * unbroken.seconds / 2)
  began = time.monotonic()
  for process in processes:
    process.send_signal(number)
  output, _ = processes[0].communicate(timeout=300)
  statuses = [process.wait(timeout=60) for process in processes]
  seconds, name = time.monotonic() - began, signal.Signals(number).name
  if 128 + number in statuses:
    tally.refused += 1
    if not output.endswith(f'error: {preemption.message(number)}\n') or 'Traceback' in output:
      tally.failures.append(f'{name}: said {output[-200:]!r}')
  # It may have ended before, or be ending, when it no longer listens.
  ended = {0, -number} if (workdir / 'results.json').exists() else set()
  if not set(statuses) <= {128 + number} | ended:
    tally.failures.append(f'{name}: status {statuses}: {output[-200:]!r}')
  if seconds > _MOST_SECONDS:
    tally.failures.append(f'{name}: took {seconds:.1f} s')
  tally.slowest = max(tally.slowest, seconds)
  kill_resume.finish(phase, workdir)
  found = kill_resume.outcome(workdir)
  tally.failures += [f'{name}: {key} differs' for key, value in unbroken.outcome.items()
                     if found.get(key) != value]
