"""A toy training that sends itself signals.

  python -m tests.runs.told_to_stop WORKDIR MOMENT NAME...

MOMENT is 'call', 'validation' (which then takes for ever), 'compiling' (likewise, within C) or
'import', of something that makes an error of its own of it.
"""
import ctypes
import os
import signal
import sys
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from launch import terminal
from mtl_jax.runs import fit, preemption
from mtl_jax.types import Score


class State(NamedTuple):
  step: jax.Array
  value: jax.Array


def start() -> State:
  return State(jnp.int32(0), jnp.float32(0.1))


def advance(state: State) -> tuple[State, dict]:
  later = State(state.step + 1, state.value * 1.5)
  return later, {'loss': 1 / state.value, 'accuracy': state.value}


def train(workdir, advance=advance, validate=lambda state: Score(float(state.value), 0.1)):
  """Six steps, validated after every second one."""
  return fit.fit(start(), advance, validate, phase='toy', num_steps=6, validate_every=2,
                 workdir=workdir)


def _tell(names: list[str]) -> None:
  for name in names:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(0.05)


def main(workdir: str, moment: str, *names: str) -> None:
  preemption.RESCUE_AFTER, preemption.END_AFTER = 0.3, 2.0

  def advance_and_tell(state):
    if state.step == 2 and moment == 'call':
      _tell(list(names))
    return advance(state)

  def validate_and_tell(state):
    if state.step == 4 and moment == 'validation':
      threading.Timer(0.1, _tell, [list(names)]).start()
      time.sleep(60)
    if state.step == 0 and moment == 'compiling':
      threading.Timer(0.1, _tell, [list(names)]).start()
      # Like a compiler: it does not come back to Python, and does not hold its lock.
      ctypes.CDLL(None).poll(None, 0, 60_000)
      time.sleep(60)
    if state.step == 0 and moment == 'import':
      try:
        _tell(list(names))
      except BaseException:
        raise ImportError('initialization failed') from None
    return Score(float(state.value), 0.1)

  for number in preemption.SIGNALS:  # some are ignored where the tests were started by nohup
    signal.signal(number, signal.SIG_DFL)
  with terminal.lasting_output(), preemption.watched(), terminal.errors_in_one_line():
    train(workdir, advance_and_tell, validate_and_tell)


if __name__ == '__main__':
  main(*sys.argv[1:])
