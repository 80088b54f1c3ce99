"""What every launcher does around its one library call: machine settings before, one clear line after an error."""
import importlib.metadata
import importlib.util
import logging as python_logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable

import jax
import platformdirs
from absl import app, flags, logging

_COMPILE_CACHE = flags.DEFINE_bool('compile_cache', True, 'Keep compiled programs on disk, so that the next start is '
                                   'quick.')
_COMPILE_CACHE_MB = flags.DEFINE_integer('compile_cache_mb', 1024, 'Bound of that cache in megabytes; the programs '
                                         'unused for longest go first.', lower_bound=1)

# Lets XLA's own kernels, and not a slower library, compute the weight gradients of convolutions on CPU. A jaxlib that
# does not know the flag aborts at start, so it is set only for versions where it was seen to work.
_CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
_CPU_FLAG_JAXLIB = ('0.10.2',)
_ACCELERATOR_PACKAGES = ('jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm7_plugin', 'libtpu')


def start(run: Callable[[], None]) -> None:
  """Parses flags, prepares JAX, runs; the last line of a launcher.

  Args:
    run: the launcher's work; reads flags, prints its result.
  """
  def main(arguments):
    if len(arguments) > 1:
      _stop(f'expected flags only, got {arguments[1]!r}; see --help', 2)
    # absl's default hides what a run reports of itself: resuming, validation, finished.
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(None)
    python_logging.getLogger('jax').setLevel(python_logging.WARNING)  # it reports each backend it does not find
    logging.get_absl_logger().addFilter(_not_of_tfds)
    warnings.showwarning = lambda message, *_: logging.warning('warning: %s', message)  # without a line of source
    _mute_late_writers()
    prepare_jax()
    try:
      run()
    except (ValueError, OSError, FloatingPointError) as error:
      _stop(' '.join(str(error).split()) or type(error).__name__, 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
      if _lost_another(error):
        _stop(f'lost another process of this run ({" ".join(str(error).split())[:200]}); start the same command again '
              'in all processes to resume', 1)
      _stop(f'{" ".join(str(error).split())[:200] or "out of memory"}; if memory ran out, choose a smaller '
            '--batch_size, --tasks_at_once or --image_size, or give --images=host', 1)
    except KeyboardInterrupt:
      _stop('interrupted; start the same command again to resume', 130)
    except Exception:
      if jax.distributed.is_initialized():
        traceback.print_exc()
        _end(1)
      raise

  app.run(main, flags_parser=_parse)


def _not_of_tfds(record: python_logging.LogRecord) -> bool:
  """Drops what tensorflow-datasets tells of each file that it writes."""
  return 'tensorflow_datasets' not in record.pathname or record.levelno >= python_logging.WARNING


def _parse(arguments: list[str]) -> list[str]:
  try:
    return flags.FLAGS(arguments)
  except flags.Error as error:
    _stop(f'{" ".join(str(error).split())}; see --help', 2)


def prepare_jax() -> None:
  """Sets XLA's flag for CPU, unless the user set flags, and the bounded cache of compiled programs."""
  if _runs_on_cpu() and 'XLA_FLAGS' not in os.environ:
    if found := cpu_flags():
      os.environ['XLA_FLAGS'] = found
  if flags.FLAGS.is_parsed() and _COMPILE_CACHE.value and not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.join(platformdirs.user_cache_dir('mtl_jax'), 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    jax.config.update('jax_compilation_cache_max_size', _COMPILE_CACHE_MB.value * 2**20)


def cpu_flags() -> str:
  """Gives the flags of XLA that suit this library on a CPU; none for a version where they were not tried."""
  return _CPU_FLAG if importlib.metadata.version('jaxlib') in _CPU_FLAG_JAXLIB else ''


def _runs_on_cpu() -> bool:
  """Tells without starting JAX's backends, as XLA reads its flags when they start."""
  platforms = jax.config.jax_platforms
  if platforms:
    return platforms.split(',')[0] == 'cpu'
  return not any(importlib.util.find_spec(name) for name in _ACCELERATOR_PACKAGES)


def _mute_late_writers() -> None:
  """After a save failed, as on a full disk, the threads of orbax go on to report that to a loop it has closed."""
  python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)

  def show(unraisable):
    if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == 'Event loop is closed'):
      sys.__unraisablehook__(unraisable)

  sys.unraisablehook = show


def _stop(message: str, status: int) -> None:
  logging.flush()
  print(f'error: {message}', file=sys.stderr, flush=True)
  _end(status)


def _end(status: int) -> None:
  if jax.distributed.is_initialized():
    os._exit(status)  # an orderly exit would wait for the other processes, and they for this one
  sys.exit(status)


def _lost_another(error: Exception) -> bool:
  """Of several processes, one learns of the end of another by an error of what they compute together."""
  return (jax.distributed.is_initialized() and isinstance(error, jax.errors.JaxRuntimeError) and
          re.search('gloo|nccl|coordination|connection|socket|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE', str(error),
                    re.IGNORECASE) is not None)
