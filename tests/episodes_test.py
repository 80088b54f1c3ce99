"""Episodes: who is in them, how evenly, and that a key alone decides."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mtl_jax import episodes
from mtl_jax.types import ImagePool

SIZES = np.array([5, 9, 7, 12, 6, 5], np.int32)
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)[:-1]]).astype(np.int32)


def pool(sizes=SIZES):
  """Image number i is filled with the value i, so that a pixel tells which image it was."""
  sizes = np.asarray(sizes, np.int32)
  offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
  numbers = np.arange(sizes.sum(), dtype=np.uint8)[:, None, None, None]
  images = np.broadcast_to(numbers, (len(numbers), 2, 3, 1))
  return ImagePool(jnp.asarray(images), jnp.asarray(offsets), jnp.asarray(sizes))


def sample(key, way=3, shot=2, query=3, **kwargs):
  return episodes.sample(key, pool(), way=way, shot=shot, query=query, **kwargs)


sample_batch = jax.jit(jax.vmap(sample))


@functools.partial(jax.jit, static_argnums=2)
def draw_images(keys, class_sizes, num):
  """One draw per key and class size: int32 [keys, num]; the sizes are traced."""
  return jax.vmap(lambda key, size: episodes.draw_images(key, size, num))(keys, class_sizes)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def chi_square(observed):
  """Sum of (observed - expected)²/expected for a uniform distribution over all entries."""
  expected = observed.sum() / observed.size
  return ((observed - expected) ** 2 / expected).sum()


def bound(categories):
  """Mean plus five standard deviations of chi-square with categories - 1 degrees of freedom."""
  return (categories - 1) + 5 * np.sqrt(2 * (categories - 1))


def test_shapes_types_and_order():
  episode = sample(jax.random.key(0))
  assert episode.support.shape == (6, 2, 3, 1) and episode.query.shape == (9, 2, 3, 1)
  assert episode.support.dtype == episode.query.dtype == jnp.uint8
  np.testing.assert_array_equal(episode.support_labels, [0, 0, 1, 1, 2, 2])
  np.testing.assert_array_equal(episode.query_labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])
  assert episode.class_ids.shape == (3,)
  numbers = (episode.support_labels, episode.query_labels, episode.class_ids)
  assert all(array.dtype == jnp.int32 for array in numbers)


def test_support_and_query_never_share_an_image_and_belong_to_their_class():
  batch = sample_batch(keys(300))
  support, query = (np.asarray(a)[..., 0, 0, 0] for a in (batch.support, batch.query))
  for i in range(300):
    both = np.concatenate([support[i], query[i]])
    assert len(set(both)) == len(both)
    classes = np.asarray(batch.class_ids[i])
    assert len(set(classes)) == 3
    labels = np.concatenate([batch.support_labels[i], batch.query_labels[i]])
    class_of = np.searchsorted(OFFSETS, both, side='right') - 1
    np.testing.assert_array_equal(class_of, classes[labels])
  # Every image has its turn in both.
  assert set(support.ravel()) == set(query.ravel()) == set(range(SIZES.sum()))


def test_the_smallest_class_can_be_used_up():
  # Five images, two for support and three for the query: each exactly once.
  episode = sample(jax.random.key(1), class_ids=jnp.array([0, 5, 1], jnp.int32))
  both = jnp.concatenate([episode.support[:2], episode.query[:3]])[:, 0, 0, 0]
  assert set(np.asarray(both)) == set(range(5))


def test_given_classes_are_used_in_their_order_with_fresh_images():
  chosen = jnp.array([4, 0, 3], jnp.int32)
  batch = jax.jit(jax.vmap(lambda key: sample(key, class_ids=chosen)))(keys(20))
  np.testing.assert_array_equal(batch.class_ids, np.tile(chosen, (20, 1)))
  values = np.asarray(batch.support)[..., 0, 0, 0]
  np.testing.assert_array_equal(np.searchsorted(OFFSETS, values, side='right') - 1,
                                np.tile([4, 4, 0, 0, 3, 3], (20, 1)))
  assert len({tuple(v) for v in values}) > 10


def test_the_same_key_gives_the_same_episode_and_another_key_another():
  one = jax.jit(sample)
  first, again, other = one(jax.random.key(3)), one(jax.random.key(3)), one(jax.random.key(4))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
  assert any((a != b).any() for a, b in pairs)


def test_the_episode_of_a_key_stays_the_same_from_version_to_version():
  # Drawn by the first version of this code: a run that is resumed, or repeated, sees the tasks that
  # it saw. `same_bits_test` pins more of them.
  drawn = episodes.draw(jax.random.key(0), pool(), way=3, shot=2, query=3)
  expected = [[2, 4, 0, 1, 3], [19, 18, 17, 15, 20], [35, 33, 38, 34, 36]]
  np.testing.assert_array_equal(drawn.indices, expected)
  np.testing.assert_array_equal(drawn.class_ids, [0, 2, 4])
  episode = sample(jax.random.key(0))
  np.testing.assert_array_equal(episode.support[:, 0, 0, 0], [2, 4, 19, 18, 35, 33])
  queries = [0, 1, 3, 17, 15, 20, 38, 34, 36]
  np.testing.assert_array_equal(episode.query[:, 0, 0, 0], queries)


def test_drawing_reads_no_image_and_gathering_is_indexing():
  places = ImagePool((), OFFSETS, SIZES)
  drawn = episodes.draw(jax.random.key(8), places, way=3, shot=2, query=3)
  assert drawn.indices.dtype == drawn.class_ids.dtype == jnp.int32
  features = np.random.default_rng(0).normal(size=(SIZES.sum(), 4)).astype(np.float32)
  got = episodes.gather(lambda indices: features[indices], drawn, shot=2)
  indices = np.asarray(drawn.indices)
  np.testing.assert_array_equal(got.support, features[indices[:, :2].ravel()])
  np.testing.assert_array_equal(got.query, features[indices[:, 2:].ravel()])
  np.testing.assert_array_equal(got.query_labels, [0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_batches_are_uniform_with_replacement_and_labelled():
  places = ImagePool((), OFFSETS, SIZES)
  indices, labels = (np.asarray(x) for x in episodes.draw_batch(jax.random.key(4), places, 20_000))
  assert chi_square(np.bincount(indices, minlength=SIZES.sum())) < bound(SIZES.sum())
  np.testing.assert_array_equal(labels, np.repeat(np.arange(6), SIZES)[indices])


def test_vmap_equals_loop():
  loop = jax.tree.map(lambda *a: np.stack(a), *(jax.jit(sample)(key) for key in keys(5)))
  jax.tree.map(np.testing.assert_array_equal, sample_batch(keys(5)), loop)


def test_the_same_keys_give_the_same_episodes_on_one_and_on_eight_devices():
  devices = jax.devices('cpu')
  assert len(devices) == 8  # tests/conftest.py asks for them.
  mesh = jax.make_mesh((8,), ('tasks',), axis_types=(AxisType.Auto,), devices=devices)
  over_tasks = NamedSharding(mesh, PartitionSpec('tasks'))
  one = sample_batch(jax.device_put(keys(8), devices[0]))
  eight = jax.jit(jax.vmap(sample), out_shardings=over_tasks)(jax.device_put(keys(8), over_tasks))
  assert len(one.support.sharding.device_set) == 1
  assert len(eight.support.sharding.device_set) == 8
  jax.tree.map(np.testing.assert_array_equal, one, eight)


def test_draw_classes_is_distinct_and_uniform():
  draw = jax.jit(jax.vmap(lambda key: episodes.draw_classes(key, 7, 3)))
  drawn = np.asarray(draw(keys(20_000)))
  assert drawn.dtype == np.int32 and drawn.min() == 0 and drawn.max() == 6
  assert all(len(set(row)) == 3 for row in drawn[:500])
  for position in range(3):
    assert chi_square(np.bincount(drawn[:, position], minlength=7)) < bound(7)


@pytest.mark.parametrize('class_size, num', [(5, 5), (6, 1), (20, 16), (600, 16), (1300, 20)])
def test_draw_images_is_distinct_and_in_range(class_size, num):
  # The size is traced: classes of different sizes share one compiled program.
  drawn = np.asarray(draw_images(keys(200), jnp.full(200, class_size, jnp.int32), num))
  assert drawn.shape == (200, num) and drawn.dtype == np.int32
  assert drawn.min() >= 0 and drawn.max() < class_size
  assert all(len(set(row)) == num for row in drawn)


def test_draw_images_is_uniform_in_every_position():
  # Position 0 is a support image, the later ones are queries: each must be even over the class.
  drawn = np.asarray(draw_images(keys(21_000), jnp.full(21_000, 7, jnp.int32), 5))
  for position in range(5):
    assert chi_square(np.bincount(drawn[:, position], minlength=7)) < bound(7)
  assert chi_square(np.bincount(drawn.ravel(), minlength=7)) < bound(7)


def test_draw_images_is_uniform_over_ordered_pairs_and_permutations():
  drawn = np.asarray(draw_images(keys(24_000, 1), jnp.full(24_000, 4, jnp.int32), 4))
  pairs = np.bincount(drawn[:, 0] * 4 + drawn[:, 3], minlength=16).reshape(4, 4)
  assert np.all(np.diag(pairs) == 0)
  assert chi_square(pairs[~np.eye(4, dtype=bool)]) < bound(12)
  permutations = np.unique(drawn, axis=0, return_counts=True)[1]
  assert len(permutations) == 24 and chi_square(permutations) < bound(24)


def test_classes_of_different_sizes_are_each_uniform():
  sizes = jnp.tile(jnp.asarray(SIZES), 4_000)
  drawn = np.asarray(draw_images(keys(len(sizes), 2), sizes, 4))
  for size in set(SIZES.tolist()):
    of_size = drawn[np.asarray(sizes) == size]
    for position in (0, 3):
      assert chi_square(np.bincount(of_size[:, position], minlength=size)) < bound(size)


def test_support_is_uniform_over_the_images_of_an_episode():
  chosen = jnp.array([3], jnp.int32)
  one = lambda key: sample(key, way=1, shot=1, query=2, class_ids=chosen)  # noqa: E731
  batch = jax.jit(jax.vmap(one))(keys(12_000, 3))
  for images in (batch.support[:, 0], batch.query[:, 1]):
    values = np.asarray(images)[:, 0, 0, 0] - OFFSETS[3]
    assert chi_square(np.bincount(values, minlength=12)) < bound(12)


def test_check_accepts_what_fits():
  assert episodes.check_episode(pool(), way=6, shot=2, query=3, split='train') is None


@pytest.mark.parametrize('asked, messages', [
    ({'way': 7, 'shot': 1, 'query': 1}, ('val', '7', '6')),
    ({'way': 5, 'shot': 2, 'query': 4}, ('val', '6', '5')),
    ({'way': 5, 'shot': 5, 'query': 1}, ('val', '6', '5')),
])
def test_check_names_split_and_numbers(asked, messages):
  with pytest.raises(ValueError) as error:
    episodes.check_episode(pool(), split='val', **asked)
  assert all(message in str(error.value) for message in messages)
  assert '\n' not in str(error.value)


def test_errors_of_sample():
  with pytest.raises(ValueError, match='6.*7'):
    sample(jax.random.key(0), way=7)
  with pytest.raises(ValueError, match='class_ids'):
    sample(jax.random.key(0), way=3, class_ids=jnp.arange(4))


def plain_sample(key, images_of, **options):
  """`sample` as it was before it was compiled: drawn and fetched op by op."""
  drawn = episodes.draw(key, images_of, way=options['way'], shot=options['shot'],
                        query=options['query'], class_ids=options.get('class_ids'))
  return episodes.gather(lambda indices: jnp.asarray(images_of.images)[indices], drawn,
                         shot=options['shot'])


@pytest.mark.parametrize('make_key, class_ids', [
    (jax.random.key, None), (jax.random.PRNGKey, np.array([2, 0, 3]))])
def test_a_compiled_episode_has_the_bits_of_one_drawn_op_by_op(make_key, class_ids):
  options = {'way': 3, 'shot': 2, 'query': 2, 'class_ids': class_ids}
  compiled, plain = (lambda key, f=f: f(key, pool(), **options)
                     for f in (episodes.sample, plain_sample))
  expected = plain(make_key(5))
  for found in (compiled, jax.jit(compiled)):
    episode = found(make_key(5))
    assert [leaf.dtype for leaf in episode] == [leaf.dtype for leaf in expected]
    jax.tree.map(np.testing.assert_array_equal, episode, expected)
  several = [jax.vmap(f)(jax.random.split(make_key(6), 3)) for f in (compiled, plain)]
  jax.tree.map(np.testing.assert_array_equal, *several)


def test_an_episode_consumes_its_key_and_refuses_as_before():
  key = jax.random.key(7)
  episodes.sample(key, pool(), way=3, shot=1, query=1)
  with pytest.raises(jax.errors.KeyReuseError):
    episodes.sample(key, pool(), way=3, shot=1, query=1)
  with pytest.raises(ValueError, match='expected class_ids of shape'):
    episodes.sample(jax.random.key(8), pool(), way=3, shot=1, query=1, class_ids=np.arange(2))
