"""Readers of images on the host: the images of an in-memory run, bit for bit."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import episodes
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig
from mtl_jax.execution import read_ahead, readers
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.types import EpisodeIndices, ImagePool

SIZES = np.array([6, 9, 7, 12, 6, 8], np.int32)
ROOT = jax.random.key(11)
TASK = {'way': 3, 'shot': 2, 'query': 3}
FAILURES = np.array([0, 3, 0, 1, 1, 0], np.int32)
PLAIN = MetaTrainConfig(**TASK, meta_batch=2, crop_padding=0, flip=False)


@pytest.fixture(scope='module')
def mapped(tmp_path_factory):
  """Images in a file, mapped read-only, each of another content."""
  path = tmp_path_factory.mktemp('images') / 'images.npy'
  rng = np.random.default_rng(0)
  np.save(path, rng.integers(0, 256, (SIZES.sum(), 4, 5, 3), dtype=np.uint8))
  images = np.load(path, mmap_mode='r')
  assert isinstance(images, np.memmap)
  return ImagePool(images, (np.cumsum(SIZES) - SIZES).astype(np.int32), SIZES)


@pytest.fixture(scope='module')
def read_ordinary(mapped):
  return readers.ordinary_tasks(ROOT, mapped, PLAIN)


def in_memory(pool):
  return jax.tree.map(jnp.asarray, pool)


def assert_equal(got, expected):
  for name in expected._fields:
    a, b = getattr(got, name), getattr(expected, name)
    assert a.dtype == b.dtype, name
    np.testing.assert_array_equal(a, b, name)


@functools.cache
def in_memory_tasks():
  """The tasks of meta-training as drawn on the device, of a number of steps.

  They are not augmented, and nothing says what to normalise them by, so bytes stay bytes.
  """
  def many(steps, pool, failures, hard):
    def one(step):
      key = jax.random.fold_in(ROOT, step)
      return meta_train.draw_tasks(key, pool, failures, hard, config=PLAIN)

    return jax.lax.map(one, steps)

  return jax.jit(many)


def meta_train_tasks(pool, steps, hard):
  tasks = in_memory_tasks()(jnp.asarray(steps), in_memory(pool), FAILURES, hard)
  assert tasks.support.dtype == np.uint8
  return [jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(len(steps))]


def hard_reader(pool, steps):
  draw = jax.jit(functools.partial(readers.draw_hard_tasks, config=PLAIN))
  drawn = draw(ROOT, readers.without_images(pool), FAILURES, jnp.asarray(steps))
  return readers.drawn_tasks(pool, drawn, shot=2)


def test_ordinary_tasks_are_those_of_meta_training_in_memory(mapped, read_ordinary):
  steps = [0, 1, 2, 7, 8, 9]  # without the hard steps of a cycle
  streamed = list(read_ahead.stream(read_ordinary, steps))
  assert len(streamed) == 6
  for got, expected in zip(streamed, meta_train_tasks(mapped, steps, False), strict=True):
    assert isinstance(got.support, np.ndarray) and got.support.dtype == np.uint8
    assert got.query.shape == (2, 9, 4, 5, 3)
    assert_equal(got, expected)
  assert len({tuple(classes) for tasks in streamed for classes in tasks.class_ids}) > 6


def test_hard_tasks_are_those_of_meta_training_in_memory(mapped):
  steps = list(range(3, 43))
  streamed = read_ahead.stream(hard_reader(mapped, steps), range(len(steps)))
  for got, expected in zip(streamed, meta_train_tasks(mapped, steps, True), strict=True):
    assert_equal(got, expected)
    # The classes that failed.
    assert all(set(classes) == {1, 3, 4} for classes in got.class_ids)


def test_tasks_of_meta_test_are_those_of_sample(mapped):
  keys = jax.random.split(jax.random.key(5), 7)
  read = readers.meta_test_tasks(keys, mapped, MetaTestConfig(**TASK))
  streamed = list(read_ahead.stream(read, range(7)))
  sample = functools.partial(episodes.sample, pool=in_memory(mapped), **TASK)
  expected = jax.jit(jax.vmap(sample))(keys)
  assert_equal(jax.tree.map(lambda *x: np.stack(x), *streamed), expected)


def test_batches_are_those_of_pre_training_in_memory(mapped):
  def batch(step, pool):
    index_key, _, _ = jax.random.split(jax.random.fold_in(ROOT, step), 3)
    index = jax.random.randint(index_key, (32,), 0, pool.images.shape[0])
    return pool.images[index], jnp.searchsorted(pool.class_offsets, index, side='right') - 1

  steps = range(4, 8)
  streamed = list(read_ahead.stream(readers.batches(ROOT, mapped, batch_size=32), steps))
  for (images, labels), step in zip(streamed, steps, strict=True):
    expected_images, expected_labels = jax.jit(batch)(step, in_memory(mapped))
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)
    assert labels.dtype == expected_labels.dtype and isinstance(images, np.ndarray)
    own_indices, _ = episodes.draw_batch(pretrain.batch_keys(ROOT, step).indices, mapped, 32)
    np.testing.assert_array_equal(images, mapped.images[np.asarray(own_indices)])
  assert len(set(np.concatenate([labels for _, labels in streamed]))) == len(SIZES)


@pytest.mark.parametrize('size, shapes', [
    (20, [20, 20, 8]), (16, [16, 16, 16]), (100, [48])])
def test_chunks_are_all_images_in_order(mapped, size, shapes):
  read, numbers = readers.chunks(mapped, size=size)
  chunks = list(read_ahead.stream(read, numbers))
  assert [len(chunk) for chunk in chunks] == shapes
  assert all(chunk.flags.owndata for chunk in chunks)
  np.testing.assert_array_equal(np.concatenate(chunks), mapped.images)


def test_read_episode_against_a_loop(mapped):
  rng = np.random.default_rng(1)
  drawn = EpisodeIndices(rng.integers(0, SIZES.sum(), (2, 3, 5)), rng.integers(0, 6, (2, 3)))
  got = readers.read_episode(mapped.images, drawn, shot=2)
  for task in range(2):
    for name, of_class in (('support', range(2)), ('query', range(2, 5))):
      places = [(label, drawn.indices[task, label, i]) for label in range(3) for i in of_class]
      labels, images = getattr(got, f'{name}_labels')[task], getattr(got, name)[task]
      np.testing.assert_array_equal(labels, [label for label, _ in places])
      np.testing.assert_array_equal(images, [mapped.images[i] for _, i in places])
  np.testing.assert_array_equal(got.class_ids, drawn.class_ids)


def test_tasks_are_put_on_the_device_that_is_named(read_ordinary):
  device = jax.devices()[3]
  on_device, = read_ahead.stream(read_ordinary, [5], device=device)
  assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(on_device))
  assert_equal(on_device, read_ordinary(5))


def test_a_stream_begun_in_the_middle_goes_on_like_the_unbroken_one(mapped, read_ordinary):
  unbroken = list(read_ahead.stream(read_ordinary, range(9)))
  again = readers.ordinary_tasks(ROOT, mapped, PLAIN)
  resumed = list(read_ahead.stream(again, range(6, 9)))
  for got, expected in zip(resumed, unbroken[6:], strict=True):
    assert_equal(got, expected)


def test_readers_refuse_images_elsewhere_or_of_another_number(mapped):
  with pytest.raises(ValueError, match='expected images as a NumPy array on the host, got '
                                       'ArrayImpl'):
    readers.batches(ROOT, in_memory(mapped), batch_size=2)
  one_less = mapped._replace(images=mapped.images[:-1])
  with pytest.raises(ValueError, match='expected 48 images, the sum of class_sizes, got 47'):
    readers.meta_test_tasks(jax.random.split(ROOT, 2), one_less, MetaTestConfig(**TASK))
  with pytest.raises(ValueError, match='expected size of at least 1, got 0'):
    readers.chunks(mapped, size=0)
