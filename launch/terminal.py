"""What a command says on the terminal: the lines of its run, and one clear line for an error."""
import contextlib
import faulthandler
import logging as python_logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from absl import flags, logging

from mtl_jax.runs import preemption

DEBUG = '--debug'  # on any command line: stack traces too
_FIRST_ENDS_LATER = 0.5  # seconds
_MOST_CHARACTERS = 200  # of an error of JAX, which may go on for pages
# Words of the errors that follow where another process has gone.
_LOST = re.compile('gloo|nccl|coordination|connection|socket|'
                   'UNAVAILABLE|ABORTED|CANCELLED|DEADLINE', re.IGNORECASE)


def prepare() -> None:
  """Sets the log up: plain lines on stderr, of this library from INFO on, of others warnings."""
  with contextlib.suppress(Exception):  # where stderr is no file
    faulthandler.enable()
  # Flags are in FlagValues of each command; absl's logging asks after the global ones.
  flags.FLAGS.mark_as_parsed()
  logging.use_absl_handler()
  # absl's default hides what a run reports of itself: resuming, validation, finished.
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().setFormatter(None)
  # JAX reports each backend that it does not find.
  python_logging.getLogger('jax').setLevel(python_logging.WARNING)
  # Pillow logs what is wrong with an image, and then raises it, which is said with its name.
  python_logging.getLogger('PIL').setLevel(python_logging.CRITICAL)
  logging.get_absl_logger().addFilter(_not_of_tfds)
  # Without the line of source that Python would print below.
  warnings.showwarning = lambda message, *_: logging.warning('warning: %s', message)


@contextlib.contextmanager
def errors_in_one_line(debug: bool = False) -> Iterator[None]:
  """Ends the process with one line on any error: what is wrong, or where a bug is.

  Args:
    debug: whether to show the stack trace before it.
  """
  try:
    with _shown_trace(debug), preemption.unmistaken():
      yield
  except (ValueError, OSError, FloatingPointError) as error:
    _stop_if_alone(error)
    stop(str(error) or type(error).__name__, 1)
  except preemption.Stopped as stopped:
    stop(str(stopped), stopped.status)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    _stop_if_alone(error)
    text = ' '.join(str(error).split())[:_MOST_CHARACTERS]
    stop(f'{text or "out of memory"}; if memory ran out, choose a smaller --batch_size, '
         '--microbatch or --image_size, or give --images=host', 1)
  except KeyboardInterrupt:
    stop(preemption.message(signal.SIGINT), 128 + signal.SIGINT)
  except Exception as error:
    stop(_unforeseen(error), 1)


@contextlib.contextmanager
def _shown_trace(wanted: bool) -> Iterator[None]:
  """Prints the stack trace of an error that passes, if that is wanted."""
  try:
    yield
  except Exception:
    if wanted:
      traceback.print_exc()
    raise


def _unforeseen(error: Exception) -> str:
  """Says of an error that nobody has foreseen what it is, where, and what to do."""
  text = ' '.join(str(error).split())[:_MOST_CHARACTERS]
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if os.path.abspath(frame.filename).startswith(root + os.sep)]
  place = ''.join(f' at {os.path.relpath(frame.filename, root)}:{frame.lineno}'
                  for frame in own[-1:])
  return (f'{type(error).__name__}{place}: {text or "no message"}; nobody has foreseen this: '
          f'please report it with what the same command prints with {DEBUG}')


def stop(message: str, status: int) -> NoReturn:
  """Ends the process with one line on stderr.

  Args:
    message: any text; line breaks become spaces.
    status: exit status.
  """
  logging.flush()
  print(f'error: {" ".join(message.split())}', file=sys.stderr, flush=True)
  _end(status)


class _Lasting:
  """A standard stream that falls silent where nobody reads it any more, as behind `| head`.

  Args:
    stream: standard output or standard error.
  """

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes some text, if that can be written."""
    with self._silent_from_an_error_on():
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Writes what was held back, if that can be written."""
    with self._silent_from_an_error_on():
      self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  @contextlib.contextmanager
  def _silent_from_an_error_on(self) -> Iterator[None]:
    try:
      yield
    except OSError:
      nowhere = os.open(os.devnull, os.O_WRONLY)
      # In place of the file itself: Python writes what it holds back when the process ends.
      os.dup2(nowhere, self._stream.fileno())
      os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
  """Keeps work going where output cannot be written: its reader has ended, or a disk is full."""
  before = sys.stdout, sys.stderr
  sys.stdout, sys.stderr = map(_Lasting, before)
  try:
    yield
  finally:
    for stream in (sys.stdout, sys.stderr):
      stream.flush()
    sys.stdout, sys.stderr = before


def _end(status: int) -> NoReturn:
  if jax.distributed.is_initialized():
    if jax.process_index() == 0:
      time.sleep(_FIRST_ENDS_LATER)  # JAX ends the others with a stack trace where it is gone first
    os._exit(status)  # an orderly exit would wait for the other processes, and they for this one
  sys.exit(status)


def _stop_if_alone(error: Exception) -> None:
  """Ends this process where another one has ended, which an error of what they compute tells.

  JAX raises it as a JaxRuntimeError, or as a ValueError where an array is fetched that failed.
  """
  # Whatever its class, an error of XLA's begins with a code, such as UNKNOWN.
  ours = not (isinstance(error, jax.errors.JaxRuntimeError) or re.match('[A-Z_]+: ', str(error)))
  if ours or not jax.distributed.is_initialized() or not _LOST.search(str(error)):
    return
  if (number := preemption.told()) is not None:  # so has that one
    stop(preemption.message(number), 128 + number)
  text = ' '.join(str(error).split())[:_MOST_CHARACTERS]
  stop(f'lost another process of this run ({text}); start the same command again in all processes '
       'to resume', 1)


def _not_of_tfds(record: python_logging.LogRecord) -> bool:
  """Drops what tensorflow-datasets reports of each file that it writes."""
  return ('tensorflow_datasets' not in record.pathname or
          record.levelno >= python_logging.WARNING)
