"""Takes away where a run writes: a full disk, one that is read-only, a folder that is moved.

Disks are file systems in memory, in a namespace of their own, so that no rights are needed; where
the system has none, nothing is tried and the row says so.
"""
import random
import shutil
import subprocess
import time
from pathlib import Path

from tests import tiny_runs
from tests.faults.tally import Tally
from tests.runs import kill_resume

# Makes a disk of SIZE bytes, runs, must see a refusal; makes room, runs on; keeps what came of it.
_FULL = """
mount -t tmpfs -o size="$SIZE" none "$PLACE" && cp -a "$BEGUN/." "$PLACE/" || exit 90
mkdir -p "$PLACE/run"
"$@" >"$SAID" 2>&1 && echo 0 >"$STATUS" || echo $? >"$STATUS"
mount -o remount,size=200m "$PLACE" && "$@" >"$SAID.after" 2>&1 || exit 91
cp -a "$PLACE/run" "$KEPT"
"""
# The same on a disk that cannot be written to; a folder of a run that was stopped lies there.
_READ_ONLY = """
mount -t tmpfs -o size=200m none "$PLACE" && cp -a "$BEGUN/." "$PLACE/" || exit 90
mkdir -p "$PLACE/run"
mount -o remount,ro "$PLACE"
"$@" >"$SAID" 2>&1 && echo 0 >"$STATUS" || echo $? >"$STATUS"
mount -o remount,rw "$PLACE" && "$@" >"$SAID.after" 2>&1 || exit 91
cp -a "$PLACE/run" "$KEPT"
"""
_PHASE = 'pretrain'


def of_runs(folder: Path, number: int, seed: int) -> list[Tally]:
  """Breaks pre-trainings so, and goes on with them; each must end as the unbroken run.

  Args:
    folder: an empty one.
    number: of tries of each kind.
    seed: decides sizes and moments.
  """
  draw, unbroken = random.Random(seed), kill_resume.run_unbroken(_PHASE, folder)
  size = sum(path.stat().st_size for path in (folder / 'unbroken').rglob('*') if path.is_file())
  full, read_only, moved = (Tally(name) for name in (
      'full disk', 'read-only disk', 'work directory moved'))
  for index in range(number):
    for tally, script, room in ((full, _FULL, int(draw.uniform(0.05, 0.7) * size)),
                                (read_only, _READ_ONLY, 0)):
      place = folder / f'{tally.name.split()[0]}{index}'
      _on_a_disk(script, room, place, unbroken, tally, begun=index % 2 == 1, draw=draw)
    _moved(folder / f'moved{index}', unbroken, draw, moved)
  return [full, read_only, moved]


def _on_a_disk(script, room, place, unbroken, tally, *, begun, draw) -> None:
  """One try; `begun`: the disk holds a run that was killed before."""
  (place / 'disk').mkdir(parents=True)
  (place / 'begun').mkdir()
  if begun:
    kill_resume.kill(_PHASE, place / 'begun' / 'run', draw.uniform(0.3, 0.8) * unbroken.seconds)
  room += sum(path.stat().st_size for path in (place / 'begun').rglob('*') if path.is_file())
  variables = {'SIZE': str(room), 'PLACE': str(place / 'disk'), 'BEGUN': str(place / 'begun'),
               'SAID': str(place / 'said'), 'STATUS': str(place / 'status'),
               'KEPT': str(place / 'kept')}
  ended = subprocess.run(
      ['unshare', '-rm', 'sh', '-c', script, 'sh',
       *kill_resume.command(_PHASE, place / 'disk' / 'run')], cwd=tiny_runs.ROOT,
      env=tiny_runs.environment() | variables, capture_output=True, text=True, timeout=600)
  if not (place / 'status').exists():
    if ended.returncode != 90 or not begun:  # files take whole pages there, so some do not fit
      tally.name = f'{tally.name.split(",")[0]}, not tried: {ended.stderr.strip()[-80:]}'
    return
  tally.tries += 1
  status = int((place / 'status').read_text())
  _judge(status, (place / 'said').read_text(), tally)
  if status == 0:
    tally.failures.append('status 0, though nothing could be written')
  if not (place / 'kept').exists():
    said = place / 'said.after'
    tally.failures.append(f'did not go on: {said.read_text()[-300:] if said.exists() else ended}')
    return
  _compare(place / 'kept', unbroken, tally)
  shutil.rmtree(place)


def _judge(status: int, said: str, tally: Tally) -> None:
  if 'Traceback' in said or status not in (0, 1, 2):
    tally.failures.append(f'status {status}: {said[-400:]!r}')
  elif status:
    tally.refused += 1
    if [line.startswith('error: ') for line in said.splitlines()].count(True) != 1:
      tally.failures.append(f'status {status}, said {said[-400:]!r}')


def _moved(place: Path, unbroken, draw: random.Random, tally: Tally) -> None:
  """Moves the folder of a run away while it goes on, and back."""
  place.mkdir()
  workdir, away = place / 'run', place / 'away'
  [process] = kill_resume.start(_PHASE, workdir, subprocess.PIPE)
  while not (workdir / 'settings.json').exists() and process.poll() is None:
    time.sleep(0.01)
  time.sleep(draw.random() * unbroken.seconds / 2)
  workdir.rename(away)
  said, _ = process.communicate(timeout=300)
  tally.tries += 1
  _judge(process.returncode, said, tally)
  if process.returncode == 0 and not (away / 'results.json').exists():
    tally.failures.append('status 0 without results')
  shutil.rmtree(workdir, ignore_errors=True)
  away.rename(workdir)
  kill_resume.finish(_PHASE, workdir)
  _compare(workdir, unbroken, tally)
  shutil.rmtree(place)


def _compare(workdir: Path, unbroken: kill_resume.Unbroken, tally: Tally) -> None:
  found = kill_resume.outcome(workdir)
  tally.failures += [f'{name} differs' for name, value in unbroken.outcome.items()
                     if found.get(name) != value]
