"""Worker processes: programs that measure what they are asked for.

A worker reads one JSON object per line and answers each by another; README.md beside this file has
the protocol.
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
_START_SECONDS = 300  # in which a worker must have imported its library
_END_SECONDS = 5      # in which a worker must end after its input has
_SHARED = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}  # a GPU is there for both sides


class WorkerError(ChildProcessError):
  """A worker cannot do what it was asked for; the message is one line with the reason."""


class Effort(NamedTuple):
  """How much is measured."""
  pairs: int = 5              # rounds in which every side has its turn
  warmup: int = 1             # runs before that, beside the first one
  least_seconds: float = 0.2  # a turn repeats short runs for so long, and counts their median
  pause: float = 0.3          # seconds before a turn, for threads of the other side to fall asleep
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
      self._process = subprocess.Popen(
          command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
          env=_SHARED | os.environ | (environment or {}), start_new_session=True)
    except OSError as error:
      self._errors.close()
      raise WorkerError(f'expected a program to run, got {command[0]!r}: '
                        f'{error.strerror}') from error
    self._lines = queue.SimpleQueue()
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()
    try:
      self.about = self._answer(_START_SECONDS)
    except WorkerError:
      self.close()
      raise
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
      status = self._process.wait()
      raise WorkerError(f'worker ended with status {status}: {self._last_error()}')
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
      WorkerError: it declined, failed, ended, or took longer (the message is then '> LIMIT s').
    """
    with contextlib.suppress(OSError, ValueError):  # it has ended; reading says so
      print(json.dumps(request), file=self._process.stdin, flush=True)
    answer = self._answer(limit)
    if reason := answer.get('skip') or answer.get('error'):
      raise WorkerError(' '.join(reason.split())[:300])
    return answer

  def bound_memory(self, more: int) -> None:
    """Bounds what the process may allocate, where the system can (Linux).

    It can then report the allocation that failed; without a bound the system ends one process or
    another.

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
    self._reader.join(_END_SECONDS)
    if not self._reader.is_alive():  # else a process that it started still holds its output open
      self._process.stdout.close()
    self._errors.close()

  def _kill(self):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()


class Bench:
  """Starts workers and keeps how they describe themselves, in `about`.

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
      on_cpu = ['--device=cpu', f'--threads={about["threads"]}']
      command = [*command, *(['--device=cuda'] if about['platform'] == 'gpu' else on_cpu)]
    worker = Worker(command, environment)
    self.about[side] = worker.about
    if self.about.get('jax', {}).get('platform') == 'cpu' and (more := memory.free_host_bytes()):
      worker.bound_memory(more)
    return worker

  @property
  def platform(self) -> str:
    """The platform of this library's devices: 'cpu', 'gpu' or 'tpu'.

    A worker names it, as this process does not start JAX's devices.
    """
    if 'jax' not in self.about:
      self.start('jax').close()
    return self.about['jax']['platform']


def commands(torch_python: str | None) -> dict[str, list[str]]:
  """Returns the programs of the workers.

  Args:
    torch_python: a Python with PyTorch, or None for this library alone.

  Returns:
    Side -> program and arguments, for `Bench`.
  """
  found = {'jax': [sys.executable, '-m', 'benchmarks.ours.worker']}
  if torch_python is not None:
    found['pytorch'] = [torch_python, str(HERE / 'pytorch' / 'worker.py')]
  return found
