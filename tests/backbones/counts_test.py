"""Weights, scales and shifts of each backbone, and the width of its features, by own arithmetic."""
import functools

import jax
import jax.numpy as jnp
import pytest

from mtl_jax import backbones, scale_shift
from tests.backbones import SMALL

PUBLISHED_AFFINE = {'conv4': True, 'resnet12': False, 'resnet12_wide': True, 'resnet18_small': True,
                    'resnet25': True, 'wrn28_10': True}


def convolutions(name):
  """Every convolution, as (kernel size, c_in, c_out, has bias, is scaled), and norms' channels."""
  if name == 'conv4':
    return [(3, c_in, 64, True, True) for c_in in (3, 64, 64, 64)], [64] * 4
  if name in ('resnet12', 'resnet12_wide'):
    return three_convolution_blocks(name == 'resnet12_wide')
  stem, widths, blocks, strides = {'resnet18_small': (64, (64, 128, 256, 512), 2, (1, 2, 2, 2)),
                                   'resnet25': (80, (160, 320, 640), 4, (2, 2, 2)),
                                   'wrn28_10': (16, (160, 320, 640), 4, (1, 2, 2))}[name]
  pre_activation = name == 'wrn28_10'
  convs, c_in = [(3, 3, stem, name == 'resnet25', True)], stem
  norms = [] if pre_activation else [stem]
  for c_out, first_stride in zip(widths, strides, strict=True):
    for block in range(blocks):
      convs += [(3, c_in, c_out, False, True), (3, c_out, c_out, False, True)]
      norms += [c_in, c_out] if pre_activation else [c_out, c_out]
      if block == 0 and (first_stride == 2 or c_in != c_out):
        convs += [(1, c_in, c_out, False, True)]
        norms += [] if pre_activation else [c_out]
      c_in = c_out
  return convs, norms + ([c_in] if pre_activation else [])


def three_convolution_blocks(wide):
  convs, norms, c_in = [], [], 3
  for c_out in (64, 160, 320, 640) if wide else (64, 128, 256, 512):
    convs += [(3, c, c_out, not wide, True) for c in (c_in, c_out, c_out)]
    convs += [(1, c_in, c_out, False, wide)]
    norms += [c_out] * (4 if wide else 3)
    c_in = c_out
  return convs, norms


def shapes_of(name, size, **options):
  backbone = backbones.create(name, (size, size, 3), **options)
  return backbone, jax.eval_shape(backbone.init, jax.random.key(0))


def scale_shift_of(backbone, variables):
  """Shapes of Φ_S."""
  init = functools.partial(scale_shift.init, layers=backbone.scaled_layers)
  return jax.eval_shape(init, variables.params)


@pytest.mark.parametrize('norm_affine', [None, False, True])
@pytest.mark.parametrize('name', SMALL)
def test_weights_scales_and_shifts(name, norm_affine):
  backbone, variables = shapes_of(name, 32, norm_affine=norm_affine)
  convs, norms = convolutions(name)
  affine = PUBLISHED_AFFINE[name] if norm_affine is None else norm_affine
  weights = sum(k * k * c_in * c_out + c_out * bias for k, c_in, c_out, bias, _ in convs)
  assert scale_shift.count(variables.params) == weights + affine * 2 * sum(norms)
  assert scale_shift.count(variables.batch_stats) == 2 * sum(norms)
  scaled = [conv for conv in convs if conv[-1]]
  assert len(backbone.scaled_layers) == len(scaled)
  expected = sum(c_in * c_out + c_out * bias for _, c_in, c_out, bias, _ in scaled)
  assert scale_shift.count(scale_shift_of(backbone, variables)) == expected


@pytest.mark.parametrize('name, weights, scales_and_shifts', [
    ('conv4', 113_088, 12_736), ('resnet12', 7_992_000, 871_424),
    ('resnet12_wide', 12_424_320, 1_616_256), ('resnet18_small', 11_168_832, 1_392_832),
    ('resnet25', 36_579_360, 4_301_120), ('wrn28_10', 36_472_784, 4_280_368)])
def test_totals_as_published(name, weights, scales_and_shifts):
  # As published: ResNet-12 7.99 M and 0.871 M; wide 12.42 M; ResNet-18 for CIFAR 11.17 M;
  # WRN-28-10 36.5 M.
  backbone, variables = shapes_of(name, 28)
  assert scale_shift.count(variables.params) == weights
  assert scale_shift.count(scale_shift_of(backbone, variables)) == scales_and_shifts


@pytest.mark.parametrize('name', SMALL)
def test_with_norm_affine_every_batch_norm_has_a_scale_and_an_offset_and_else_none(name):
  def names(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(key.key for key in path) for path, _ in leaves}

  variables = {affine: shapes_of(name, 16, width=10, norm_affine=affine)[1]
               for affine in (None, False, True)}
  without, with_affine = names(variables[False].params), names(variables[True].params)
  norms = {path[:-1] for path in names(variables[True].batch_stats)}
  assert with_affine - without == {(*path, leaf) for path in norms for leaf in ('scale', 'bias')}
  assert not {path for path in without if path[-1] == 'scale' or path[:-1] in norms}
  assert names(variables[None].params) == (with_affine if PUBLISHED_AFFINE[name] else without)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if name in ('resnet25', 'wrn28_10') else ())
    for name in SMALL])
def test_feature_width_at_every_image_size(name):
  for size, norm_affine in ((28, False), (32, True), (64, False), (84, True), (84, False),
                            (224, True)):
    averaged = 512 if name in ('resnet12', 'resnet18_small') else 640
    expected = 64 * (size // 16)**2 if name == 'conv4' else averaged
    # Making a backbone traces it with running statistics.
    backbone, variables = shapes_of(name, size, norm_affine=norm_affine)
    assert backbone.feature_dim == expected and backbone.image_shape == (size, size, 3)
    if size == 84:
      images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
      for mode in ('running', 'batch'):
        run = functools.partial(backbone.features, batch_stats_mode=mode)
        features = jax.eval_shape(run, variables, images)
        assert (features.shape, features.dtype) == ((2, expected), jnp.float32)


def test_layers_of_the_last_block_and_what_is_not_scaled():
  networks = {name: backbones.create(name, (16, 16, 3), width=10) for name in SMALL}
  last = {name: {path for path in network.scaled_layers if path[:1] in network.last_block}
          for name, network in networks.items()}
  assert last['conv4'] == {('block4', 'conv')}
  assert last['resnet12'] == {('block4', f'conv{i}') for i in (1, 2, 3)}
  assert last['resnet12_wide'] == last['resnet12'] | {('block4', 'shortcut')}
  stages = (('resnet18_small', 'stage4', 2), ('resnet25', 'stage3', 4), ('wrn28_10', 'stage3', 4))
  for name, stage, blocks in stages:
    convs = {(stage, f'block{block}', f'conv{i}') for block in range(1, blocks + 1) for i in (1, 2)}
    assert last[name] == convs | {(stage, 'block1', 'shortcut')}
    assert ('stem',) in networks[name].scaled_layers
  assert [name for name, network in networks.items()
          if not any('shortcut' in path for path in network.scaled_layers)] == ['conv4', 'resnet12']


def test_width_scales_every_layer_down():
  widths = (('resnet12_wide', 64), ('resnet18_small', 64), ('resnet25', 160), ('wrn28_10', 160))
  for name, published in widths:
    full, half = (shapes_of(name, 16, width=width)[1].params
                  for width in (published, published // 2))
    assert jax.tree.structure(full) == jax.tree.structure(half)
    for large, small in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
      assert small.shape[-1] * 2 == large.shape[-1]
