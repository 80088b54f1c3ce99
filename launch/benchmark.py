"""Measures this library against PyTorch, side by side in processes, and writes tables and plots.

Writes SUITE.json, .md, .png and .svg under --out as soon as a suite is done, and benchmark.md of
all of them. Run it on a machine that does nothing else. benchmarks/README.md says what is measured.
"""
from collections.abc import Sequence
from pathlib import Path

from absl.flags import FlagValues

from . import command, terminal
from .flags import machine
from .flags.declared import Flag, Groups

# The benchmarks are in the repository alone; an installed package has this file without them.
try:
  from benchmarks import network_shapes, plan, suite_runs
  from benchmarks.suite_runs import SUITES
except ImportError:
  if __name__ != '__main__':
    raise
  terminal.stop('expected the folder benchmarks, which is in the repository alone and is not '
                'installed: run `python -m launch.benchmark` in a clone', 1)

EXAMPLES = (
    ('All suites, with PyTorch of another environment:',
     '--suite=all --out=runs/benchmark --torch_python=torchenv/bin/python'),
    ('A first look at two suites, in minutes:',
     '--suite=inner_loop,meta_step --size=smoke --out=runs/smoke'),
)
_FULL_PAIRS, _SMOKE_PAIRS = 5, 1
FLAGS: Groups = {
    'task': (Flag('suite', f'What to measure: some of {", ".join(SUITES)}, or all.', list,
                  required=True),
             Flag('size', 'smoke: everything tiny, for a first look in minutes.',
                  ('full', 'smoke'), 'full'),
             Flag('image_sizes', 'Sides of the images of suite meta_step, pixels.', list,
                  ['32', '84', '224']),
             Flag('tasks', 'Tasks of one meta-step, in suite meta_step.', int, 2, least=1,
                  most=65_536),
             Flag('whole', 'Suite meta_test: run every task of every side, without --limit, '
                  'instead of samples that are scaled.', bool, False)),
    'data': (Flag('out', 'Folder for the results. Suites that are there already are left as they '
                  'are.', Path, shown='DIR', required=True),),
    'method': (Flag('networks', f'Networks, some of {", ".join(network_shapes.NAMES)}; suites '
                    'other than meta_step take the first.', list, ['resnet12']),
               Flag('torch_modes', 'Ways of computing on the side of PyTorch, as '
                    'benchmarks/README.md names them; by default all.', list, [])),
    'machine': (Flag('torch_python', 'A Python that can import torch; by default this one, if it '
                     'can. Without any, this library is measured alone.', Path),
                Flag('pairs', 'Rounds in which every side has its turn; by default '
                     f'{_FULL_PAIRS}, and {_SMOKE_PAIRS} with --size=smoke.', int, least=1,
                     most=1000),
                Flag('limit', 'Seconds that a side may take to set up and compute its first '
                     'result; one that takes longer is ended and shown so.', int, 300, least=1,
                     most=86_400),
                *machine.COMPILE_CACHE),
}

_LEAST_IMAGE_SIZE = 16  # pixels: below, ResNet-12 has no pixel left


def run(values: FlagValues) -> None:
  """Measures what the flags name, and prints where the results are.

  Args:
    values: parsed flags.
  """
  names, request = _names(values), _request(values)
  torch_python = suite_runs.torch_python(values.torch_python)
  commands = {name: _command_line(values, name) for name in names}
  print(f'written to {suite_runs.run(names, values.out, request, torch_python, commands)}')


def _names(values: FlagValues) -> list[str]:
  """The suites that the flags name, in their order."""
  unknown = sorted(set(values.suite or ()) - {*SUITES, 'all'})
  if unknown or not values.suite:
    raise ValueError(f'expected --suite among {", ".join(SUITES)}, all; '
                     f'got {unknown[0] if unknown else "none"!r}')
  if not values.out:
    raise ValueError('expected --out, a folder for the results, got none')
  return [name for name in SUITES if name in values.suite or 'all' in values.suite]


def _request(values: FlagValues) -> plan.Request:
  """The request that the flags stand for."""
  for size in values.image_sizes:
    if not size.isdecimal() or int(size) < _LEAST_IMAGE_SIZE:
      raise ValueError(f'expected --image_sizes to be numbers of at least {_LEAST_IMAGE_SIZE}, '
                       f'such as 32,84, got {size!r}')
  _check_known('networks', values.networks, network_shapes.NAMES)
  _check_known('torch_modes', values.torch_modes,
               sorted({mode for suite in SUITES.values() for mode in suite.torch_modes}))
  for name in ('networks', 'image_sizes'):
    if not values[name].value:
      raise ValueError(f'expected some --{name}, got none')
  pairs = values.pairs or (_FULL_PAIRS if values.size == 'full' else _SMOKE_PAIRS)
  return plan.Request(
      size=values.size, pairs=pairs, whole=values.whole, limit=values.limit,
      image_sizes=tuple(int(size) for size in values.image_sizes),
      networks=tuple(values.networks), tasks=values.tasks, torch_modes=tuple(values.torch_modes))


def _check_known(flag: str, given: Sequence[str], names: Sequence[str]) -> None:
  if unknown := sorted(set(given) - set(names)):
    raise ValueError(f'expected --{flag} among {", ".join(names)}, got {unknown[0]!r}')


def _command_line(values: FlagValues, name: str) -> str:
  """The command line of one suite, without where things lie on this machine."""
  given = [f'--{flag}={values[flag].value}' for flag in ('size', 'pairs', 'tasks', 'limit')
           if values[flag].present]
  given += [f'--{flag}={",".join(values[flag].value or ())}'
            for flag in ('image_sizes', 'networks', 'torch_modes') if values[flag].present]
  whole = ['--whole'] * values.whole
  return ' '.join(['python -m launch.benchmark', f'--suite={name}', *given, *whole, '--out=DIR'])


COMMAND = command.Command('benchmark', __doc__, EXAMPLES, FLAGS, run)

if __name__ == '__main__':
  command.start(COMMAND)
