"""Streaming: the episodes of an in-memory run bit for bit, in order, ahead of time and within bounds."""
import contextlib
import functools
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import episodes
from mtl_jax.execution import read_ahead
from mtl_jax.phases import meta_train
from mtl_jax.types import EpisodeIndices, ImagePool

SIZES = np.array([6, 9, 7, 12, 6, 8], np.int32)
ROOT = jax.random.key(11)
TASK = {'way': 3, 'shot': 2, 'query': 3}
FAILURES = np.array([0, 3, 0, 1, 1, 0], np.int32)
PLAIN = meta_train.MetaTrainConfig(**TASK, meta_batch=2, crop_padding=0, flip=False)


@pytest.fixture(scope='module')
def mapped(tmp_path_factory):
  """Images in a file, mapped read-only, each of another content."""
  path = tmp_path_factory.mktemp('images') / 'images.npy'
  np.save(path, np.random.default_rng(0).integers(0, 256, (SIZES.sum(), 4, 5, 3), dtype=np.uint8))
  images = np.load(path, mmap_mode='r')
  assert isinstance(images, np.memmap)
  return ImagePool(images, (np.cumsum(SIZES) - SIZES).astype(np.int32), SIZES)


@pytest.fixture(scope='module')
def read_ordinary(mapped):
  return read_ahead.ordinary_reader(ROOT, mapped, tasks=2, **TASK)


def in_memory(pool):
  return jax.tree.map(jnp.asarray, pool)


def assert_equal(got, expected):
  for name in expected._fields:
    a, b = getattr(got, name), getattr(expected, name)
    assert a.dtype == b.dtype, name
    np.testing.assert_array_equal(a, b, name)


@functools.cache
def in_memory_tasks():
  """The tasks of meta-training as drawn on the device, of a number of steps, not augmented: images are uint8 / 255."""
  def many(steps, pool, failures, hard):
    zero, one = jnp.zeros(3), jnp.ones(3)
    return jax.lax.map(lambda t: meta_train.draw_tasks(jax.random.fold_in(ROOT, t), pool, zero, one, failures, hard,
                                                       config=PLAIN), steps)

  return jax.jit(many)


def meta_train_tasks(pool, steps, hard):
  tasks = in_memory_tasks()(jnp.asarray(steps), in_memory(pool), FAILURES, hard)
  as_bytes = {name: np.rint(255 * getattr(tasks, name)).astype(np.uint8) for name in ('support_images', 'query_images')}
  return [jax.tree.map(lambda x, i=i: x[i], tasks._replace(**as_bytes)) for i in range(len(steps))]


def hard_reader(pool, steps):
  draw = jax.jit(functools.partial(episodes.draw_hard, tasks=2, **TASK))
  return read_ahead.drawn_reader(pool, draw(ROOT, read_ahead.without_images(pool), FAILURES, jnp.asarray(steps)), shot=2)


# --- The same images, bit for bit. ---

def test_ordinary_tasks_are_those_of_meta_training_in_memory(mapped, read_ordinary):
  steps = [0, 1, 2, 7, 8, 9]  # without the hard steps of a cycle
  streamed = list(read_ahead.stream(read_ordinary, steps))
  assert len(streamed) == 6
  for got, expected in zip(streamed, meta_train_tasks(mapped, steps, False), strict=True):
    assert isinstance(got.support_images, np.ndarray) and got.support_images.dtype == np.uint8
    assert got.query_images.shape == (2, 9, 4, 5, 3)
    assert_equal(got, expected)
  assert len({tuple(classes) for tasks in streamed for classes in tasks.class_ids}) > 6


def test_hard_tasks_are_those_of_meta_training_in_memory(mapped):
  steps = list(range(3, 43))
  streamed = read_ahead.stream(hard_reader(mapped, steps), range(len(steps)))
  for got, expected in zip(streamed, meta_train_tasks(mapped, steps, True), strict=True):
    assert_equal(got, expected)
    assert all(set(classes) == {1, 3, 4} for classes in got.class_ids)  # those that failed


def test_tasks_of_meta_test_are_those_of_sample(mapped):
  keys = jax.random.split(jax.random.key(5), 7)
  streamed = list(read_ahead.stream(read_ahead.task_reader(keys, mapped, **TASK), range(7)))
  expected = jax.jit(jax.vmap(lambda key: episodes.sample(key, in_memory(mapped), **TASK)))(keys)
  assert_equal(jax.tree.map(lambda *x: np.stack(x), *streamed), expected)


def test_batches_are_those_of_pre_training_in_memory(mapped):
  def batch(step, pool):
    index_key, _, _ = jax.random.split(jax.random.fold_in(ROOT, step), 3)
    index = jax.random.randint(index_key, (32,), 0, pool.images.shape[0])
    return pool.images[index], jnp.searchsorted(pool.class_offsets, index, side='right') - 1

  steps = range(4, 8)
  streamed = list(read_ahead.stream(read_ahead.batch_reader(ROOT, mapped, batch_size=32), steps))
  for (images, labels), step in zip(streamed, steps, strict=True):
    expected_images, expected_labels = jax.jit(batch)(step, in_memory(mapped))
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
    assert labels.dtype == expected_labels.dtype and isinstance(images, np.ndarray)
  assert len(set(np.concatenate([labels for _, labels in streamed]))) == len(SIZES)


