"""What a command says on the terminal: the lines of its run, and one clear line for an error."""
import contextlib
import faulthandler
import logging as python_logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import jax
from absl import flags, logging

_MOST_CHARACTERS = 200  # of an error of JAX, which may go on for pages
_AFTER_INTERRUPT = 130  # the exit status of a process that SIGINT has ended, by the shells' custom
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
  logging.get_absl_logger().addFilter(_not_of_tfds)
  # Without the line of source that Python would print below.
  warnings.showwarning = lambda message, *_: logging.warning('warning: %s', message)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
  """Ends the process with one line where an error is the user's or the machine's, not a bug."""
  try:
    yield
  except (ValueError, OSError, FloatingPointError) as error:
    stop(str(error) or type(error).__name__, 1)
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    text = ' '.join(str(error).split())[:_MOST_CHARACTERS]
    if _lost_another(error):
      stop(f'lost another process of this run ({text}); start the same command again in all '
           'processes to resume', 1)
    stop(f'{text or "out of memory"}; if memory ran out, choose a smaller --batch_size, '
         '--microbatch or --image_size, or give --images=host', 1)
  except KeyboardInterrupt:
    stop('interrupted; start the same command again to resume', _AFTER_INTERRUPT)
  except Exception:
    if jax.distributed.is_initialized():
      traceback.print_exc()
      _end(1)
    raise


def stop(message: str, status: int) -> NoReturn:
  """Ends the process with one line on stderr.

  Args:
    message: any text; line breaks become spaces.
    status: exit status.
  """
  logging.flush()
  print(f'error: {" ".join(message.split())}', file=sys.stderr, flush=True)
  _end(status)


def _end(status: int) -> NoReturn:
  if jax.distributed.is_initialized():
    os._exit(status)  # an orderly exit would wait for the other processes, and they for this one
  sys.exit(status)


def _lost_another(error: Exception) -> bool:
  """Whether another process has ended, which an error of what they compute together tells."""
  return (jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError) and
          _LOST.search(str(error)) is not None)


def _not_of_tfds(record: python_logging.LogRecord) -> bool:
  """Drops what tensorflow-datasets reports of each file that it writes."""
  return ('tensorflow_datasets' not in record.pathname or
          record.levelno >= python_logging.WARNING)
