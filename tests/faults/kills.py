"""Ends each phase at random moments, by SIGKILL and by the signals of clusters, and resumes it."""
import random
import signal
import subprocess
import time
from pathlib import Path

from mtl_jax.runs import preemption
from tests import tiny_runs
from tests.faults.tally import Tally
from tests.runs import kill_resume

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_MOST_SECONDS = 10.0  # from a signal to the end


def of_phases(folder: Path, number: int, seed: int) -> list[Tally]:
  """Kills each phase, then tells it to stop; each time it must end as the unbroken run.

  Args:
    folder: an empty one.
    number: of kills, and of signals, of each phase.
    seed: decides the moments.
  """
  tallies = []
  for phase in kill_resume.PHASES:
    draw, place = random.Random(seed), folder / phase
    place.mkdir()
    unbroken = kill_resume.run_unbroken(phase, place)
    killed, told = Tally(f'SIGKILL of {phase}'), Tally(f'signals to {phase}')
    for index in range(number):
      kill = kill_resume.kill_and_resume(phase, place / f'kill{index}', unbroken, draw.random())
      killed.tries += 1
      killed.failures += [f'after {kill.seconds:.1f} s: {name} differs' for name in kill.differing]
      _tell(phase, place / f'told{index}', unbroken, draw, told)
    tallies += [killed, told]
  return tallies


def _tell(phase: str, workdir: Path, unbroken: kill_resume.Unbroken, draw: random.Random,
          tally: Tally) -> None:
  """Sends a signal once the run has begun, after a random part of its time."""
  number, tally.tries = draw.choice(_SIGNALS), tally.tries + 1
  process = subprocess.Popen(kill_resume.command(phase, workdir), cwd=tiny_runs.ROOT,
                             env=tiny_runs.environment(), stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
  while not (workdir / 'settings.json').exists() and process.poll() is None:
    time.sleep(0.01)
  time.sleep(draw.random() * unbroken.seconds / 2)
  began = time.monotonic()
  process.send_signal(number)
  output, _ = process.communicate()
  seconds, name = time.monotonic() - began, signal.Signals(number).name
  if process.returncode == 128 + number:
    tally.refused += 1
    if not output.endswith(f'error: {preemption.message(number)}\n') or 'Traceback' in output:
      tally.failures.append(f'{name}: said {output[-200:]!r}')
  elif process.returncode != 0 and process.returncode != -number:  # it had ended; or was ending
    tally.failures.append(f'{name}: status {process.returncode}: {output[-200:]!r}')
  if seconds > _MOST_SECONDS:
    tally.failures.append(f'{name}: took {seconds:.1f} s')
  kill_resume._finish(phase, workdir)
  found = kill_resume.outcome(workdir)
  tally.failures += [f'{name}: {key} differs' for key, value in unbroken.outcome.items()
                     if found.get(key) != value]