@pytest.mark.parametrize('size, shapes', [(20, [20, 20, 8]), (16, [16, 16, 16]), (100, [48])])
def test_chunks_are_all_images_in_order(mapped, size, shapes):
  read, numbers = read_ahead.chunk_reader(mapped, size=size)
  chunks = list(read_ahead.stream(read, numbers))
  assert [len(chunk) for chunk in chunks] == shapes
  assert all(chunk.flags.owndata for chunk in chunks)
  np.testing.assert_array_equal(np.concatenate(chunks), mapped.images)


def test_read_episode_against_a_loop(mapped):
  rng = np.random.default_rng(1)
  drawn = EpisodeIndices(rng.integers(0, SIZES.sum(), (2, 3, 5)), rng.integers(0, 6, (2, 3)))
  got = read_ahead.read_episode(mapped.images, drawn, shot=2)
  for task in range(2):
    for name, of_class in (('support', range(2)), ('query', range(2, 5))):
      places = [(label, drawn.indices[task, label, i]) for label in range(3) for i in of_class]
      np.testing.assert_array_equal(getattr(got, f'{name}_labels')[task], [label for label, _ in places])
      np.testing.assert_array_equal(getattr(got, f'{name}_images')[task], [mapped.images[i] for _, i in places])
  np.testing.assert_array_equal(got.class_ids, drawn.class_ids)


def test_values_are_put_on_the_device_that_is_named(read_ordinary):
  device = jax.devices()[3]
  on_device, = read_ahead.stream(read_ordinary, [5], device=device)
  assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(on_device))
  assert_equal(on_device, read_ordinary(5))


# --- Order, resuming, bounds. ---

def test_a_stream_begun_in_the_middle_goes_on_like_the_unbroken_one(mapped, read_ordinary):
  unbroken = list(read_ahead.stream(read_ordinary, range(9)))
  resumed = list(read_ahead.stream(read_ahead.ordinary_reader(ROOT, mapped, tasks=2, **TASK), range(6, 9)))
  for got, expected in zip(resumed, unbroken[6:], strict=True):
    assert_equal(got, expected)


@pytest.mark.parametrize('prefetch, num_threads', [(0, 4), (1, 4), (5, 3), (100, 8)])
def test_values_come_in_order_however_long_each_takes(prefetch, num_threads):
  delays = np.random.default_rng(2).uniform(0, 0.004, 30)

  def read(number):
    time.sleep(delays[number])
    return number

  numbers = list(range(29, -1, -1))
  assert list(read_ahead.stream(read, numbers, prefetch=prefetch, num_threads=num_threads)) == numbers


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
  lock, begun, alive, handed_over, most_begun, most_alive = threading.Lock(), [], weakref.WeakSet(), 0, 0, 0

  def read(number):
    nonlocal most_begun, most_alive
    value = Value(number)
    with lock:
      begun.append(number)
      alive.add(value)
      most_begun, most_alive = max(most_begun, len(begun) - handed_over), max(most_alive, len(alive))
    return value

  with contextlib.closing(read_ahead.stream(read, range(40), num_threads=3, prefetch=5)) as values:
    wait_until(lambda: len(begun) == 5)  # before the first one is asked for
    for value in values:
      handed_over += 1
      wait_until(lambda v=value.number: len(begun) == min(v + 6, 40))
  # Between two requests five wait; during one, a sixth is read, and the one handed over last is kept.
  assert sorted(begun) == list(range(40)) and 5 <= most_begun <= 6 and 5 <= most_alive <= 7


def test_reads_run_side_by_side_and_ahead_of_the_caller():
  together = threading.Barrier(3, timeout=10)  # breaks, and raises, unless three reads are under way at once

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
  draw = read_ahead.on_cpu(lambda step, key: jax.random.randint(jax.random.fold_in(key, step), (50,), 0, 10**6), ROOT)
  values = list(read_ahead.stream(draw, range(30), num_threads=8, prefetch=8))
  assert all(type(value) is np.ndarray for value in values)
  expected = [jax.random.randint(jax.random.fold_in(ROOT, step), (50,), 0, 10**6) for step in range(30)]
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


def test_readers_refuse_images_elsewhere_or_of_another_number(mapped):
  with pytest.raises(ValueError, match='expected images as a NumPy array on the host, got ArrayImpl'):
    read_ahead.batch_reader(ROOT, in_memory(mapped), batch_size=2)
  with pytest.raises(ValueError, match='expected 48 images, the sum of class_sizes, got 47'):
    read_ahead.task_reader(jax.random.split(ROOT, 2), mapped._replace(images=mapped.images[:-1]), **TASK)
  with pytest.raises(ValueError, match='expected size of at least 1, got 0'):
    read_ahead.chunk_reader(mapped, size=0)
