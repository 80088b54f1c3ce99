"""Scale and shift against explicit NumPy convolutions."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, scale_shift
from mtl_jax.types import BaseLearner


def small_params(seed=0):
  """Two convolutions (one without bias), a batch norm with affine parameters, and a dense layer."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  return {
      'block1': {'conv1': {'kernel': normal(3, 3, 2, 3), 'bias': normal(3)},
                 'bn1': {'scale': normal(3), 'bias': normal(3)},
                 'shortcut': {'kernel': normal(1, 1, 2, 3)}},
      'head': {'kernel': normal(4, 5), 'bias': normal(5)}}


PATHS = {('block1', 'conv1'), ('block1', 'shortcut'), ('head',)}


def convolve(x, kernel):
  """Same-padded stride-1 convolution of one image [H, W, c_in], written out."""
  kh, kw = kernel.shape[:2]
  padded = np.pad(x, ((kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
  out = np.zeros(x.shape[:2] + kernel.shape[-1:])
  for i in range(x.shape[0]):
    for j in range(x.shape[1]):
      out[i, j] = np.einsum('hwc,hwco->o', padded[i:i + kh, j:j + kw], kernel)
  return out


def network_convolution(params, x):
  """An unmodified layer of a network, in JAX."""
  y = jax.lax.conv_general_dilated(x[None], params['kernel'], (1, 1), 'SAME',
                                   dimension_numbers=('NHWC', 'HWIO', 'NHWC'))[0]
  return y + params['bias'][None, None] if 'bias' in params else y


def assert_bitwise_equal(tree, expected):
  assert jax.tree.structure(tree) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_layer_paths_are_the_dicts_with_a_kernel():
  paths = scale_shift.layer_paths(small_params())
  assert isinstance(paths, tuple) and all(isinstance(path, tuple) for path in paths)
  assert set(paths) == PATHS and len(paths) == len(PATHS)


def test_init_shapes_and_values():
  phi = scale_shift.init(small_params())
  assert set(phi['block1']) == {'conv1', 'shortcut'}
  np.testing.assert_array_equal(phi['block1']['conv1']['scale'], np.ones((1, 1, 2, 3)))
  np.testing.assert_array_equal(phi['block1']['conv1']['shift'], np.zeros(3))
  assert set(phi['block1']['shortcut']) == {'scale'}  # No bias, so no shift.
  assert phi['block1']['shortcut']['scale'].shape == (1, 1, 2, 3)
  assert phi['head']['scale'].shape == (4, 5) and phi['head']['shift'].shape == (5,)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(phi))


def test_init_of_chosen_layers_leaves_the_others_out():
  phi = scale_shift.init(small_params(), layers=(('block1', 'conv1'),))
  assert set(phi) == {'block1'} and set(phi['block1']) == {'conv1'}
  params = small_params()
  doubled = scale_shift.modulate(params, jax.tree.map(lambda a: 2 * a + 1, phi))
  assert_bitwise_equal({'head': doubled['head'], 'rest': doubled['block1']['shortcut']},
                       {'head': params['head'], 'rest': params['block1']['shortcut']})
  layer, start = doubled['block1']['conv1'], params['block1']['conv1']
  np.testing.assert_array_equal(layer['kernel'], 3 * start['kernel'])
  np.testing.assert_array_equal(layer['bias'], start['bias'] + 1)


def test_initial_value_is_a_bitwise_identity():
  params = small_params()
  assert_bitwise_equal(scale_shift.modulate(params, scale_shift.init(params)), params)
  assert_bitwise_equal(jax.jit(scale_shift.modulate)(params, scale_shift.init(params)), params)


def test_modulate_does_not_change_its_inputs():
  params = small_params()
  phi = jax.tree.map(lambda a: a + 0.5, scale_shift.init(params))
  scale_shift.modulate(params, phi)
  assert_bitwise_equal(params, small_params())


def test_half_and_quarter_scale_on_a_convolution():
  rng = np.random.default_rng(1)
  params, x = small_params()['block1']['conv1'], rng.normal(size=(6, 5, 2))
  kernel, bias = np.asarray(params['kernel'], np.float64), np.asarray(params['bias'], np.float64)
  shift = np.array([1., -2., 0.25])
  scale = jnp.array([0.5, 0.25]).reshape(1, 1, 2, 1) * jnp.ones((1, 1, 2, 3))
  phi = {'scale': scale, 'shift': jnp.asarray(shift)}
  modulated = scale_shift.modulate({'conv': params}, {'conv': phi})['conv']
  # By linearity: half of what input channel 0 adds, a quarter of what channel 1 adds, then bias
  # and shift.
  expected = (0.5 * convolve(x[..., :1], kernel[:, :, :1])
              + 0.25 * convolve(x[..., 1:], kernel[:, :, 1:]) + bias + shift)
  np.testing.assert_allclose(network_convolution(modulated, x), expected, rtol=1e-5, atol=1e-5)


def test_each_slice_has_its_own_scale():
  rng = np.random.default_rng(2)
  params, x = small_params()['block1']['conv1'], rng.normal(size=(4, 4, 2))
  scale, shift = rng.normal(size=(1, 1, 2, 3)), rng.normal(size=3)
  phi = {'conv': {'scale': jnp.asarray(scale, jnp.float32),
                  'shift': jnp.asarray(shift, jnp.float32)}}
  out = network_convolution(scale_shift.modulate({'conv': params}, phi)['conv'], x)
  for o in range(3):
    expected = params['bias'][o] + shift[o]
    for i in range(2):
      slice_only = np.asarray(params['kernel'][:, :, i:i + 1, o:o + 1], np.float64)
      expected = expected + scale[0, 0, i, o] * convolve(x[..., i:i + 1], slice_only)[..., 0]
    np.testing.assert_allclose(out[..., o], expected, rtol=1e-5, atol=1e-5)


def test_dense_layer():
  params, rng = small_params(), np.random.default_rng(3)
  scale, shift, x = rng.normal(size=(4, 5)), rng.normal(size=5), rng.normal(size=(2, 4))
  phi = {'head': {'scale': jnp.asarray(scale), 'shift': jnp.asarray(shift)}}
  head = scale_shift.modulate(params, phi)['head']
  kernel, bias = np.asarray(params['head']['kernel']), np.asarray(params['head']['bias'])
  expected = x @ (kernel * scale) + bias + shift
  found = x @ np.asarray(head['kernel']) + np.asarray(head['bias'])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_count():
  # conv1 2*3 + 3, shortcut 2*3, head 4*5 + 5
  assert scale_shift.count(scale_shift.init(small_params())) == 9 + 6 + 25
  assert scale_shift.count(small_params()) == (54 + 3) + (3 + 3) + 6 + (20 + 5)


def test_count_of_resnet12_main_convolutions_is_that_of_the_paper():
  widths, params, layers = (3, 64, 128, 256, 512), {}, []
  for block in range(4):
    params[f'block{block + 1}'] = layer = {}
    for i in range(3):
      c_in, c_out = widths[block] if i == 0 else widths[block + 1], widths[block + 1]
      layer[f'conv{i + 1}'] = {'kernel': np.zeros((3, 3, c_in, c_out), np.float32),
                               'bias': np.zeros(c_out)}
      layers.append((f'block{block + 1}', f'conv{i + 1}'))
    shape = (1, 1, widths[block], widths[block + 1])
    layer['shortcut'] = {'kernel': np.zeros(shape, np.float32)}
  assert scale_shift.count(scale_shift.init(params, layers=tuple(layers))) == 871_424


def test_meta_gradient_through_the_inner_loop_against_finite_differences():
  with jax.enable_x64(True):
    rng = np.random.default_rng(4)
    params = {'conv': small_params()['block1']['conv1']}
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
    support, query = rng.normal(size=(4, 5, 5, 2)), rng.normal(size=(6, 5, 5, 2))
    learner = BaseLearner(jnp.asarray(rng.normal(size=(3, 2))), jnp.asarray(rng.normal(size=2)))

    @jax.jit
    def loss(phi):
      conv = scale_shift.modulate(params, phi)['conv']
      features = jax.vmap(lambda x: jnp.tanh(network_convolution(conv, x)).mean(axis=(0, 1)))
      adapted = base_learner.adapt(learner, features(support), jnp.array([0, 1, 1, 0]),
                                   features(query), inner_lr=0.5, num_steps=6)
      return base_learner.cross_entropy(adapted.query_logits, jnp.array([0, 0, 0, 1, 1, 1]))

    phi = jax.tree.map(lambda a: jnp.asarray(a + 0.1 * rng.normal(size=a.shape)),
                       scale_shift.init(params))
    grads = jax.jit(jax.grad(loss))(phi)['conv']
    for name in ('scale', 'shift'):
      for i in np.ndindex(grads[name].shape):
        moved = [{'conv': phi['conv'] | {name: phi['conv'][name].at[i].add(s * 1e-6)}}
                 for s in (1, -1)]
        numeric = (loss(moved[0]) - loss(moved[1])) / 2e-6
        np.testing.assert_allclose(grads[name][i], numeric, rtol=1e-5, atol=1e-9)


def test_gradient_reaches_only_scale_and_shift_of_the_tree():
  params = small_params()
  phi = scale_shift.init(params, layers=(('head',),))

  def total(phi):
    return sum(jnp.sum(a) for a in jax.tree.leaves(scale_shift.modulate(params, phi)))

  grads = jax.grad(total)(phi)
  # d(W * s)/ds = W
  np.testing.assert_allclose(grads['head']['scale'], params['head']['kernel'])
  np.testing.assert_allclose(grads['head']['shift'], np.ones(5))


@pytest.mark.parametrize('layers', [(('block1', 'conv9'),), (('block1', 'bn1'),)])
def test_a_layer_that_is_not_there_is_named(layers):
  with pytest.raises(ValueError, match=layers[0][-1]):
    scale_shift.init(small_params(), layers=layers)


def test_modulate_names_what_does_not_fit():
  params, phi = small_params(), scale_shift.init(small_params())
  with pytest.raises(ValueError, match='head2'):
    scale_shift.modulate(params, {'head2': phi['head']})
  with pytest.raises(ValueError, match=r'\(4, 5\).*\(5,\)'):
    scale_shift.modulate(params, {'head': {'scale': jnp.ones(5)}})
