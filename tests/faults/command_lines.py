"""Wrong command lines, made from the flags' own registry: each must end in one line, and soon.

Numbers are not finite, or beyond their bounds; paths are pipes, folders where files belong and
files where folders do, missing, in brackets, of somebody unknown. Values that the parser takes are
run too where a path or a huge number stands in them.
"""
import os
import pathlib
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from launch import command
from launch.flags import declared
from tests import forked, tiny_runs
from tests.exports import artefacts
from tests.faults.tally import MOST_SECONDS, Tally
from tests.launch.help_test import MODULES, of

_FLOATS = ('nan', 'inf', '-inf', '1e400', '1e300')
_INTS = ('0', '-1', str(2**31), str(2**64))
# What a command writes or fills; a path that can be made is no mistake there.
_WRITTEN = ('workdir', 'out', 'save', 'cache_dir', 'profile', 'export')
# Whole runs of these take minutes: of them only what the parser refuses is tried.
_LONG = ('quickstart', 'reproduce', 'benchmark')


class Line(NamedTuple):
  """A command line."""
  module: str
  arguments: list[str]
  refused: bool  # it must be


def of_registry(folder: pathlib.Path, number: int, seed: int) -> list[Tally]:
  """Runs wrong command lines of every command.

  Args:
    folder: an empty one.
    number: of lines, drawn from all of them.
    seed: decides which.
  """
  lines = list(_lines(folder))
  drawn = random.Random(seed).sample(lines, min(number, len(lines)))
  wrong, odd = Tally(f'wrong command lines of {len(lines):,}'), Tally('odd ones that may succeed')
  for line in drawn:
    _run(line, folder, wrong if line.refused else odd)
  return [wrong, odd]


def _run(line: Line, folder: pathlib.Path, tally: Tally) -> None:
  tally.tries += 1
  written = folder / 'written'
  written.mkdir()
  (written / 'file').write_text('x', encoding='ascii')
  arguments = [argument.replace('WRITTEN', str(written)) for argument in line.arguments]
  began = time.monotonic()
  shown, there = f'{line.module} {" ".join(line.arguments)[-300:]}', set(os.listdir(tiny_runs.ROOT))
  try:
    result = forked.run([f'launch.{line.module}', *arguments],
                        tiny_runs.environment() | {'HOME': str(written)}, timeout=60)
  except subprocess.TimeoutExpired:
    tally.failures.append(f'{shown}: did not end')
    shutil.rmtree(written)
    return
  seconds = time.monotonic() - began
  made = set(os.listdir(tiny_runs.ROOT)) - there  # perhaps by another test
  if any(name in argument for name in made for argument in arguments):
    tally.failures.append(f'{shown}: wrote into the current folder')
  said = [text for text in result.stderr.splitlines() if text.startswith('error: ')]
  tally.slowest = max(tally.slowest, seconds)
  tally.refused += result.returncode in (1, 2)
  if 'Traceback' in result.stderr + result.stdout or result.returncode not in (0, 1, 2):
    tally.failures.append(f'{shown}: status {result.returncode}: {result.stderr[-300:]!r}')
  elif result.returncode == 0 and line.refused:
    tally.failures.append(f'{shown}: status 0')
  elif result.returncode and len(said) != 1:
    tally.failures.append(f'{shown}: said {result.stderr[-300:]!r}')
  if line.refused and seconds > MOST_SECONDS:
    tally.failures.append(f'{shown}: took {seconds:.1f} s')
  shutil.rmtree(written)


def _lines(folder: pathlib.Path) -> Iterator[Line]:
  odd = _odd_paths(folder)
  for module in MODULES:
    base = _base(module)
    for flag in declared.flatten(of(module).flags):
      kinds = {float: _FLOATS, int: _INTS, pathlib.Path: odd}
      for value in kinds.get(flag.kind, ()):
        # Of a flag given twice the last counts.
        arguments = [*base, f'--{flag.name}={value}']
        if not _parses(module, [argument.replace('WRITTEN', str(folder))
                                for argument in arguments]):
          yield Line(module, arguments, refused=True)
        elif flag.kind is pathlib.Path and module not in _LONG:
          yield Line(module, arguments, refused=_never(flag, value, odd))
        elif flag.kind is float and value == '1e300' and module not in _LONG:
          yield Line(module, arguments, refused=False)


def _never(flag: declared.Flag, value: str, odd: dict[str, str]) -> bool:
  """Whether no command could do anything sensible with a path."""
  kind = odd[value]
  return kind in ('pipe', 'dangling', 'nobody') or flag.name not in _WRITTEN


def _odd_paths(folder: pathlib.Path) -> dict[str, str]:
  """path -> what it is. They are there for all lines, and none is changed."""
  odd = folder / 'odd[*]'
  odd.mkdir()
  os.mkfifo(odd / 'pipe')
  (odd / 'file').write_text('x', encoding='ascii')
  (odd / 'folder').mkdir()
  (odd / 'dangling').symlink_to('nowhere/at/all')
  return {str(odd / 'pipe'): 'pipe', str(odd / 'file'): 'file', str(odd / 'folder'): 'folder',
          str(odd / 'dangling'): 'dangling', '/dev/zero': 'pipe', 'WRITTEN/a[b]/x': 'missing',
          '~nobody-of-this-name/x': 'nobody', '~/x': 'missing'}


def _parses(module: str, arguments: list[str]) -> bool:
  try:
    command.parse(of(module), arguments)
  except (flags.Error, ValueError):
    return False
  return True


def _base(module: str) -> list[str]:
  """A command line that succeeds, in folders that are there for one line each."""
  run, photos = tiny_runs.pretrained(), tiny_runs.shared() / 'data' / 'test'
  tiny = tiny_runs.data_flags() + tiny_runs.FLAGS.get(module, [])
  bases = {
      'pretrain': [*tiny, '--workdir=WRITTEN/run'],
      'meta_train': [*tiny, f'--pretrained={run}', '--workdir=WRITTEN/run'],
      'meta_test': [*tiny, f'--checkpoint={run}', '--workdir=WRITTEN/run', '--nopage'],
      'adapt': [f'--network={run}', f'--photos={photos}'],
      'predict': [f'--classifier={artefacts.saved()}', f'--predict={photos}',
                  '--out=WRITTEN/x.csv'],
      'export': [f'--network={run}', '--out=WRITTEN/x.bin'],
      'page': [f'--run={run}', '--out=WRITTEN/x.html', '--noimages'],
      'show': [f'--run={run}'],
      'features': [f'--network={run}', f'--images={photos}', '--out=WRITTEN/x.npz'],
      'import_weights': [f'--workdir={run}', '--export=WRITTEN/x.npz'],
      'quickstart': ['--workdir=WRITTEN/run'],
      'reproduce': ['--workdir=WRITTEN/run'],
      'benchmark': [],
  }
  return bases[module]
