"""Each built-in backbone, at tiny widths, against a NumPy forward written from its definition."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones
from tests.backbones import SMALL
from tests.backbones.numpy_forward import NumpyForward

SIZE = (16, 19)  # an odd side too
OPTIONS = {'xla_backend_optimization_level': 0}  # compiles in half the time


def random_tree(tree, seed):
  """A tree of the same shapes with random values; variances and scales positive."""
  rng = np.random.default_rng(seed)

  def leaf(path, x):
    values = rng.normal(size=x.shape) / np.sqrt(max(1, np.prod(x.shape[:-1])))
    return jnp.asarray(np.exp(values) if path[-1].key in ('var', 'scale') else values, jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, tree)


@functools.cache
def network(name, **options):
  """A tiny backbone with random parameters and statistics, and images for it."""
  backbone = backbones.create(name, (*SIZE, 3), width=10 if name == 'wrn28_10' else 4, **options)
  variables = random_tree(jax.eval_shape(backbone.init, jax.random.key(0)), seed=0)
  return backbone, variables, np.random.default_rng(1).normal(size=(6, *SIZE, 3)).astype(np.float32)


def features(backbone, variables, images, mode='running'):
  run = functools.partial(backbone.features, batch_stats_mode=mode)
  return np.asarray(jax.jit(run, compiler_options=OPTIONS)(variables, images))


@functools.cache
def running_features(name, norm_affine):
  return features(*network(name, norm_affine=norm_affine))


def relative_error(found, expected):
  return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('norm_affine', [False, True])
@pytest.mark.parametrize('name', SMALL)
def test_features_with_running_statistics_equal_numpy(name, norm_affine):
  _, variables, images = network(name, norm_affine=norm_affine)
  expected = NumpyForward(variables, 'running').forward(name, images)
  assert np.std(expected) > 0.01  # not a comparison of zeros
  assert relative_error(running_features(name, norm_affine), expected) < 1e-5


@pytest.mark.parametrize('name', SMALL)
def test_batch_statistics_equal_numpy_and_move_the_running_ones_a_tenth_of_the_way(name):
  backbone, variables, images = network(name, norm_affine=True)
  found, new_stats = jax.jit(backbone.train_features, compiler_options=OPTIONS)(variables, images)
  reference = NumpyForward(variables, 'batch')
  expected = reference.forward(name, images)
  assert np.std(expected) > 0.01 and relative_error(found, expected) < 1e-4
  old, new = (NumpyForward(variables._replace(batch_stats=stats), 'batch').stats
              for stats in (variables.batch_stats, new_stats))
  assert set(new) == set(reference.moments)
  for path, moments in reference.moments.items():
    for moment, value in moments.items():
      moved = 0.9 * old[path][moment] + 0.1 * value
      np.testing.assert_allclose(new[path][moment], moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['conv4', 'resnet25'])
def test_batch_features_are_those_of_training_and_need_the_whole_batch(name):
  backbone, variables, images = network(name, norm_affine=True)
  batch = features(backbone, variables, images, 'batch')
  trained = jax.jit(backbone.train_features, compiler_options=OPTIONS)(variables, images)[0]
  np.testing.assert_allclose(batch, trained, rtol=1e-5, atol=1e-6)
  assert relative_error(features(backbone, variables, images[:2], 'batch'), batch[:2]) > 0.01
  of_two = features(backbone, variables, images[:2])
  np.testing.assert_allclose(of_two, running_features(name, True)[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
def test_features_in_bfloat16_are_float32_near_those_of_float32(name):
  half, variables, images = network(name, norm_affine=True, compute_dtype='bfloat16')
  parameters = jax.eval_shape(half.init, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype('float32')}
  rounded = features(half, variables, images)
  assert rounded.dtype == np.float32
  error = relative_error(rounded, running_features(name, True))
  # bfloat16 rounds to 3 digits; an error of zero would mean that it was not used.
  assert 1e-5 < error < 0.1


def test_init_depends_on_the_key_alone():
  backbone = backbones.create('conv4', (16, 16, 3), width=4)
  first, again, other = (jax.jit(backbone.init)(jax.random.key(seed)) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernels = [variables.params['block1']['conv']['kernel'] for variables in (first, other)]
  assert np.any(np.asarray(kernels[0] != kernels[1]))
  np.testing.assert_array_equal(first.batch_stats['block1']['bn']['mean'], 0)
  np.testing.assert_array_equal(first.batch_stats['block1']['bn']['var'], 1)


@pytest.mark.parametrize('arguments, message', [
    (('resnet99', (32, 32, 3)), 'clip_base_32, conv4, .*, wrn28_10(, .*)?, got .*resnet99'),
    (('conv4', (15, 32, 3)), 'at least 16 pixels.*15x32'),
    (('resnet18', (31, 32, 3)), 'at least 32 pixels.*resnet18_small is made for small images'),
    (('vit_small_16', (96, 100, 3)), 'of 16 pixels, divide, such as 96 or 112, got 96x100'),
    (('my.module:function', (32, 32, 3)), 'give --backbone=my.module:function, or call')])
def test_create_refuses_unknown_names_and_small_images(arguments, message):
  with pytest.raises(ValueError, match=message):
    backbones.create(*arguments)


def test_an_epsilon_that_is_not_above_zero_is_refused():
  with pytest.raises(ValueError, match='norm_epsilon above 0, got 0'):
    backbones.create('conv4', (16, 16, 3), norm_epsilon=0.0)


def test_unknown_dtype_and_statistics_are_refused():
  with pytest.raises(ValueError, match="'float32' or 'bfloat16', got 'float16'"):
    backbones.create('conv4', (16, 16, 3), compute_dtype='float16')
  backbone, variables, images = network('conv4')
  with pytest.raises(ValueError, match="'running' or 'batch', got 'train'"):
    backbone.features(variables, images, batch_stats_mode='train')
