"""How the processes of a run find each other, and what is said where they do not."""
import socket
import threading

import jax
import pytest

from launch.flags import declared, processes

GROUPS = {'machine': processes.PROCESSES}


def join(*arguments):
  processes.join(declared.parse(GROUPS, arguments))


def test_the_first_process_may_come_later_but_not_never():
  with socket.socket() as first:
    first.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{first.getsockname()[1]}'
    with pytest.raises(ValueError, match=f'expected process 0 at --coordinator={address}, got no '
                                         'answer in 0.1 s '):
      processes.wait_for_first(address, seconds=0.1)
    threading.Timer(0.3, first.listen).start()
    processes.wait_for_first(address, seconds=10)


@pytest.mark.parametrize('arguments, message', [
    (['--coordinator=host:1'], 'expected --coordinator, --num_processes and --process_id together, '
                               'got no --num_processes'),
    (['--coordinator=host:1', '--num_processes=2', '--process_id=2'],
     'expected --process_id below --num_processes=2'),
    (['--coordinator=host', '--num_processes=2', '--process_id=0'],
     "expected --coordinator as HOST:PORT, got 'host'"),
    (['--coordinator=host:65536', '--num_processes=2', '--process_id=0'],
     'expected --coordinator as HOST:PORT, got'),
    (['--distributed', '--process_id=1'],
     'expected --distributed, .* or --coordinator .*, got both')])
def test_flags_that_do_not_go_together(arguments, message):
  with pytest.raises(ValueError, match=message):
    join(*arguments)


@pytest.mark.parametrize('raised, expected', [
    (RuntimeError('403'), '--distributed found no SLURM, .* around this process .403.; give '
                          '--coordinator'),
    (jax.errors.JaxRuntimeError('UNAVAILABLE'), '^UNAVAILABLE$')])
def test_no_cluster_is_told_from_one_that_fails(raised, expected, monkeypatch):
  def initialize(*_, **__):
    raise raised

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  with pytest.raises((ValueError, RuntimeError), match=expected):
    join('--distributed')
