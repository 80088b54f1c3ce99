"""This library's side of every measure, as a worker process: `python -m benchmarks.ours.worker`.

It answers requests on stdin, as README.md has them; measures.py names what is measured.
"""
import json
import os
import sys
import time

import jax
import numpy as np

from benchmarks import machine
from benchmarks.ours import measures
from mtl_jax.runs import xla

# A run of so many seconds may leave so much memory to be freed that the next one has not enough.
_LONG_RUN = 1.0
_LONGEST_ERROR = 300  # characters


class Server:
  """Answers requests; holds one measure at a time."""

  def __init__(self):
    self._unit = None

  def about(self) -> dict:
    """Describes this worker."""
    device = jax.devices()[0]
    on_cpu = device.platform == 'cpu'
    return {'name': 'jax', 'versions': {'jax': jax.__version__, 'numpy': np.__version__},
            'threads': machine.cores(),
            'device': machine.cpu_model() if on_cpu else device.device_kind,
            'platform': device.platform, 'devices': jax.device_count()}

  def answer(self, request: dict) -> dict:
    """Carries a request out.

    Args:
      request: of the protocol.

    Returns:
      The answer; {'error': one line} for whatever goes wrong.
    """
    try:
      return self._answer(dict(request))
    except Exception as error:
      text = ' '.join(str(error).split())[:_LONGEST_ERROR]
      return {'error': f'{type(error).__name__}: {text}'}

  def _answer(self, request):
    action = request.pop('do', None)
    if action == 'setup':
      self._unit = None  # the measure before it makes room
      start = time.perf_counter()
      self._unit = measures.prepare(request.pop('measure'), request.pop('mode'), request)
      return {'seconds': time.perf_counter() - start, **self._unit.about}
    if action not in ('run', 'save'):
      raise ValueError(f'expected do to be setup, run or save, got {action!r}')
    if self._unit is None:
      raise ValueError(f'expected a setup before {action}')
    if action == 'save':
      return {'value': self._unit.save(request['path'])}
    return self._timed()

  def _timed(self):
    machine.reset_peak()
    start = time.perf_counter()
    # The mean of an array is an array, and may be on its way.
    result = jax.block_until_ready(self._unit.run())
    seconds = time.perf_counter() - start
    value = result if self._unit.amount is None else self._unit.amount / seconds
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use', machine.peak_bytes())
    if seconds > _LONG_RUN:
      machine.wait_for_release()
    return {'seconds': seconds, 'value': float(value), 'peak_bytes': peak}


def _answer_line(server, line):
  try:
    request = json.loads(line)
  except ValueError:
    return {'error': f'expected a JSON object, got {line.strip()!r}'}
  return server.answer(request)


def main():
  """Answers until the input ends; whatever libraries print goes to stderr."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  xla.prepare()
  server = Server()
  print(json.dumps(server.about()), file=answers, flush=True)
  for line in sys.stdin:
    print(json.dumps(_answer_line(server, line)), file=answers, flush=True)


if __name__ == '__main__':
  main()
