"""Being told to stop: SIGTERM and its like save where a training stands, and end it soon.

Clusters end runs by a signal and some seconds of grace. `watched` makes a process listen. A
training looks between its calls (`agreed`), saves and raises `Stopped`; whatever else goes on is
left at once, as nothing would be lost. What neither looks nor can be left, such as a compiler, is
ended from a thread of its own.
"""
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import logging

from mtl_jax.runs import hosts

# Not every system has all of them.
SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1',
                                                   'SIGUSR2') if hasattr(signal, name))
RESCUE_AFTER = 5.0  # seconds after the signal; a validation that goes on is then not waited for
END_AFTER = 8.5     # seconds after the signal, whatever goes on


class Stopped(BaseException):
  """A signal has told this process to stop; no Exception, so that nobody takes it for an error.

  Args:
    number: of the signal.
  """

  def __init__(self, number: int):
    super().__init__(number)
    self.number = number

  def __str__(self) -> str:
    return message(self.number)

  @property
  def status(self) -> int:
    """Exit status, by the custom of shells: 143 after SIGTERM."""
    return 128 + self.number


def message(number: int) -> str:
  """Returns what a process says that a signal has ended.

  Args:
    number: of the signal.
  """
  name = 'interrupted' if number == signal.SIGINT else f'stopped by {signal.Signals(number).name}'
  return f'{name}; start the same command again to resume'


class _Watch:
  """What this process was told, and what it does about it."""

  def __init__(self):
    self.number: int | None = None  # the first signal
    self._handled = False           # whether the main thread knows
    self.raised = False             # whether `Stopped` was raised in it
    self._looks = False             # whether a training looks by itself
    self._rescue: Callable[[], None] | None = None
    self._lock = threading.Lock()   # of `_rescue`, while it is set and while it runs
    self._ears, self._mouth = socket.socketpair()
    self._ears.setblocking(True)
    self._mouth.setblocking(False)  # as Python wants it of what its handlers write to
    self._listener = threading.Thread(target=self._listen, daemon=True)

  def start(self) -> Callable[[], None]:
    """Listens; returns what ends that."""
    # Who started this process under nohup, or in the background, wants these ignored.
    before = {number: signal.signal(number, self._handle) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    descriptor = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
    self._listener.start()

    def end():
      signal.set_wakeup_fd(descriptor)
      for number, handler in before.items():
        signal.signal(number, handler)
      self._mouth.close()
      self._listener.join()
      self._ears.close()

    return end

  @contextlib.contextmanager
  def looks(self) -> Iterator[None]:
    """While the main thread asks by itself; a signal raises nothing then."""
    self._looks = True
    try:
      yield
    finally:
      self._looks = False

  @contextlib.contextmanager
  def rescued_by(self, save: Callable[[], None]) -> Iterator[None]:
    """While `save` may be called from another thread, as the last thing that happens."""
    with self._lock:
      self._rescue = save
    try:
      yield
    finally:
      with self._lock:  # waits for ever where `save` has begun: the process ends with it
        self._rescue = None

  def _handle(self, number: int, frame: object) -> None:
    """Runs in the main thread, as soon as that is in Python."""
    del frame
    if self._handled:
      return
    self._handled = True
    self.number = self.number or number
    if not self._looks:
      self.raised = True
      raise Stopped(self.number)

  def _listen(self) -> None:
    """Runs in a thread of its own; hears of signals while the main thread is in compiled code."""
    heard = [number for number in self._ears.recv(1) if number in SIGNALS]
    if not heard:
      return
    self.number = self.number or heard[0]
    began = time.monotonic()
    while (left := began + END_AFTER - time.monotonic()) > 0:
      rescue_in = began + RESCUE_AFTER - time.monotonic()
      if rescue_in <= 0:
        self._try_to_rescue()
      self._ears.settimeout(min(left, rescue_in) if rescue_in > 0 else min(left, 0.2))
      with contextlib.suppress(TimeoutError, OSError):
        again = self._ears.recv(1)
        if not again:
          return  # `watched` has ended
        if again[0] == signal.SIGINT:
          break  # whoever presses Ctrl-C again will not wait
    _end(self.number)

  def _try_to_rescue(self) -> None:
    if self._rescue is not None and self._lock.acquire(blocking=False):
      if self._rescue is not None:
        try:
          self._rescue()
        except Exception as error:
          logging.warning('%s', error)
        finally:
          _end(self.number or signal.SIGTERM)
      self._lock.release()


_watch: _Watch | None = None  # one at most, as signals belong to the process


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Listens to signals that tell this process to stop, for as long as the context lasts.

  A process that was told goes on listening afterwards, until it ends: a second Ctrl-C then prints
  nothing.

  Raises:
    Stopped: raised within, in the main thread.
  """
  global _watch
  if _watch is not None or threading.current_thread() is not threading.main_thread():
    yield
    return
  _watch = _Watch()
  end = _watch.start()
  try:
    yield
  finally:
    if _watch.number is None:
      end()
      _watch = None


def looks() -> contextlib.AbstractContextManager[None]:
  """Returns the context of a training that calls `agreed` now and then."""
  return contextlib.nullcontext() if _watch is None else _watch.looks()


def rescued_by(save: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
  """Returns the context of what may take long while the state of a training stands still.

  Args:
    save: saves that state; called at most once, from another thread, just before the process ends.
  """
  return contextlib.nullcontext() if _watch is None else _watch.rescued_by(save)


def told() -> int | None:
  """Returns the signal that has told this process to stop; None where none has."""
  return None if _watch is None else _watch.number


@contextlib.contextmanager
def unmistaken() -> Iterator[None]:
  """Raises `Stopped` in place of the error that something has made of it.

  An import of compiled code, say, that is left at once, fails by an ImportError of its own.
  """
  try:
    yield
  except Exception as error:
    if _watch is None or not _watch.raised:
      raise
    raise Stopped(_watch.number or signal.SIGTERM) from error


def agreed() -> int | None:
  """Returns the signal that has told any process of this run to stop: the same in all of them."""
  return hosts.greatest(told() or 0) or None


def _end(number: int) -> NoReturn:
  """Ends this process at once, from any thread."""
  with contextlib.suppress(Exception):
    logging.flush()
    print(f'error: {message(number)}', file=sys.stderr, flush=True)
  os._exit(128 + number)
