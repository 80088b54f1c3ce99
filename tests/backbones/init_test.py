"""`init` of built-in networks is compiled, and draws the bits that it draws op by op."""
import flax.linen as nn
import jax
import numpy as np
import pytest

from mtl_jax import backbones
from mtl_jax.backbones import modules
from tests.backbones.adapters_test import in_form

KEYS = {'typed': jax.random.key, 'raw': jax.random.PRNGKey}
WIDTHS = {'conv4': 4, 'resnet12': 2, 'resnet25': 2}


def assert_same_bits(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def plain_init(backbone):
  """The function that was compiled."""
  return backbone.init.__wrapped__


@pytest.mark.parametrize('name', [
    'conv4', *(pytest.param(name, marks=pytest.mark.slow) for name in ('resnet12', 'resnet25'))])
def test_compiled_or_not(name):
  backbone = backbones.create(name, (16, 16, 3), width=WIDTHS[name])
  plain = plain_init(backbone)(jax.random.key(3))
  assert_same_bits(backbone.init(jax.random.key(3)), plain)
  assert_same_bits(jax.jit(backbone.init)(jax.random.key(3)), plain)


@pytest.mark.parametrize('kind', KEYS)
def test_keys_of_either_kind_and_over_several(kind):
  make_key = KEYS[kind]
  backbone = backbones.create('conv4', (16, 16, 3), width=2)
  plain = plain_init(backbone)
  assert_same_bits(backbone.init(make_key(3)), plain(make_key(3)))
  several = jax.vmap(backbone.init)(jax.random.split(make_key(3), 2))
  for index, key in enumerate(jax.random.split(make_key(3), 2)):
    assert_same_bits(jax.tree.map(lambda x, i=index: x[i], several), plain(key))
  jitted = jax.jit(jax.vmap(backbone.init))(jax.random.split(make_key(3), 2))
  assert_same_bits(jitted, several)


@pytest.mark.parametrize('shape', [(3, 3, 5, 7), (1, 1, 6, 10), (24, 40), (7, 7, 3, 64)])
def test_kernels_are_those_of_the_initializer_that_they_stand_for(shape):
  published = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
  for found in (modules.kernel_init, jax.jit(modules.kernel_init, static_argnums=1)):
    kernel = found(jax.random.key(1), shape)
    assert_same_bits(kernel, modules.kernel_init(jax.random.key(1), shape))
    # On jax 0.12 theirs may differ in the last bit.
    np.testing.assert_allclose(kernel, published(jax.random.key(1), shape), rtol=2e-7)


@pytest.mark.parametrize('form', ['linen', 'nnx', 'functions'])
def test_a_network_of_ones_own_keeps_its_init(form):
  backbone, _ = in_form(form)
  assert not hasattr(backbone.init, 'lower')  # as `jax.jit` has
