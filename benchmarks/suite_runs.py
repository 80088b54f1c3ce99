"""Running suites: which of them are there already, with which Python, and where results go."""
import datetime
import importlib.util
import json
import os
import subprocess
import sys

from absl import logging

from benchmarks import machine, plan, results, workers
from benchmarks.suites import (
  compile_time,
  inner_loop,
  input_pipeline,
  meta_step,
  meta_testing,
  scaling,
)

SUITES = {'compile': compile_time.SUITE, 'inner_loop': inner_loop.SUITE,
          'meta_step': meta_step.SUITE, 'meta_test': meta_testing.SUITE,
          'input': input_pipeline.SUITE, 'scaling': scaling.SUITE}
_IMPORT_SECONDS = 300  # in which a Python must have imported torch


def run(names: list[str], out: str, request: plan.Request, torch_python: str | None,
        command: dict[str, str]) -> str:
  """Measures the suites that are not there yet, and writes and prints what they find.

  Args:
    names: some of SUITES.
    out: folder for the results; made where it is missing.
    request: of the user; `pytorch` follows from `torch_python`.
    torch_python: a Python with PyTorch, or None.
    command: suite -> the command line that measures it, for its report.

  Returns:
    The path of the joined report.

  Raises:
    ValueError: `out` is a file, or holds results of other settings or damaged ones.
    OSError: a file cannot be read or written.
  """
  request = request._replace(pytorch=torch_python is not None)
  settings = {name: SUITES[name].settings(request) for name in names}
  wanted = [name for name in names if not is_measured(out, name, settings[name])]
  if os.path.exists(out) and not os.path.isdir(out):
    raise ValueError(f'expected --out to be a folder, got the file {out}')
  os.makedirs(out, exist_ok=True)
  for name in wanted:
    logging.info('measuring %s', name)
    bench = workers.Bench(workers.commands(torch_python), plan.effort(settings[name]))
    found = measure(SUITES[name], settings[name], bench, command[name])
    results.write(out, name, SUITES[name], found)
    print(results.markdown(name, SUITES[name], found), flush=True)
  return results.join(out, list(SUITES))


def measure(suite: plan.Suite, settings: dict, bench: workers.Bench, command: str) -> dict:
  """Runs one suite.

  Args:
    suite: one of SUITES.
    settings: of the suite for a request.
    bench: starts its workers.
    command: the command line, for the report.

  Returns:
    The content of its JSON file.
  """
  date = datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d')
  found = suite.measure(settings, bench)
  return {'command': command, 'date': date, 'machine': machine.describe(), 'workers': bench.about,
          'settings': settings, **found}


def is_measured(out: str, name: str, settings: dict) -> bool:
  """Whether a suite was measured with the same settings.

  Args:
    out: folder of the results.
    name: of the suite.
    settings: of the suite.

  Raises:
    ValueError: it was measured with others, or its file is damaged.
    OSError: its file cannot be read.
  """
  path = os.path.join(out, f'{name}.json')
  if not os.path.exists(path):
    return False
  try:
    with open(path, encoding='utf-8') as file:
      there = dict(json.load(file)['settings'])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: expected results of this command; '
                     'remove it') from error
  here = json.loads(json.dumps(settings))  # tuples become lists, as in the file
  odd = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
  if odd:
    values = [json.dumps(each.get(odd[0])) for each in (there, here)]
    raise ValueError(f'{path} was measured with other settings: {odd[0]} is {values[0]} there and '
                     f'{values[1]} here; choose another --out')
  logging.info('%s is there already: nothing to do', path)
  return True


def torch_python(given: str | None) -> str | None:
  """Returns a Python that can import torch.

  Args:
    given: the one that the user names; None for the Python that runs this.

  Returns:
    Its path; None where the user names none and this one cannot.

  Raises:
    ValueError: the one that the user names cannot.
  """
  if given is None:
    return sys.executable if importlib.util.find_spec('torch') else None
  refused = f'expected --torch_python to be a Python with torch, got {given!r}'
  try:
    found = subprocess.run([given, '-c', 'import torch'], capture_output=True, text=True,
                           timeout=_IMPORT_SECONDS)
  except (OSError, subprocess.TimeoutExpired) as error:
    raise ValueError(f'{refused}: {error}') from error
  if found.returncode:
    last = found.stderr.strip().splitlines()[-1:] or ['it failed']
    raise ValueError(f'{refused}: {last[0]}')
  return given
