"""Flags of a run of several processes, and how they find each other."""
import os
import socket
import sys
import time

import jax
from absl import logging
from absl.flags import FlagValues
from jax.experimental import multihost_utils

from .declared import Flag, Flags

PROCESSES: Flags = (
    Flag('coordinator', 'Where process 0 listens, for processes started by hand.', str,
         shown='HOST:PORT'),
    Flag('num_processes', 'With --coordinator: how many processes there are.', int, least=1,
         most=65_536),
    Flag('process_id', 'With --coordinator: number of this process, from 0.', int, least=0,
         most=65_535),
    Flag('distributed', 'Find the other processes that SLURM, Open MPI, Kubernetes or Cloud TPU '
         'started.', bool, False),
    Flag('heartbeat_seconds', 'Seconds without a sign of life after which a process counts as '
         'lost.', int, 100, least=1, most=86_400),
)
_BY_HAND = ('coordinator', 'num_processes', 'process_id')

_TELL_AFTER = 10.0  # seconds of waiting for process 0 that pass without a word
_RETRY_EVERY = 0.2  # seconds


def join(values: FlagValues) -> None:
  """Joins the other processes of the run, where the flags say that there are any.

  Afterwards all processes but the first are silent: it speaks for all.

  Args:
    values: parsed flags, PROCESSES among them.

  Raises:
    ValueError: flags that do not go together, or no other process is found.
  """
  if not _initialize(values):
    return
  # Connects them all. JAX allows 30 s for that; from then on the others wait for the first as long
  # as need be.
  multihost_utils.sync_global_devices('joined')
  logging.info('process %d of %d, with %d of %d devices', jax.process_index(), jax.process_count(),
               jax.local_device_count(), jax.device_count())
  if jax.process_index() > 0:
    logging.set_verbosity(logging.WARNING)
    sys.stdout = open(os.devnull, 'w', encoding='utf-8')


def _initialize(values: FlagValues) -> bool:
  """Starts JAX's distributed runtime; False where this process is the only one."""
  missing = [name for name in _BY_HAND if values[name].value is None]
  if len(missing) == len(_BY_HAND) and not values.distributed:
    return False
  _check_together(values, missing)
  if not values.distributed and values.process_id > 0:
    wait_for_first(values.coordinator)
  # JAX's own handler of SIGTERM would hear it in our place (`runs.preemption`).
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
        values.coordinator, values.num_processes, values.process_id,
        heartbeat_timeout_seconds=values.heartbeat_seconds,
        cluster_detection_method=None if values.distributed else 'deactivate')
  except (ValueError, RuntimeError) as error:
    # An error of JAX's runtime is that of a cluster that it has found.
    if not values.distributed or isinstance(error, jax.errors.JaxRuntimeError):
      raise
    raise ValueError('--distributed found no SLURM, Open MPI, Kubernetes or Cloud TPU around this '
                     f'process ({error}); give --coordinator, --num_processes and --process_id '
                     'instead') from error
  return True


def _check_together(values: FlagValues, missing: list[str]) -> None:
  if values.distributed:
    if len(missing) < len(_BY_HAND):
      raise ValueError('expected --distributed, which finds the other processes by itself, or '
                       '--coordinator with --num_processes and --process_id, got both')
    return
  if missing:
    raise ValueError('expected --coordinator, --num_processes and --process_id together, got no '
                     f'--{missing[0]}')
  if values.process_id >= values.num_processes:
    raise ValueError(f'expected --process_id below --num_processes={values.num_processes}, got '
                     f'{values.process_id}')
  host, _, port = values.coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise ValueError(f'expected --coordinator as HOST:PORT, got {values.coordinator!r}')


def wait_for_first(coordinator: str, seconds: float = 300) -> None:
  """Waits until process 0 listens.

  Where nothing listens, JAX itself would abort this process with a stack trace.

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
        raise ValueError(f'expected process 0 at --coordinator={coordinator}, got no answer in '
                         f'{seconds:g} s ({error})') from error
    if waited > _TELL_AFTER and not told:
      told = True
      logging.info('waiting for process 0 at %s', coordinator)
    time.sleep(_RETRY_EVERY)
