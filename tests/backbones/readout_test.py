"""The forms in which tasks may see features, against NumPy on a small network."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.types import BackboneVars
from tests.phases import smooth_features, smooth_network


def network():
  backbone, variables = smooth_network(channels=2, width=3, columns=4)
  images = np.random.default_rng(1).normal(size=(5, 2, 4, 2))
  return backbone, variables, images


def numpy_features(variables, images):
  return smooth_features(variables, images, batch_stats_mode='running', xp=np)


def running(backbone, variables, images):
  return backbone.features(variables, images, batch_stats_mode='running')


def tiny_conv4():
  """A built-in network, with a cut and a twin; its parameters; and images."""
  backbone = backbones.create('conv4', (16, 16, 3), width=3)
  images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
  return backbone, backbone.init(jax.random.key(1)), images


@pytest.mark.parametrize('mirror', [False, True])
@pytest.mark.parametrize('norm, temperature', [('none', None), ('l2', None), ('l2', 3.0)])
def test_features_of_tasks(mirror, norm, temperature):
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm=norm, mirror=mirror, temperature=temperature)
  expected = numpy_features(variables, images)
  if mirror:
    expected = (expected + numpy_features(variables, images[:, :, ::-1])) / 2
  if norm == 'l2':
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = (temperature or 10.0) * expected / lengths
  found = running(wrapped, variables, images)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert wrapped.temperature == (None if norm == 'none' else temperature or 10.0)
  assert wrapped.train_features is backbone.train_features  # pre-training sees plain features
  assert wrapped.cut is None and wrapped.by_patches is None  # as the backbone has none


def test_mirrored_images_have_the_same_features():
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, mirror=True)
  one, other = (running(wrapped, variables, x) for x in (images, images[:, :, ::-1]))
  np.testing.assert_allclose(one, other, rtol=1e-6)
  plain, mirrored = (running(backbone, variables, x) for x in (images, images[:, :, ::-1]))
  assert np.abs(plain - mirrored).max() > 1e-2


def moved(images, y, x):
  """Images moved by so many pixels, edges repeated, in NumPy."""
  rows, columns = (np.clip(np.arange(size) - by, 0, size - 1)
                   for size, by in zip(images.shape[1:3], (y, x), strict=True))
  return images[:, rows][:, :, columns]


@pytest.mark.parametrize('mirror', [False, True])
def test_features_over_moved_images_without_their_mean(mirror):
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm='l2', mirror=mirror, shift=1)
  views = [images, *(moved(images, y, x) for y in (-1, 1) for x in (-1, 1))]
  views += [view[:, :, ::-1] for view in views] if mirror else []
  mean = np.mean([numpy_features(variables, view) for view in views], axis=0)
  center = np.random.default_rng(2).normal(size=mean.shape[1])
  for away, given in ((0, None), (center, center.astype(np.float32))):
    expected = mean - away
    expected *= 10 / np.linalg.norm(expected, axis=1, keepdims=True)
    found = running(wrapped, variables._replace(center=given), images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_temperature_that_meta_training_learns_starts_from_the_given_one():
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm='l2', temperature=10.0)
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
  start = learnable.init(wrapped, variables, 2, Learn(temperature=True), InnerLoop())
  np.testing.assert_allclose(start.temperature['log'], np.log(10), rtol=1e-6)
  at_start = running(wrapped, learnable.network(variables, start), images)
  np.testing.assert_allclose(at_start, running(wrapped, variables, images), rtol=1e-5)
  longer = start._replace(temperature={'log': jnp.log(20.0)})
  found = running(wrapped, learnable.network(variables, longer), images)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 20, rtol=1e-5)


@pytest.mark.parametrize('mirror', [False, True])
def test_a_learned_temperature_takes_the_place_of_the_given_one(mirror):
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm='l2', mirror=mirror, temperature=10.0)
  plain = running(wrapped, variables, images)
  same, longer = (running(wrapped, variables._replace(temperature=jnp.float32(value)), images)
                  for value in (10, 20))
  np.testing.assert_array_equal(same, plain)
  np.testing.assert_allclose(longer, 2 * plain, rtol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(longer, axis=1), 20, rtol=1e-5)


def test_the_gradient_to_a_learned_temperature():
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm='l2')

  def total(temperature):
    return jnp.sum(running(wrapped, variables._replace(temperature=temperature), images))

  value, gradient = jax.value_and_grad(total)(jnp.float32(4))
  np.testing.assert_allclose(gradient, value / 4, rtol=1e-5)


@pytest.mark.parametrize('mirror', [False, True])
def test_without_l2_features_do_not_depend_on_a_temperature(mirror):
  backbone, variables, images = tiny_conv4()
  learned = variables._replace(temperature=jnp.float32(3))
  for each in (backbone, backbone.by_patches, backbones.read_out(backbone, mirror=mirror)):
    whole = jax.jit(lambda v, each=each: running(each, v, images))
    np.testing.assert_array_equal(whole(learned), whole(variables))
    by_parts = jax.jit(lambda v, each=each: each.cut.last(v, each.cut.below(v, images)))
    np.testing.assert_array_equal(by_parts(learned), by_parts(variables))
  train_features = jax.jit(backbone.train_features)
  features, stats = train_features(learned, images)
  np.testing.assert_array_equal(features, train_features(variables, images)[0])
  assert jax.tree.structure(stats) == jax.tree.structure(variables.batch_stats)


def test_own_functions_never_see_a_temperature():
  seen = []

  def init(key):
    return BackboneVars({'layer': {'kernel': jnp.ones((4, 2))}}, {})

  def apply(backbone_vars, images, batch_stats_mode):
    seen.append(backbone_vars.temperature)
    kernel = backbone_vars.params['layer']['kernel']
    return images.reshape(len(images), -1) @ kernel, backbone_vars.batch_stats

  backbone = backbones.from_functions(init, apply, (2, 2, 1), last_block='layer')
  variables = backbone.init(jax.random.key(0))._replace(temperature=jnp.float32(7))
  wrapped = backbones.read_out(backbone, norm='l2')
  found = running(wrapped, variables, np.ones((3, 2, 2, 1), np.float32))
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 7, rtol=1e-5)
  backbone.train_features(variables, np.ones((3, 2, 2, 1), np.float32))
  assert seen and not any(temperature is not None for temperature in seen)


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('options', [
    {'norm': 'l2', 'mirror': True},
    *(pytest.param(options, marks=pytest.mark.slow)
      for options in ({'norm': 'l2', 'temperature': 3.0}, {'mirror': True}))])
def test_the_cut_and_the_twin_are_wrapped_too(options, learned):
  backbone, variables, images = tiny_conv4()
  wrapped = backbones.read_out(backbone, **options)
  twin = wrapped.by_patches
  assert twin.temperature == wrapped.temperature and twin.by_patches is None
  if learned:
    variables = variables._replace(temperature=jnp.float32(5))
  expected = running(wrapped, variables, images)
  np.testing.assert_allclose(running(twin, variables, images), expected, rtol=1e-4, atol=1e-5)
  for each in (wrapped, twin):
    maps = each.cut.below(variables, images)
    assert maps.shape[:2] == (3, 2 if options.get('mirror') else 1)
    found = each.cut.last(variables, maps)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_black_features_are_finite():
  def apply(params, images):
    return images.reshape(len(images), -1) @ params['layer']['kernel']

  plain = backbones.from_functions(lambda key: {'layer': {'kernel': jnp.ones((12, 3))}}, apply,
                                   (2, 2, 3), last_block='layer')
  backbone = backbones.read_out(plain, norm='l2')

  def total(params):
    return running(backbone, BackboneVars(params, {}), jnp.zeros((1, 2, 2, 3))).sum()

  gradient = jax.grad(total)({'layer': {'kernel': jnp.ones((12, 3))}})
  assert np.isfinite(gradient['layer']['kernel']).all()


@pytest.mark.parametrize('options, message', [
    ({'norm': 'l1'}, "none, l2, got 'l1'"),
    ({'norm': 'l2', 'temperature': 0.0}, 'above 0, .* got 0.0 with l2'),
    ({'temperature': 3.0}, 'only with norm l2, got 3.0 with none'),
    ({'shift': 4}, 'a shift of features from 0 to below 4, .* got 4'),
    ({'shift': -1}, 'got -1')])
def test_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    backbones.read_out(network()[0], **options)
