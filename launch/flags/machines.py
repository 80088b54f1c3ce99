"""Flags of the devices and processes that share one run, for the launchers of the single phases."""
import os
import socket
import sys
import time
from collections.abc import Callable

import jax
from absl import flags, logging
from jax.experimental import multihost_utils

from mtl_jax import sharding

DEVICES = flags.DEFINE_string('devices', None, 'Devices that share the work of each step: a number, or all. By default '
                              'one, or those of all processes where there are several.')
POOL = flags.DEFINE_enum('pool', 'replicated', list(sharding.POOLS), 'With several devices: all images in the memory of '
                         'each, or an equal part in each (sharded), with the same tasks.')
PROFILE = flags.DEFINE_string('profile', None, 'Folder for a trace of a few steady steps of training, to be opened '
                              'with XProf or Perfetto.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, for a run of several processes that '
                                  'are started by hand.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many processes there are.',
                                     lower_bound=1)
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: number of this process, from 0.',
                                  lower_bound=0)
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'The run has several processes, which SLURM, Open MPI, '
                                'Kubernetes or Cloud TPU started: they find each other.')
HEARTBEAT_SECONDS = flags.DEFINE_integer('heartbeat_seconds', 100, 'With several processes: seconds without a sign '
                                         'of life after which one counts as lost.', lower_bound=1)


def layout() -> sharding.Layout | None:
  """Gives the devices that the flags name.

  Returns:
    As `devices.layout`.

  Raises:
    ValueError: there are no such devices.
  """
  return sharding.layout(DEVICES.value, POOL.value)


def joined(run: Callable[[], None]) -> Callable[[], None]:
  """Makes a launcher's work join the other processes first, where the flags say that there are any.

  Args:
    run: the work.

  Returns:
    The same, for `session.start`.
  """
  def work():
    if _join():
      # Connects them all. JAX allows 30 s for that; from then on the others wait for the first as long as need be.
      multihost_utils.sync_global_devices('joined')
      logging.info('process %d of %d, with %d of %d devices', jax.process_index(), jax.process_count(),
                   jax.local_device_count(), jax.device_count())
      if jax.process_index() > 0:  # the first one speaks for all
        logging.set_verbosity(logging.WARNING)
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')
    run()

  return work


def _join() -> bool:
  """True where this process is one of several."""
  given = {'coordinator': COORDINATOR.value, 'num_processes': NUM_PROCESSES.value, 'process_id': PROCESS_ID.value}
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given) and not DISTRIBUTED.value:
    return False
  if DISTRIBUTED.value and len(missing) < len(given):
    raise ValueError('expected --distributed, which finds the other processes by itself, or --coordinator with '
                     '--num_processes and --process_id, got both')
  if missing and not DISTRIBUTED.value:
    raise ValueError(f'expected --coordinator, --num_processes and --process_id together, got no --{missing[0]}')
  if not DISTRIBUTED.value:
    _check(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if PROCESS_ID.value > 0:
      wait_for_first(COORDINATOR.value)
  try:
    jax.distributed.initialize(
        COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, heartbeat_timeout_seconds=HEARTBEAT_SECONDS.value,
        cluster_detection_method=None if DISTRIBUTED.value else 'deactivate')
  except (ValueError, RuntimeError) as error:
    if not DISTRIBUTED.value or isinstance(error, jax.errors.JaxRuntimeError):  # of a cluster that it has found
      raise
    raise ValueError(f'--distributed found no SLURM, Open MPI, Kubernetes or Cloud TPU around this process ({error}); '
                     'give --coordinator, --num_processes and --process_id instead') from error
  return True


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
  if process_id >= num_processes:
    raise ValueError(f'expected --process_id below --num_processes={num_processes}, got {process_id}')
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(f'expected --coordinator as HOST:PORT, got {coordinator!r}')


def wait_for_first(coordinator: str, seconds: float = 300) -> None:
  """Waits until process 0 listens; JAX itself would abort the process, with a stack trace, if it did not.

  Args:
    coordinator: HOST:PORT of process 0, which may start later than this one.
    seconds: to wait at most.

  Raises:
    ValueError: it did not answer in that time.
  """
  host, _, port = coordinator.rpartition(':')
  began, told = time.monotonic(), False
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
      return
    except OSError as error:
      waited = time.monotonic() - began
      if waited > seconds:
        raise ValueError(f'expected process 0 at --coordinator={coordinator}, got no answer in {seconds:g} s '
                         f'({error})') from error
      if waited > 10 and not told:
        told = True
        logging.info('waiting for process 0 at %s', coordinator)
    time.sleep(0.2)
