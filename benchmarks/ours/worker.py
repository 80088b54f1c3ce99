"""This library's side of every measure, as a worker process: `python -m benchmarks.ours.worker`.

It answers requests on stdin, as README.md has them; what is measured stands in measures.py.
"""
import json
import os
import sys
import time

import jax
import numpy as np

from benchmarks import machine
from benchmarks.ours import measures
from launch.flags import session


class Server:
  """Answers requests; holds one measure at a time."""

  def __init__(self):
    self._measure = None

  def about(self) -> dict:
    """Describes this worker."""
    device = jax.devices()[0]
    return {'name': 'jax', 'versions': {'jax': jax.__version__, 'numpy': np.__version__}, 'threads': machine.cores(),
            'device': machine.cpu_model() if device.platform == 'cpu' else device.device_kind,
            'platform': device.platform, 'devices': jax.device_count()}

  def answer(self, request: dict) -> dict:
    """Does what is asked for.

    Args:
      request: of the protocol.

    Returns:
      The answer; {'error': one line} for whatever goes wrong.
    """
    try:
      return self._do(dict(request))
    except Exception as error:
      return {'error': f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'}

  def _do(self, request):
    action = request.pop('do', None)
    if action == 'setup':
      self._measure = None  # what was there makes room
      start = time.perf_counter()
      self._measure = measures.prepare(request.pop('measure'), request.pop('mode'), request)
      return {'seconds': time.perf_counter() - start, **self._measure.about}
    if action not in ('run', 'save'):
      raise ValueError(f'expected do to be setup, run or save, got {action!r}')
    if self._measure is None:
      raise ValueError(f'expected a setup before {action}')
    if action == 'save':
      return {'value': self._measure.save(request['path'])}
    return self._timed()

  def _timed(self):
    machine.reset_peak()
    start = time.perf_counter()
    result = jax.block_until_ready(self._measure.run())  # the mean of an array is an array, and may be on its way
    seconds = time.perf_counter() - start
    value = result if self._measure.amount is None else self._measure.amount / seconds
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use', machine.peak_bytes())
    if seconds > 1:
      machine.wait_for_release()
    return {'seconds': seconds, 'value': float(value), 'peak_bytes': peak}


def _answer(server, line):
  try:
    request = json.loads(line)
  except ValueError:
    return {'error': f'expected a JSON object, got {line.strip()!r}'}
  return server.answer(request)


def main():
  """Answers until the input ends; whatever libraries print goes to stderr."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  session.prepare_jax()
  server = Server()
  print(json.dumps(server.about()), file=answers, flush=True)
  for line in sys.stdin:
    print(json.dumps(_answer(server, line)), file=answers, flush=True)


if __name__ == '__main__':
  main()
