"""Values read ahead: in order, by threads, within bounds, and to any end."""
import contextlib
import threading
import time
import weakref

import jax
import numpy as np
import pytest

from mtl_jax.execution import read_ahead

ROOT = jax.random.key(11)


@pytest.mark.parametrize('prefetch, num_threads', [(0, 4), (1, 4), (5, 3), (100, 8)])
def test_values_come_in_order_however_long_each_takes(prefetch, num_threads):
  delays = np.random.default_rng(2).uniform(0, 0.004, 30)

  def read(number):
    time.sleep(delays[number])
    return number

  numbers = list(range(29, -1, -1))
  stream = read_ahead.stream(read, numbers, prefetch=prefetch, num_threads=num_threads)
  assert list(stream) == numbers


def test_values_are_put_on_the_device_that_is_named():
  device = jax.devices()[3]
  values = {'images': np.arange(6, dtype=np.uint8), 'labels': np.zeros(2, np.int32)}
  on_device, = read_ahead.stream(lambda number: values, [5], device=device)
  assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(on_device))
  for name, value in values.items():
    assert on_device[name].dtype == value.dtype
    np.testing.assert_array_equal(on_device[name], value)


def test_nothing_and_none_are_values_too():
  assert list(read_ahead.stream(lambda number: None, range(3))) == [None] * 3
  assert list(read_ahead.stream(lambda number: number, range(0))) == []


def wait_until(condition):
  """Waits for other threads, for ten seconds at the most."""
  end = time.monotonic() + 10
  while not condition() and time.monotonic() < end:
    time.sleep(0.002)
  assert condition()


class Value:
  """Something that can be looked for after it was dropped."""

  def __init__(self, number):
    self.number = number


def test_no_more_is_read_ahead_or_kept_than_asked_for():
  lock, begun, alive = threading.Lock(), [], weakref.WeakSet()
  handed_over = most_begun = most_alive = 0

  def read(number):
    nonlocal most_begun, most_alive
    value = Value(number)
    with lock:
      begun.append(number)
      alive.add(value)
      most_begun = max(most_begun, len(begun) - handed_over)
      most_alive = max(most_alive, len(alive))
    return value

  stream = read_ahead.stream(read, range(40), num_threads=3, prefetch=5)
  with contextlib.closing(stream) as values:
    wait_until(lambda: len(begun) == 5)  # before the first one is asked for
    for value in values:
      handed_over += 1
      wait_until(lambda v=value.number: len(begun) == min(v + 6, 40))
  # Between two requests five wait; during one, a sixth is read, and the one handed over last is
  # kept.
  assert sorted(begun) == list(range(40)) and 5 <= most_begun <= 6 and 5 <= most_alive <= 7


def test_reads_run_side_by_side_and_ahead_of_the_caller():
  # Breaks, and raises, unless three reads are under way at once.
  together = threading.Barrier(3, timeout=10)

  def read(number):
    together.wait()
    return number, threading.current_thread() is threading.main_thread()

  values = list(read_ahead.stream(read, range(6), num_threads=3, prefetch=3))
  assert values == [(number, False) for number in range(6)]


# --- Ends before the end. ---

@pytest.mark.parametrize('error, raised, message', [
    (OSError(5, 'Input/output error'), OSError, 'item 4 of the stream.*Input/output error'),
    (StopIteration(), OSError, 'item 4 of the stream'),
    (ValueError('expected this'), ValueError, '^expected this$'),  # nothing added
])
@pytest.mark.parametrize('prefetch', [0, 3])
def test_an_error_reaches_the_caller_in_its_turn(error, raised, message, prefetch):
  def read(number):
    if number == 4:
      raise error
    return number

  values, got = read_ahead.stream(read, range(20), prefetch=prefetch), []
  with pytest.raises(raised, match=message):
    for value in values:
      got.append(value)
  assert got == [0, 1, 2, 3]
  assert list(values) == []  # and the stream is over


@pytest.mark.parametrize('taken', [0, 2])
def test_closing_early_does_not_wait_and_reads_no_further(taken):
  begun, stuck = [], threading.Event()

  def read(number):
    begun.append(number)
    if number >= 2:
      stuck.wait(20)
    return number

  before = set(threading.enumerate())
  values = read_ahead.stream(read, range(1000), num_threads=2, prefetch=4)
  assert [next(values) for _ in range(taken)] == list(range(taken))
  wait_until(lambda: len(begun) == 4)  # both threads hang
  start = time.monotonic()
  values.close()
  del values
  assert time.monotonic() - start < 5
  stuck.set()
  wait_until(lambda: set(threading.enumerate()) <= before)
  assert len(begun) <= 6  # what was asked for, of a thousand


def test_a_draw_compiled_for_the_cpu_is_called_from_many_threads():
  def numbers(step, key):
    return jax.random.randint(jax.random.fold_in(key, step), (50,), 0, 10**6)

  draw = read_ahead.on_cpu(numbers, ROOT)
  values = list(read_ahead.stream(draw, range(30), num_threads=8, prefetch=8))
  assert all(type(value) is np.ndarray for value in values)
  expected = [numbers(step, ROOT) for step in range(30)]
  np.testing.assert_array_equal(values, expected)


# --- Bad input. ---

@pytest.mark.parametrize('options, message', [
    ({'num_threads': 0}, 'expected num_threads of at least 1, got 0'),
    ({'prefetch': -1}, 'expected prefetch of at least 0, got -1'),
])
def test_bad_options_are_refused_before_anything_is_read(options, message):
  begun = []
  with pytest.raises(ValueError, match=message):
    read_ahead.stream(begun.append, range(3), **options)
  assert begun == []
