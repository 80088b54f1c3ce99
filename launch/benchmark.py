"""Measures this library against PyTorch, side by side in processes of their own, and writes tables and plots.

  python -m launch.benchmark --suite=all --out=runs/benchmark --torch_python=torchenv/bin/python

Writes SUITE.json, .md, .png and .svg under --out as soon as a suite is done, and benchmark.md of all of them. Run it on
a machine that does nothing else. benchmarks/README.md says what is measured.
"""
import datetime
import importlib.util
import json
import os
import subprocess
import sys

from absl import flags, logging

from benchmarks import machine, networks, plan, report, workers
from benchmarks.suites import compile_time, inner_loop, input_pipeline, meta_step, meta_test, scaling
from launch.flags import session

SUITES = {'compile': compile_time.SUITE, 'inner_loop': inner_loop.SUITE, 'meta_step': meta_step.SUITE,
          'meta_test': meta_test.SUITE, 'input': input_pipeline.SUITE, 'scaling': scaling.SUITE}

SUITE = flags.DEFINE_list('suite', None, f'What to measure: some of {", ".join(SUITES)}, or all.')
OUT = flags.DEFINE_string('out', None, 'Folder for the results. Suites that are there already are left as they are.')
TORCH_PYTHON = flags.DEFINE_string('torch_python', None, 'A Python that can import torch; by default this one, if it '
                                   'can. Without any, this library is measured alone.')
TORCH_MODES = flags.DEFINE_list('torch_modes', [], 'Ways of computing on the side of PyTorch, as benchmarks/README.md '
                                'names them; by default all.')
SIZE = flags.DEFINE_enum('size', 'full', ['full', 'smoke'], 'smoke: everything tiny, for a first look in minutes.')
PAIRS = flags.DEFINE_integer('pairs', None, 'Rounds in which every side has its turn; by default 5, and 1 with '
                             '--size=smoke.', lower_bound=1)
IMAGE_SIZES = flags.DEFINE_list('image_sizes', ['32', '84', '224'], 'Sides of the images of suite meta_step, pixels.')
NETWORKS = flags.DEFINE_list('networks', ['resnet12'], f'Networks, some of {", ".join(networks.NAMES)}; suites other '
                             'than meta_step take the first.')
TASKS = flags.DEFINE_integer('tasks', 2, 'Tasks of one meta-step, in suite meta_step.', lower_bound=1)
LIMIT = flags.DEFINE_integer('limit', 300, 'Seconds that a side may take to set up and give its first result; one '
                             'that takes longer is ended and shown so.', lower_bound=1)
WHOLE = flags.DEFINE_bool('whole', False, 'Suite meta_test: run every task of every side, without --limit, instead of '
                          'samples that are scaled.')


def run():
  """Measures what the flags name."""
  names, request, torch_python = _names(), _request(), _torch_python()
  request = request._replace(pytorch=torch_python is not None)
  settings = {name: SUITES[name].settings(request) for name in names}
  wanted = [name for name in names if not _is_there(name, settings[name])]
  if os.path.exists(OUT.value) and not os.path.isdir(OUT.value):
    raise ValueError(f'expected --out to be a folder, got the file {OUT.value}')
  os.makedirs(OUT.value, exist_ok=True)
  for name in wanted:
    logging.info('measuring %s', name)
    bench = workers.Bench(workers.commands(torch_python), plan.effort(settings[name]))
    results = measure(SUITES[name], settings[name], bench, _command(name))
    report.write(OUT.value, name, SUITES[name], results)
    print(report.markdown(name, SUITES[name], results), flush=True)
  print(f'written to {report.join(OUT.value, list(SUITES))}')


def measure(suite: plan.Suite, settings: dict, bench: workers.Bench, command: str) -> dict:
  """Runs one suite.

  Args:
    suite: one of SUITES.
    settings: as it makes them of a request.
    bench: starts its workers.
    command: the command line, for the report.

  Returns:
    What is written to its JSON file.
  """
  date = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d')
  found = suite.measure(settings, bench)
  return {'command': command, 'date': date, 'machine': machine.describe(), 'workers': bench.about,
          'settings': settings, **found}


