"""Worker processes: programs that measure what they are asked for.

A worker reads one JSON object per line and answers each by another; README.md beside this file has the protocol.
"""
import contextlib
import json
import os
import pathlib
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

from benchmarks import machine
from mtl_jax.execution import memory

HERE = pathlib.Path(__file__).resolve().parent
_START_SECONDS = 300  # a worker imports its library in that time
_END_SECONDS = 5
_SHARED = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}  # a GPU is there for both sides


class WorkerError(ChildProcessError):
  """A worker cannot do what it was asked for; one line says why."""


class Effort(NamedTuple):
  """How much is measured."""
  pairs: int = 5              # rounds in which every side has its turn
  warmup: int = 1             # runs before that, beside the first one
  least_seconds: float = 0.2  # a turn repeats short runs for so long, and counts their median
  pause: float = 0.3          # seconds before a turn, in which the threads of the other side go to sleep
  limit: float | None = 300   # seconds for a setup with its first run; None for no limit


class Worker:
  """A process that answers requests.

  Args:
    command: program and arguments.
    environment: variables beside those of this process.

  Raises:
    WorkerError: it cannot be started.
  """

  def __init__(self, command: list[str], environment: dict[str, str] | None = None):
    began = time.monotonic()
    self._errors = tempfile.TemporaryFile()
    try:
      self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                                       text=True, env=_SHARED | os.environ | (environment or {}),
                                       start_new_session=True)
    except OSError as error:
      raise WorkerError(f'expected a program to run, got {command[0]!r}: {error.strerror}') from error
    self._lines = queue.SimpleQueue()
    threading.Thread(target=self._read, daemon=True).start()
    self.about = self._answer(_START_SECONDS)
    self.start_seconds = time.monotonic() - began

  def _read(self):
    for line in self._process.stdout:
      if line.startswith('{'):  # a library may print something else
        self._lines.put(line)
    self._lines.put(None)

  def _answer(self, limit):
    try:
      line = self._lines.get(timeout=limit)
    except queue.Empty:
      self._kill()
      raise WorkerError(f'> {limit:g} s') from None
    if line is None:
      raise WorkerError(f'worker ended with status {self._process.wait()}: {self._last_error()}')
    return json.loads(line)

  def _last_error(self):
    self._errors.seek(0)
    lines = self._errors.read().decode(errors='replace').strip().splitlines()
    return lines[-1][:200] if lines else 'it said nothing'

  def ask(self, request: dict, limit: float | None = None) -> dict:
    """Sends a request and waits for the answer.

    Args:
      request: of the protocol.
      limit: seconds; a worker that takes longer is ended.

    Returns:
      The answer.

    Raises:
      WorkerError: it declined or failed, ended, or took longer (the message is then '> LIMIT s').
    """
    try:
      print(json.dumps(request), file=self._process.stdin, flush=True)
    except (OSError, ValueError):
      pass  # it has ended; reading says so
    answer = self._answer(limit)
    if reason := answer.get('skip') or answer.get('error'):
      raise WorkerError(' '.join(reason.split())[:300])
    return answer

  def bound_memory(self, more: int) -> None:
    """Lets the process fail at what it allocates beyond a bound, where the system can (Linux).

    It can then say so; without a bound the system ends one process or another.

    Args:
      more: bytes, beside what it has by now.
    """
    if hasattr(resource, 'prlimit'):
      most = more + (machine.data_bytes(self._process.pid) or 0)
      with contextlib.suppress(OSError):  # it has ended
        resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (most, most))

  def close(self) -> None:
    """Ends the process, with those that it has started."""
    with contextlib.suppress(OSError):
      self._process.stdin.close()  # the end of its input ends a worker that is not busy
    try:
      self._process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
      self._kill()
    self._errors.close()

  def _kill(self):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()


class Bench:
  """Starts workers and remembers what they say about themselves.

  Args:
    commands: side ('jax', 'pytorch') -> its worker's program and arguments.
    effort: how much is measured.
  """

  def __init__(self, commands: dict[str, list[str]], effort: Effort):
    self.commands, self.effort, self.about = commands, effort, {}

  def start(self, side: str, environment: dict[str, str] | None = None) -> Worker:
    """Starts a worker.

    Args:
      side: 'jax' or 'pytorch'.
      environment: variables beside those of this process.

    Returns:
      A Worker that has described itself.
    """
    command = self.commands[side]
    if side == 'pytorch' and 'jax' in self.about:  # on the same device, with as many threads
      about = self.about['jax']
      command = [*command, *(['--device=cuda'] if about['platform'] == 'gpu' else
                             ['--device=cpu', f'--threads={about["threads"]}'])]
    worker = Worker(command, environment)
    self.about[side] = worker.about
    if self.about.get('jax', {}).get('platform') == 'cpu' and (more := memory.free_host_bytes()):
      worker.bound_memory(more)
    return worker

  @property
  def platform(self) -> str:
    """That of this library's devices: 'cpu', 'gpu' or 'tpu'. A worker tells, as this process leaves devices alone."""
    if 'jax' not in self.about:
      self.start('jax').close()
    return self.about['jax']['platform']


def commands(torch_python: str | None) -> dict[str, list[str]]:
  """Gives the programs of the workers.

  Args:
    torch_python: a Python with PyTorch, or None for this library alone.

  Returns:
    For `Bench`.
  """
  found = {'jax': [sys.executable, '-m', 'benchmarks.ours.worker']}
  if torch_python is not None:
    found['pytorch'] = [torch_python, str(HERE / 'pytorch' / 'worker.py')]
  return found
