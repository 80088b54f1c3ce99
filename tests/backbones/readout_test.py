"""The forms in which tasks may see features, against NumPy on a small network."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable
from mtl_jax.types import BackboneVars
from tests.phases import smooth_features, smooth_network


def network():
  backbone, variables = smooth_network(channels=2, width=3, columns=4)
  images = np.random.default_rng(1).normal(size=(5, 2, 4, 2))
  return backbone, variables, images


def numpy_features(variables, images):
  return smooth_features(variables, images, batch_stats_mode='running', xp=np)


@pytest.mark.parametrize('mirror', [False, True])
@pytest.mark.parametrize('norm, temperature', [('none', 10.0), ('l2', 10.0), ('l2', 3.0)])
def test_features_of_tasks(mirror, norm, temperature):
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm=norm, mirror=mirror, temperature=temperature if norm == 'l2' else None)
  expected = numpy_features(variables, images)
  if mirror:
    expected = (expected + numpy_features(variables, images[:, :, ::-1])) / 2
  if norm == 'l2':
    expected = temperature * expected / np.linalg.norm(expected, axis=1, keepdims=True)
  found = wrapped.features(variables, images, batch_stats_mode='running')
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert wrapped.temperature == (temperature if norm == 'l2' else None)
  assert wrapped.train_features is backbone.train_features  # pre-training sees plain features


def test_mirrored_images_have_the_same_features():
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, mirror=True)
  one, other = (wrapped.features(variables, x, batch_stats_mode='running') for x in (images, images[:, :, ::-1]))
  np.testing.assert_allclose(one, other, rtol=1e-6)
  plain, mirrored = (backbone.features(variables, x, batch_stats_mode='running') for x in (images, images[:, :, ::-1]))
  assert np.abs(plain - mirrored).max() > 1e-2


def test_a_learned_temperature_takes_the_place_of_the_given_one():
  backbone, variables, images = network()
  wrapped = backbones.read_out(backbone, norm='l2', temperature=10.0)
  variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)
  start = learnable.init(wrapped, variables, way=2, learn_temperature=True)
  np.testing.assert_allclose(start.weights['_readout']['log_temperature'], np.log(10), rtol=1e-6)
  at_start = wrapped.features(learnable.network(variables, start), images, batch_stats_mode='running')
  np.testing.assert_allclose(at_start, wrapped.features(variables, images, batch_stats_mode='running'), rtol=1e-5)
  longer = start._replace(weights={'_readout': {'log_temperature': jnp.log(20.0)}})
  found = wrapped.features(learnable.network(variables, longer), images, batch_stats_mode='running')
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 20, rtol=1e-5)


def test_gradients_of_black_features_are_finite():
  def apply(params, images):
    return images.reshape(len(images), -1) @ params['layer']['kernel']

  backbone = backbones.read_out(backbones.from_functions(lambda key: {'layer': {'kernel': jnp.ones((12, 3))}}, apply,
                                                         (2, 2, 3), last_block='layer'), norm='l2')

  def total(params):
    return backbone.features(BackboneVars(params, {}), jnp.zeros((1, 2, 2, 3)), batch_stats_mode='running').sum()

  assert np.isfinite(jax.grad(total)({'layer': {'kernel': jnp.ones((12, 3))}})['layer']['kernel']).all()


@pytest.mark.parametrize('options, message', [({'norm': 'l1'}, "none, l2, got 'l1'"),
                                              ({'norm': 'l2', 'temperature': 0.0}, 'above 0, .* got 0.0 with l2'),
                                              ({'temperature': 3.0}, 'only with norm l2, got 3.0 with none')])
def test_refuses(options, message):
  with pytest.raises(ValueError, match=message):
    backbones.read_out(network()[0], **options)
