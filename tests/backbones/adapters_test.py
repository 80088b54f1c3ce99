"""Linen modules, nnx modules and pure functions as backbones: trees, statistics, refusals."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_jax import backbones, learnable, scale_shift
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.runs import tensor_files
from mtl_jax.types import BackboneVars

SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)


class LinenDense(nn.Module):
  """Takes images alone."""

  @nn.compact
  def __call__(self, images):
    return nn.Dense(5, name='dense')(images.reshape(len(images), -1))


class LinenNorm(nn.Module):
  """Takes the mode too."""

  @nn.compact
  def __call__(self, images, batch_stats_mode):
    norm = nn.BatchNorm(batch_stats_mode == 'running', momentum=0.9, name='norm')
    return nn.Dense(5, name='dense')(norm(images.reshape(len(images), -1)))


class NnxNorm(nnx.Module):
  """The same, its dense layer in a list, with dropout."""

  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(16, 5, rngs=rngs)])

  def __call__(self, images):
    return self.layers[0](self.dropout(self.norm(images.reshape(len(images), -1))))


def functions_init(key):
  params = {'norm': {'scale': jnp.ones(16), 'bias': jnp.zeros(16)},
            'dense': {'kernel': jax.random.normal(key, (16, 5)), 'bias': jnp.zeros(5)}}
  return BackboneVars(params, {'norm': {'mean': jnp.zeros(16), 'var': jnp.ones(16)}})


def functions_apply(backbone_vars, images, batch_stats_mode):
  params, stats = backbone_vars.params, backbone_vars.batch_stats
  x = images.reshape(len(images), -1)
  moments = stats['norm']
  if batch_stats_mode == 'batch':
    moments = {'mean': x.mean(axis=0), 'var': x.var(axis=0)}
    stats = {'norm': jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats['norm'], moments)}
  x = (x - moments['mean'][None]) / jnp.sqrt(moments['var'] + 1e-5)[None]
  x = x * params['norm']['scale'][None] + params['norm']['bias'][None]
  return x @ params['dense']['kernel'] + params['dense']['bias'][None], stats


def in_form(form):
  if form == 'linen':
    return backbones.from_linen(LinenNorm(), SHAPE, last_block='dense'), ('dense',)
  if form == 'nnx':
    return backbones.from_nnx(NnxNorm, SHAPE, last_block='layers'), ('layers', '0')
  functions = (functions_init, functions_apply)
  return backbones.from_functions(*functions, SHAPE, last_block='dense'), ('dense',)


@pytest.mark.parametrize('form', ['linen', 'nnx', 'functions'])
def test_batch_norm_of_each_form(form):
  backbone, path = in_form(form)
  assert backbone.scaled_layers == (path,) and backbone.last_block == (path[:1],)
  variables = jax.jit(backbone.init)(jax.random.key(0))
  np.testing.assert_array_equal(variables.params['norm']['scale'], 1)
  rng = np.random.default_rng(1)
  mean, var = rng.normal(size=16), rng.uniform(0.5, 2, size=16)
  stats = {'norm': {'mean': jnp.float32(mean), 'var': jnp.float32(var)}}
  variables = BackboneVars(variables.params, stats)
  layer = variables.params
  for name in path:
    layer = layer[name]
  flat = IMAGES.reshape(3, 16).astype(np.float64)
  batch = {'mean': flat.mean(axis=0), 'var': flat.var(axis=0)}
  for mode, moments in (('running', {'mean': mean, 'var': var}), ('batch', batch)):
    normalized = (flat - moments['mean']) / np.sqrt(moments['var'] + 1e-5)
    expected = normalized @ np.asarray(layer['kernel'])
    found = backbone.features(variables, IMAGES, batch_stats_mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  features, stats = jax.jit(backbone.train_features)(variables, IMAGES)
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
  assert jax.tree.structure(stats) == jax.tree.structure(variables.batch_stats)
  moved = {'mean': 0.9 * mean + 0.1 * batch['mean'], 'var': 0.9 * var + 0.1 * batch['var']}
  np.testing.assert_allclose(stats['norm']['mean'], moved['mean'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(stats['norm']['var'], moved['var'], rtol=1e-5)
  # The argument is as it was.
  np.testing.assert_array_equal(variables.batch_stats['norm']['mean'], np.float32(mean))


def test_a_linen_module_that_takes_images_alone():
  backbone = backbones.from_linen(LinenDense(), SHAPE, last_block='dense')
  variables = backbone.init(jax.random.key(0))
  assert variables.batch_stats == {} and backbone.feature_dim == 5
  assert backbone.scaled_layers == (('dense',),)
  expected = IMAGES.reshape(3, 16) @ np.asarray(variables.params['dense']['kernel'])
  for mode in ('running', 'batch'):
    found = backbone.features(variables, IMAGES, batch_stats_mode=mode)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert backbone.train_features(variables, IMAGES)[1] == {}


def test_an_nnx_constructor_starts_anew_with_each_key_and_a_module_from_its_own_weights():
  drawn = backbones.from_nnx(NnxNorm, SHAPE, last_block='layers')
  trees = [drawn.init(jax.random.key(seed)).params for seed in (0, 0, 1)]
  kernels = [np.asarray(tree['layers']['0']['kernel']) for tree in trees]
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert np.abs(kernels[0] - kernels[2]).max() > 0.1
  module = NnxNorm(nnx.Rngs(5))
  given = backbones.from_nnx(module, SHAPE, last_block='layers').init(jax.random.key(0))
  found = given.params['layers']['0']['kernel']
  np.testing.assert_array_equal(found, module.layers[0].kernel[...])


def test_an_nnx_backbone_leaves_the_module_as_it_was():
  module = NnxNorm(nnx.Rngs(0))
  backbone = backbones.from_nnx(module, SHAPE, last_block='layers')
  backbone.train_features(backbone.init(jax.random.key(0)), IMAGES)
  np.testing.assert_array_equal(module.norm.mean[...], 0)
  assert not module.norm.use_running_average and not module.dropout.deterministic


@pytest.mark.parametrize('form', ['linen', 'nnx', 'functions'])
def test_scale_and_shift_of_each_form(form):
  backbone, path = in_form(form)
  variables = backbone.init(jax.random.key(0))
  phi = scale_shift.init(variables.params, backbone.scaled_layers)
  plain = backbone.features(variables, IMAGES, batch_stats_mode='running')

  def output(phi):
    modulated = scale_shift.modulate(variables.params, phi)
    return backbone.features(variables._replace(params=modulated), IMAGES,
                             batch_stats_mode='running')

  np.testing.assert_array_equal(output(phi), plain)
  doubled_and_shifted = jax.tree.map(lambda leaf: 2 * leaf + (leaf == 0), phi)
  np.testing.assert_allclose(output(doubled_and_shifted), 2 * plain + 1, rtol=1e-4, atol=1e-5)
  gradient = jax.grad(lambda phi: jnp.sum(output(phi)))(phi)
  for name in path:
    gradient = gradient[name]
  np.testing.assert_allclose(gradient['shift'], 3)  # images


def test_the_tree_of_an_nnx_backbone_is_saved_and_read(tmp_path):
  backbone, _ = in_form('nnx')
  variables = backbone.init(jax.random.key(0))
  tensor_files.write(tmp_path / 'backbone.safetensors', variables)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  read = tensor_files.read(tmp_path / 'backbone.safetensors', shapes)
  np.testing.assert_array_equal(backbone.features(read, IMAGES, batch_stats_mode='running'),
                                backbone.features(variables, IMAGES, batch_stats_mode='running'))


def test_several_names_as_last_block_and_unscaled_layers():
  def init(key):
    layer = {'kernel': jax.random.normal(key, (16, 16)), 'bias': jnp.zeros(16)}
    return {'first': layer, 'second': {'inner': layer, 'skip': layer}, 'third': layer}

  def apply(params, images):
    return images.reshape(-1, 16) @ params['third']['kernel']

  backbone = backbones.from_functions(init, apply, SHAPE, last_block=('second', 'third'),
                                      unscaled=('skip',))
  assert set(backbone.scaled_layers) == {('first',), ('second', 'inner'), ('third',)}
  assert set(backbone.last_block) == {('second',), ('third',)}
  learn, inner = Learn(scope='last_block'), InnerLoop()
  variables = backbone.init(jax.random.key(0))
  scaled = learnable.init(backbone, variables, 2, learn, inner).scale_shift
  assert scaled.keys() == {'second', 'third'} and scaled['second'].keys() == {'inner'}


@pytest.mark.parametrize('form', ['linen', 'nnx', 'functions'])
@pytest.mark.parametrize('change, message', [
    (lambda x: x[:, None, None], r'\[B, d\], got \(2, 1, 1, 5\) for a batch of 2'),
    (lambda x: x.sum(axis=1), r'\[B, d\], got \(2,\)'),
    (lambda x: x.mean(axis=0, keepdims=True), r'\[B, d\], got \(1, 5\)'),
    (lambda x: (x, x), r'\[B, d\], got tuple'),
    (lambda x: x.argmax(axis=1, keepdims=True), r'floating-point features, got int32 \(2, 1\)')])
def test_features_that_are_not_one_row_of_numbers_per_image(form, change, message):
  class Linen(LinenDense):
    @nn.compact
    def __call__(self, images):
      return change(super().__call__(images))

  class Nnx(NnxNorm):
    def __call__(self, images):
      return change(super().__call__(images))

  with pytest.raises(ValueError, match=message):
    if form == 'linen':
      backbones.from_linen(Linen(), SHAPE, last_block='dense')
    elif form == 'nnx':
      backbones.from_nnx(Nnx, SHAPE, last_block='layers')
    else:
      backbones.from_functions(
          lambda key: functions_init(key).params,
          lambda params, images: change(images.reshape(-1, 16) @ params['dense']['kernel']),
          SHAPE, last_block='dense')


def test_a_last_block_that_is_not_there():
  with pytest.raises(ValueError, match='last_block to be among dense, got head'):
    backbones.from_linen(LinenDense(), SHAPE, last_block='head')


def test_features_in_half_precision_come_out_in_float32():
  def apply(params, images):
    return (images.reshape(-1, 16) @ params['dense']['kernel']).astype(jnp.bfloat16)

  backbone = backbones.from_functions(
      lambda key: {'dense': {'kernel': jax.random.normal(key, (16, 5))}}, apply, SHAPE,
      last_block='dense')
  features = backbone.features(backbone.init(jax.random.key(0)), IMAGES, batch_stats_mode='running')
  assert (features.dtype, features.shape) == (jnp.float32, (3, 5))