def _names():
  """The suites, in their order."""
  unknown = sorted(set(SUITE.value or ()) - {*SUITES, 'all'})
  if unknown or not SUITE.value:
    raise ValueError(f'expected --suite among {", ".join(SUITES)}, all; got {unknown[0] if unknown else "none"!r}')
  if not OUT.value:
    raise ValueError('expected --out, a folder for the results, got none')
  return [name for name in SUITES if name in SUITE.value or 'all' in SUITE.value]


def _request():
  for size in IMAGE_SIZES.value:
    if not size.isdecimal() or int(size) < 16:
      raise ValueError(f'expected --image_sizes to be numbers of at least 16, such as 32,84, got {size!r}')
  unknown = sorted(set(NETWORKS.value) - set(networks.NAMES))
  if unknown:
    raise ValueError(f'expected --networks among {", ".join(networks.NAMES)}, got {unknown[0]!r}')
  modes = sorted({mode for suite in SUITES.values() for mode in suite.torch_modes})
  unknown = sorted(set(TORCH_MODES.value) - set(modes))
  if unknown:
    raise ValueError(f'expected --torch_modes among {", ".join(modes)}, got {unknown[0]!r}')
  for flag in (NETWORKS, IMAGE_SIZES):
    if not flag.value:
      raise ValueError(f'expected some --{flag.name}, got none')
  return plan.Request(
      size=SIZE.value, pairs=PAIRS.value or (5 if SIZE.value == 'full' else 1), whole=WHOLE.value, limit=LIMIT.value,
      image_sizes=tuple(int(size) for size in IMAGE_SIZES.value), networks=tuple(NETWORKS.value), tasks=TASKS.value,
      torch_modes=tuple(TORCH_MODES.value))


def _torch_python():
  """A Python with PyTorch, or None."""
  if TORCH_PYTHON.value is None:
    return sys.executable if importlib.util.find_spec('torch') else None
  try:
    found = subprocess.run([TORCH_PYTHON.value, '-c', 'import torch'], capture_output=True, text=True, timeout=300)
  except (OSError, subprocess.TimeoutExpired) as error:
    raise ValueError(f'expected --torch_python to be a Python with torch, got {TORCH_PYTHON.value!r}: '
                     f'{error}') from error
  if found.returncode:
    last = found.stderr.strip().splitlines()[-1:] or ['it failed']
    raise ValueError(f'expected --torch_python to be a Python with torch, got {TORCH_PYTHON.value!r}: {last[0]}')
  return TORCH_PYTHON.value


def _is_there(name, settings):
  """Whether the suite was measured with the same settings; refuses others."""
  path = os.path.join(OUT.value, f'{name}.json')
  if not os.path.exists(path):
    return False
  try:
    with open(path, encoding='utf-8') as file:
      there = dict(json.load(file)['settings'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: expected results of this command; remove it') from error
  here = json.loads(json.dumps(settings))
  odd = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
  if odd:
    raise ValueError(f'{path} was measured with other settings: {odd[0]} is {json.dumps(there.get(odd[0]))} there and '
                     f'{json.dumps(here.get(odd[0]))} here; choose another --out')
  logging.info('%s is there already: nothing to do', path)
  return True


def _command(name):
  """The command line, without where things lie on this machine."""
  given = [f'--{flag}={flags.FLAGS[flag].value}' for flag in ('size', 'pairs', 'tasks', 'limit')
           if flags.FLAGS[flag].present]
  given += [f'--{flag}={",".join(flags.FLAGS[flag].value)}' for flag in ('image_sizes', 'networks', 'torch_modes')
            if flags.FLAGS[flag].present]
  return ' '.join(['python -m launch.benchmark', f'--suite={name}', *given, *(['--whole'] * WHOLE.value), '--out=DIR'])


if __name__ == '__main__':
  session.start(run)
