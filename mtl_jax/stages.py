"""What takes long says so on the log, in one line, so that nobody waits in silence.

Commands show these lines on stderr; in a notebook they show once absl's verbosity is INFO.
"""
import contextlib
import threading
import time
from collections.abc import Iterator

from absl import logging

FIRST_AFTER = 1.0  # seconds after which a stage is announced
EVERY = 15.0       # seconds between two later lines

_open: list[object] = []  # stages that go on, the innermost last: it alone speaks


@contextlib.contextmanager
def stage(what: str, *, quiet: bool = False) -> Iterator[None]:
  """Announces work that goes on for longer than a second, and says now and then that it still does.

  Args:
    what: is being done, as in 'decoding images'.
    quiet: whether to announce only what is unusually long, as where other lines come anyway.
  """
  done, me = threading.Event(), object()
  speaker = threading.Thread(target=_speak, args=(what, done, me, quiet), daemon=True)
  _open.append(me)
  speaker.start()
  try:
    yield
  finally:
    done.set()
    speaker.join()
    _open.remove(me)


def _speak(what: str, done: threading.Event, me: object, quiet: bool) -> None:
  began, said = time.monotonic(), False
  while not done.wait(EVERY if said or quiet else FIRST_AFTER):
    if _open[-1] is me:
      logging.info('%s ...%s', what, f' {time.monotonic() - began:.0f} s' if said else '')
    said = True  # or what goes on inside of it has spoken
