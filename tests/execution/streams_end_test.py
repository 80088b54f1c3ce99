"""Runs over images on the host that are resumed, stopped early, or cannot read their images."""
import contextlib
import threading
import time

import jax
import numpy as np
import pytest

from mtl_jax.execution import from_host, read_ahead, readers
from tests.execution.both_rooms import copied, meta_training, pretraining, run
from tests.execution.toy_phases import mapped_pool, network


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
  return mapped_pool(tmp_path_factory.mktemp('images'))


@contextlib.contextmanager
def threads_end():
  before = set(threading.enumerate())
  yield
  end = time.monotonic() + 10
  while not set(threading.enumerate()) <= before and time.monotonic() < end:
    time.sleep(0.01)
  assert set(threading.enumerate()) <= before


class _Interrupted(Exception):
  """Something in the loop around `advance`."""


@pytest.mark.parametrize('phase, streams', [
    pytest.param(meta_training, 2, marks=pytest.mark.slow), (pretraining, 1)])
def test_resumed_and_stopped_early(pool, monkeypatch, phase, streams):
  unbroken = run(phase, from_host, pool)
  opened, original = [], read_ahead.stream

  def spy(*arguments, **options):
    opened.append(original(*arguments, **options))
    return opened[-1]

  monkeypatch.setattr(read_ahead, 'stream', spy)
  state = copied(unbroken[0][0])
  with threads_end(), pytest.raises(_Interrupted), phase(from_host, pool) as advance:
    resumed = advance(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))  # donated
    raise _Interrupted
  assert len(opened) == streams
  assert all(stream.gi_frame is None for stream in opened)  # closed
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(network()[1]))
  jax.tree.map(np.testing.assert_array_equal, resumed, unbroken[1])  # bitwise
  pairs = zip(*(jax.tree.leaves(unbroken[call]) for call in (1, 2)), strict=True)
  assert any(np.any(a != b) for a, b in pairs)


def test_a_run_that_takes_no_step_opens_no_stream(pool, monkeypatch):
  monkeypatch.setattr(read_ahead, 'stream', None)
  with threads_end(), meta_training(from_host, pool) as advance:
    assert callable(advance)


@pytest.mark.parametrize('reader', ['ordinary_tasks', 'drawn_tasks'])
def test_images_that_cannot_be_read_end_the_run_and_its_streams(pool, monkeypatch, reader):
  def read(number):
    raise OSError(5, 'Input/output error')

  monkeypatch.setattr(readers, reader, lambda *_, **__: read)
  message = 'item 0 of the stream could not be read.*Input/output error'
  with threads_end(), pytest.raises(OSError, match=message):
    run(meta_training, from_host, pool, calls=1)
