"""A Vision Transformer of one's own as a linen module, an nnx module and plain functions."""
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_jax import backbones, data, learnable
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.phases import meta_train

SHAPE = (32, 32, 3)
WIDTH, HEADS = 32, 4
FORMS = ('linen', 'nnx', 'functions')
CONFIG = MetaTrainConfig(num_ordinary_tasks=4, num_hard_tasks=2)


def patches_of(images):
  """Patches of 8x8 pixels: [B, 16, 192]."""
  return images.reshape(-1, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 192)


class LinenBlock(nn.Module):
  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm(name='norm1')(x)
    heads = [nn.Dense(WIDTH, name=name)(y).reshape(*x.shape[:2], HEADS, -1)
             for name in ('query', 'key', 'value')]
    x += nn.Dense(WIDTH, name='out')(jax.nn.dot_product_attention(*heads).reshape(x.shape))
    y = nn.gelu(nn.Dense(2 * WIDTH, name='up')(nn.LayerNorm(name='norm2')(x)))
    return x + nn.Dense(WIDTH, name='down')(y)


class LinenVisionTransformer(nn.Module):
  @nn.compact
  def __call__(self, images):
    positions = self.param('positions', nn.initializers.normal(0.02), (16, WIDTH))
    x = nn.Dense(WIDTH, name='patches')(patches_of(images)) + positions[None]
    x = LinenBlock(name='block2')(LinenBlock(name='block1')(x))
    return nn.LayerNorm(name='norm')(x).mean(axis=1)


class NnxBlock(nnx.Module):
  def __init__(self, rngs):
    self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2))
    self.query, self.key, self.value, self.out = (
        nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(4))
    self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
    self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

  def __call__(self, x):
    y = self.norm1(x)
    heads = [layer(y).reshape(*x.shape[:2], HEADS, -1)
             for layer in (self.query, self.key, self.value)]
    x += self.out(jax.nn.dot_product_attention(*heads).reshape(x.shape))
    return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxVisionTransformer(nnx.Module):
  def __init__(self, rngs):
    self.patches = nnx.Linear(192, WIDTH, rngs=rngs)
    self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, WIDTH)))
    self.block1, self.block2 = NnxBlock(rngs), NnxBlock(rngs)
    self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

  def __call__(self, images):
    x = self.patches(patches_of(images)) + self.positions[...][None]
    return self.norm(self.block2(self.block1(x))).mean(axis=1)


def init(key):
  def dense(key, c_in, c_out):
    kernel = jax.random.normal(key, (c_in, c_out)) / jnp.sqrt(c_in)
    return {'kernel': kernel, 'bias': jnp.zeros(c_out)}

  def block(key):
    shapes = {name: (WIDTH, WIDTH) for name in ('query', 'key', 'value', 'out')}
    shapes |= {'up': (WIDTH, 2 * WIDTH), 'down': (2 * WIDTH, WIDTH)}
    keys = jax.random.split(key, len(shapes))
    layers = {name: dense(k, *shapes[name]) for name, k in zip(shapes, keys, strict=True)}
    return layers | {'norm1': norm, 'norm2': norm}

  norm = {'scale': jnp.ones(WIDTH), 'bias': jnp.zeros(WIDTH)}
  patches, positions, first, second = jax.random.split(key, 4)
  return {'patches': dense(patches, 192, WIDTH),
          'positions': 0.02 * jax.random.normal(positions, (16, WIDTH)),
          'block1': block(first), 'block2': block(second), 'norm': norm}


def apply(params, images):
  def dense(x, layer):
    return x @ layer['kernel'] + layer['bias'][None, None]

  def norm(x, layer):
    centred = x - x.mean(axis=-1, keepdims=True)
    x = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * layer['scale'][None, None] + layer['bias'][None, None]

  def attend(query, key, value):
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) / jnp.sqrt(query.shape[-1])
    return jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(scores, axis=-1), value)

  def block(x, layers):
    y = norm(x, layers['norm1'])
    heads = [dense(y, layers[name]).reshape(*x.shape[:2], HEADS, -1)
             for name in ('query', 'key', 'value')]
    x += dense(attend(*heads).reshape(x.shape), layers['out'])
    y = jax.nn.gelu(dense(norm(x, layers['norm2']), layers['up']))
    return x + dense(y, layers['down'])

  x = dense(patches_of(images), params['patches']) + params['positions'][None]
  x = block(block(x, params['block1']), params['block2'])
  return norm(x, params['norm']).mean(axis=1)


@functools.cache
def in_form(form):
  if form == 'linen':
    return backbones.from_linen(LinenVisionTransformer(), SHAPE, last_block='block2')
  if form == 'nnx':
    return backbones.from_nnx(NnxVisionTransformer, SHAPE, last_block='block2')
  return backbones.from_functions(init, apply, SHAPE, last_block='block2')


@functools.cache
def frozen():
  """Weights of the linen module, which all forms are given."""
  return in_form('linen').init(jax.random.key(0))


@functools.cache
def trained(form):
  """State and metrics after three outer steps on glyphs."""
  backbone = in_form(form)
  cycle = functools.partial(meta_train.cycle, backbone=backbone, config=CONFIG)
  # Compiles in half the time.
  cycle = jax.jit(cycle, compiler_options={'xla_backend_optimization_level': 0})
  state = meta_train.init(backbone, frozen(), CONFIG)
  return cycle(state, jax.random.key(1), frozen(), data.load('glyphs').train)


@pytest.mark.slow
def test_outer_steps_change_scale_and_shift_of_every_dense_layer():
  state, metrics = trained('linen')
  assert int(state.step) == 3 and np.isfinite([float(x) for x in metrics.values()]).all()
  backbone, phi = in_form('linen'), state.meta_params.scale_shift
  assert len(backbone.scaled_layers) == 13 and backbone.feature_dim == WIDTH
  for path in backbone.scaled_layers:
    leaf = functools.reduce(lambda tree, name: tree[name], path, phi)
    assert np.abs(np.asarray(leaf['scale']) - 1).max() > 1e-4
    if path[-1] != 'key':  # softmax does not see the bias of the keys
      assert np.abs(np.asarray(leaf['shift'])).max() > 1e-4


def test_scope_of_the_last_block():
  last = learnable.init(in_form('linen'), frozen(), 5, Learn(scope='last_block'), InnerLoop())
  assert last.scale_shift.keys() == {'block2'} and len(last.scale_shift['block2']) == 6


@pytest.mark.parametrize('form', FORMS)
def test_each_form_has_the_same_tree_and_with_the_same_weights_the_same_features(form):
  backbone, first = in_form(form), in_form('linen')
  own = backbone.init(jax.random.key(1))
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, frozen())
  assert set(backbone.scaled_layers) == set(first.scaled_layers)
  assert set(backbone.last_block) == set(first.last_block)
  images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
  expected = apply(frozen().params, images)
  assert np.std(expected) > 0.1
  for mode in ('running', 'batch'):
    run = jax.jit(functools.partial(backbone.features, batch_stats_mode=mode))
    np.testing.assert_allclose(run(frozen(), images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['nnx', 'functions'])
def test_each_form_is_meta_trained_alike(form):
  state, metrics = trained(form)
  assert int(state.step) == 3
  np.testing.assert_allclose(metrics['loss'], trained('linen')[1]['loss'], rtol=1e-4)
