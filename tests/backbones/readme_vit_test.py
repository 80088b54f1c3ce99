"""The README's Vision Transformer as printed, and the same network as an nnx module and as plain functions."""
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mtl_jax import backbones, learnable
from mtl_jax.phases import meta_train

README = (pathlib.Path(__file__).parents[2] / 'README.md').read_text(encoding='utf-8')


@functools.cache
def example():
  """The names that the README's example leaves behind."""
  section = README.split('## Your own backbone')[1].split('\n## ')[0]
  names = {}
  exec(re.search(r'```python\n(.*?)```', section, re.DOTALL).group(1), names)
  return names


class NnxBlock(nnx.Module):
  def __init__(self, rngs):
    self.norm1, self.norm2 = (nnx.LayerNorm(32, rngs=rngs) for _ in range(2))
    self.query, self.key, self.value, self.out = (nnx.Linear(32, 32, rngs=rngs) for _ in range(4))
    self.up, self.down = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 32, rngs=rngs)

  def __call__(self, x):
    y = self.norm1(x)
    heads = [layer(y).reshape(*x.shape[:2], 4, -1) for layer in (self.query, self.key, self.value)]
    x += self.out(jax.nn.dot_product_attention(*heads).reshape(x.shape))
    return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class NnxVisionTransformer(nnx.Module):
  def __init__(self, rngs):
    self.patches = nnx.Linear(192, 32, rngs=rngs)
    self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (16, 32)))
    self.block1, self.block2, self.norm = NnxBlock(rngs), NnxBlock(rngs), nnx.LayerNorm(32, rngs=rngs)

  def __call__(self, images):
    patches = images.reshape(-1, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 192)
    x = self.patches(patches) + self.positions[...]
    return self.norm(self.block2(self.block1(x))).mean(axis=1)


def init(key):
  def dense(key, c_in, c_out):
    return {'kernel': jax.random.normal(key, (c_in, c_out)) / jnp.sqrt(c_in), 'bias': jnp.zeros(c_out)}

  def block(key):
    shapes = {'query': (32, 32), 'key': (32, 32), 'value': (32, 32), 'out': (32, 32), 'up': (32, 64), 'down': (64, 32)}
    layers = {name: dense(k, *shapes[name]) for name, k in zip(shapes, jax.random.split(key, 6), strict=True)}
    return layers | {'norm1': norm, 'norm2': norm}

  norm = {'scale': jnp.ones(32), 'bias': jnp.zeros(32)}
  patches, positions, first, second = jax.random.split(key, 4)
  return {'patches': dense(patches, 192, 32), 'positions': 0.02 * jax.random.normal(positions, (16, 32)),
          'block1': block(first), 'block2': block(second), 'norm': norm}


def apply(params, images):
  def dense(x, layer):
    return x @ layer['kernel'] + layer['bias']

  def norm(x, layer):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * layer['scale'] + layer['bias']

  def block(x, layers):
    query, key, value = (dense(norm(x, layers['norm1']), layers[name]).reshape(*x.shape[:2], 4, 8)
                         for name in ('query', 'key', 'value'))
    weights = jax.nn.softmax(jnp.einsum('bqhd,bkhd->bhqk', query, key) / jnp.sqrt(8), axis=-1)
    x += dense(jnp.einsum('bhqk,bkhd->bqhd', weights, value).reshape(x.shape), layers['out'])
    return x + dense(jax.nn.gelu(dense(norm(x, layers['norm2']), layers['up'])), layers['down'])

  patches = images.reshape(-1, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 192)
  x = dense(patches, params['patches']) + params['positions']
  return norm(block(block(x, params['block1']), params['block2']), params['norm']).mean(axis=1)


def in_form(form):
  if form == 'linen':
    return example()['backbone']
  if form == 'nnx':
    return backbones.from_nnx(NnxVisionTransformer, (32, 32, 3), last_block='block2')
  return backbones.from_functions(init, apply, (32, 32, 3), last_block='block2')


FORMS = ('linen', 'nnx', 'functions')


def test_the_example_takes_outer_steps_on_scale_and_shift_of_every_dense_layer():
  names = example()
  assert int(names['state'].step) == 3 and np.isfinite([float(x) for x in names['metrics'].values()]).all()
  backbone, phi = names['backbone'], names['state'].meta_params.scale_shift
  assert len(backbone.scaled_layers) == 13 and backbone.feature_dim == 32
  last = learnable.init(backbone, names['frozen'], way=5, scope='last_block').scale_shift
  assert last.keys() == {'block2'} and len(last['block2']) == 6
  for path in backbone.scaled_layers:
    leaf = functools.reduce(lambda tree, name: tree[name], path, phi)
    assert np.abs(np.asarray(leaf['scale']) - 1).max() > 1e-4
    assert np.abs(np.asarray(leaf['shift'])).max() > (1e-4 if path[-1] != 'key' else -1)  # softmax ignores key's bias


@pytest.mark.parametrize('form', FORMS)
def test_each_form_has_the_same_tree_and_with_the_same_weights_the_same_features(form):
  frozen, backbone = example()['frozen'], in_form(form)
  own = backbone.init(jax.random.key(1))
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, frozen)
  assert set(backbone.scaled_layers) == set(example()['backbone'].scaled_layers)
  assert set(backbone.last_block) == set(example()['backbone'].last_block)
  images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
  expected = apply(frozen.params, images)
  assert np.std(expected) > 0.1
  for mode in ('running', 'batch'):
    features = jax.jit(functools.partial(backbone.features, batch_stats_mode=mode))(frozen, images)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('form', ['nnx', 'functions'])
def test_each_form_is_meta_trained_alike(form):
  names, backbone = example(), in_form(form)
  cycle = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=names['config']),
                  compiler_options={'xla_backend_optimization_level': 0})  # compiles in half the time
  glyphs, frozen = names['glyphs'], names['frozen']
  state, metrics = cycle(meta_train.init(backbone, frozen, names['config']), jax.random.key(1), frozen, glyphs.train,
                         glyphs.mean, glyphs.std)
  assert int(state.step) == 3
  np.testing.assert_allclose(metrics['loss'], names['metrics']['loss'], rtol=1e-4)
