"""What each row of the ablation changes, what it leaves bitwise as it was, and which combinations are refused."""
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable, outer_loop, scale_shift
from mtl_jax.phases import meta_train
from mtl_jax.types import BackboneVars, Episode, MetaParams
from tests.phases import MEAN, STD, finite_differences, smooth_network, toy_pool

CONFIG = meta_train.MetaTrainConfig(way=2, shot=1, query=3, ordinary_tasks=2, hard_tasks=2, inner_lr=0.1, inner_steps=2,
                                    crop_padding=0, flip=False)
ROWS = {
    'update[Θ;θ]': {'learn': 'none', 'adapts': 'all'},
    'update θ': {'learn': 'none'},
    'FT θ': {'learn': 'head'},
    'FT[Θ4;θ]': {'learn': 'ft', 'scope': 'last_block', 'adapts': 'last_block'},
    'FT[Θ;θ]': {'learn': 'ft', 'adapts': 'all'},
    'SS[Θ4;θ]': {'scope': 'last_block'},
    'SS[Θ;θ]': {},
}


@functools.cache
def tiny_network():
  backbone, variables = smooth_network()
  return backbone, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def init(**settings):
  backbone, variables = tiny_network()
  return meta_train.init(backbone, variables, CONFIG._replace(**settings)).meta_params


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize('settings, phi, weights', [
    ({'learn': 'none'}, set(), set()),
    ({'learn': 'head'}, set(), set()),
    ({}, {1, 2}, set()),
    ({'scope': 'last_block'}, {2}, set()),
    ({'learn': 'ft'}, set(), {f'block{i}/conv/{leaf}' for i in (1, 2) for leaf in ('kernel', 'bias')}),
    ({'learn': 'ft', 'scope': 'last_block'}, set(), {'block2/conv/kernel', 'block2/conv/bias'}),
    ({'learn_norm': True}, {1, 2}, {f'block{i}/bn/{leaf}' for i in (1, 2) for leaf in ('scale', 'bias')}),
    ({'learn_norm': True, 'scope': 'last_block'}, {2}, {'block2/bn/scale', 'block2/bn/bias'}),
    ({'learn': 'ft', 'learn_norm': True, 'scope': 'last_block'}, set(),
     {f'block2/{leaf}' for leaf in ('conv/kernel', 'conv/bias', 'bn/scale', 'bn/bias')}),
])
def test_what_is_learned_where(settings, phi, weights):
  found = init(**settings)
  assert set(leaves(found.scale_shift)) == {f'block{i}/conv/{leaf}' for i in phi for leaf in ('scale', 'shift')}
  assert set(leaves(found.weights)) == weights
  own = leaves(tiny_network()[1].params)
  for path, leaf in leaves(found.weights).items():
    np.testing.assert_array_equal(leaf, own[path])


@pytest.mark.parametrize('settings', [*ROWS.values(), {'learn': 'ft', 'learn_norm': True}, {'learn_norm': True}])
def test_at_the_start_the_network_is_bitwise_the_pretrained_one(settings):
  _, variables = tiny_network()
  found = learnable.network(variables, init(**settings))
  jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_learned_weights_are_copies_that_may_be_donated():
  _, variables = tiny_network()
  weights = init(learn='ft').weights
  jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(weights)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_network_puts_weights_in_place_and_then_scales_and_shifts():
  _, variables = tiny_network()
  rng = np.random.default_rng(0)
  phi = jax.tree.map(lambda x: rng.normal(size=x.shape), scale_shift.init(variables.params, (('block2', 'conv'),)))
  weights = {'block2': {'conv': {'kernel': rng.normal(size=(1, 1, 4, 4))}}, 'block1': {'bn': {'scale': np.full(4, 7.)}}}
  found = leaves(learnable.network(variables, MetaParams(phi, weights, None, {})).params)
  expected = leaves(variables.params)
  layer = phi['block2']['conv']
  expected['block2/conv/kernel'] = weights['block2']['conv']['kernel'] * layer['scale']
  expected['block2/conv/bias'] = expected['block2/conv/bias'] + layer['shift']
  expected['block1/bn/scale'] = np.full(4, 7.)
  assert found.keys() == expected.keys()
  for path, leaf in found.items():
    np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, err_msg=path)


def test_every_layer_may_be_scaled_and_shifts_may_replace_biases():
  backbone = backbones.create('resnet12', (16, 16, 3), width=2)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), shapes)
  start = functools.partial(learnable.init, backbone, variables, way=2)
  published, every = start().scale_shift, start(scaled='every').scale_shift
  assert set(published['block1']) == {'conv1', 'conv2', 'conv3'}
  assert set(every['block1']) == {'conv1', 'conv2', 'conv3', 'shortcut'}
  replaced = learnable.network(variables, start(replace_bias=True)).params
  for path, leaf in leaves(variables.params).items():
    is_bias = path.endswith('bias')
    np.testing.assert_array_equal(leaves(replaced)[path], np.zeros_like(leaf) if is_bias else leaf)
    assert not is_bias or np.all(leaf == 0.5)


@functools.cache
def one_cycle(row, hard):
  """Meta-parameters before and after a cycle of outer steps, and Θ before and after."""
  backbone, variables = tiny_network()
  config = CONFIG._replace(hard_tasks=2 if hard else 0, **ROWS[row])
  state = meta_train.init(backbone, variables, config)
  before, frozen = jax.tree.map(np.array, (state.meta_params, variables))
  pool = jax.tree.map(jnp.asarray, toy_pool([6] * 5))
  after, metrics = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=config))(
      state, jax.random.key(0), variables, pool, MEAN, STD)
  assert np.isfinite(metrics['loss']) and ('hard_loss' in metrics) == hard
  return before, jax.tree.map(np.asarray, after.meta_params), frozen, variables


@pytest.mark.parametrize('hard', [True, False], ids=['HT', 'no HT'])
@pytest.mark.parametrize('row', [row for row in ROWS if 'update' not in row])
def test_a_cycle_changes_what_is_learned_and_nothing_else(row, hard):
  before, after, frozen, variables = one_cycle(row, hard)
  moved = {path for path, leaf in leaves(after).items() if np.any(leaf != leaves(before)[path])}
  assert moved == set(leaves(before))  # all that the state holds is learned
  jax.tree.map(np.testing.assert_array_equal, frozen, variables)
  network, plain = leaves(learnable.network(variables, after)), leaves(variables)
  changed = {path for path in plain if np.any(network[path] != plain[path])}
  blocks = {'FT θ': (), 'FT[Θ4;θ]': (2,), 'FT[Θ;θ]': (1, 2), 'SS[Θ4;θ]': (2,), 'SS[Θ;θ]': (1, 2)}[row]
  assert changed == {f'params/block{i}/conv/{leaf}' for i in blocks for leaf in ('kernel', 'bias')}


def test_the_classifier_stays_where_it_is_not_learned():
  backbone, variables = tiny_network()
  config = CONFIG._replace(learn_classifier=False)
  state = meta_train.init(backbone, variables, config)
  tasks = meta_train.draw_tasks(jax.random.key(0), jax.tree.map(jnp.asarray, toy_pool([6] * 5)), MEAN, STD,
                                jnp.zeros(5, jnp.int32), False, config=config)
  after, _, _ = jax.jit(functools.partial(outer_loop.step, backbone=backbone, config=config))(
      state, variables, tasks)
  assert not np.any(after.meta_params.base_learner.kernel) and not np.any(after.meta_params.base_learner.bias)
  assert np.any(np.asarray(after.meta_params.scale_shift['block2']['conv']['scale']) != 1)


def test_inner_rates():
  plain = MetaParams({}, {}, None, {})
  assert learnable.inner_rates(plain, 0.3, 7) == 0.3
  scalar = plain._replace(inner_lr={'log': jnp.log(0.2)})
  np.testing.assert_allclose(learnable.inner_rates(scalar, 0.3, 7), 0.2, rtol=1e-6)
  each = plain._replace(inner_lr={'log': jnp.log(jnp.array([0.1, 0.2, 0.4]))})
  np.testing.assert_allclose(learnable.inner_rates(each, 0.3, 2), [0.1, 0.2], rtol=1e-6)
  np.testing.assert_allclose(learnable.inner_rates(each, 0.3, 5), [0.1, 0.2, 0.4, 0.4, 0.4], rtol=1e-6)
  np.testing.assert_allclose(np.exp(init(learn_inner_lr='per_step').inner_lr['log']), [0.1, 0.1], rtol=1e-6)
  np.testing.assert_allclose(np.exp(init(learn_inner_lr='scalar').inner_lr['log']), 0.1, rtol=1e-6)


@pytest.mark.parametrize('settings, why', [
    ({'learn': 'all'}, "expected learn to be one of none, head, ss, ft, got 'all'"),
    ({'adapts': 'body'}, "expected adapts to be one of head, last_block, all, got 'body'"),
    ({'learn': 'head', 'scope': 'last_block'}, 'scope=last_block with learn=head: .* neither is'),
    ({'learn': 'none', 'learn_norm': True}, 'learn_norm with learn=none'),
    ({'learn': 'ft', 'replace_bias': True}, 'replace_bias with learn=ft: they shape Φ_S, which is not learned'),
    ({'learn': 'none', 'learn_inner_lr': 'scalar'}, 'learn_inner_lr=scalar with learn=none: nothing is meta-learned'),
    ({'learn': 'head', 'learn_classifier': False}, 'nothing is left to learn'),
    ({'learn_inner_lr': 'scalar', 'inner_lr': 0.0}, 'inner_lr above 0'),
    ({'gradient_order': 'implicit', 'regularization': 0.1, 'adapts': 'all'}, 'only the base-learner has a single'),
    ({'gradient_order': 'implicit'}, 'implicit without regularization'),
    ({'gradient_order': 'first', 'learn_inner_lr': 'scalar'}, 'its gradient goes through the inner loop'),
    ({'learn_temperature': True}, 'only L2-normalised features have one'),
    ({'regularization': -1.}, 'regularization of -1.0: expected at least 0')])
def test_senseless_combinations_are_refused(settings, why):
  backbone, variables = tiny_network()
  with pytest.raises(ValueError, match=why):
    meta_train.check(backbone, variables, CONFIG._replace(**settings))


def test_gradients_of_learned_rates_norms_and_temperature_against_finite_differences():
  rng = np.random.default_rng(0)
  backbone, variables = smooth_network(channels=2, width=3, columns=4)
  backbone = backbones.read_out(backbone, norm='l2', temperature=3.0)
  config = CONFIG._replace(learn_norm=True, learn_inner_lr='per_step', learn_temperature=True, inner_lr=0.2,
                           inner_steps=3)
  with jax.enable_x64(True):
    start = jax.tree.map(lambda x: np.asarray(x, np.float64), meta_train.init(backbone, variables, config).meta_params)
    start = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), start)
    labels = np.array([[0, 1]] * 2)
    tasks = Episode(rng.normal(size=(2, 2, 2, 4, 2)) + labels[..., None, None, None], labels,
                    rng.normal(size=(2, 2, 2, 4, 2)) + labels[..., None, None, None], labels, labels)
    loss = jax.jit(lambda params: outer_loop.query_loss(params, variables, tasks, backbone=backbone, config=config)[0])
    found, expected = jax.jit(jax.grad(loss))(start), finite_differences(loss, start)
    found = jax.tree.map(np.asarray, found)
  largest = max(np.abs(leaf).max() for leaf in leaves(expected).values())
  for path, leaf in leaves(expected).items():
    np.testing.assert_allclose(leaves(found)[path], leaf, rtol=1e-6, atol=1e-8 * largest, err_msg=path)
  assert found.inner_lr['log'].shape == (3,) and np.all(np.abs(found.inner_lr['log']) > 1e-6)
  assert abs(found.weights['_readout']['log_temperature']) > 1e-6


def test_a_network_without_layers_has_nothing_to_scale_and_shift():
  backbone = smooth_network()[0]._replace(scaled_layers=(), last_block=())
  with pytest.raises(ValueError, match='no layer to scale and shift'):
    meta_train.check(backbone, tiny_network()[1], CONFIG)


def test_a_block_with_a_scale_of_its_own_is_no_norm():
  # LayerScale: one factor per channel beside the layers of a block.
  params = {'block': {'scale': jnp.ones(3), 'dense': {'kernel': jnp.ones((3, 3))}, 'norm': {'scale': jnp.ones(3)}}}
  backbone = backbones.from_functions(
      lambda key: params, lambda params, x: x[:, 0, 0] @ params['block']['dense']['kernel'], (2, 2, 3),
      last_block='block')
  start = functools.partial(learnable.init, backbone, BackboneVars(params, {}), way=2)
  assert set(leaves(start(learn='ft').weights)) == {'block/scale', 'block/dense/kernel'}
  assert set(leaves(start(learn_norm=True).weights)) == {'block/norm/scale'}


def test_a_last_block_below_the_top_level():
  params = {'blocks': {str(i): {'dense': {'kernel': jnp.full((3, 3), float(i))}} for i in range(3)}}
  backbone = backbones.from_functions(
      lambda key: params, lambda params, x: x[:, 0, 0] @ params['blocks']['2']['dense']['kernel'], (2, 2, 3),
      last_block='blocks/2')
  start = functools.partial(learnable.init, backbone, BackboneVars(params, {}), way=2, scope='last_block')
  assert set(leaves(start(learn='ft').weights)) == {'blocks/2/dense/kernel'}
  assert set(leaves(start().scale_shift)) == set(leaves(start(scaled='every').scale_shift)) == {'blocks/2/dense/scale'}
  moved = start(learn='ft')._replace(weights={'blocks': {'2': {'dense': {'kernel': jnp.full((3, 3), 9.)}}}})
  found = learnable.network(BackboneVars(params, {}), moved).params['blocks']
  assert [float(found[str(i)]['dense']['kernel'][0, 0]) for i in range(3)] == [0, 1, 9]


def test_an_implicit_gradient_short_of_the_minimum_is_warned_of():
  backbone, variables = tiny_network()
  config = CONFIG._replace(gradient_order='implicit', regularization=0.1)
  with pytest.warns(UserWarning, match='stops short of it'):
    meta_train.check(backbone, variables, config)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    meta_train.check(backbone, variables, config._replace(inner_steps=400))


def test_norm_parameters_that_a_backbone_has_not_are_refused():
  backbone = backbones.create('resnet12', (16, 16, 3), width=2)
  variables = jax.eval_shape(backbone.init, jax.random.key(0))
  with pytest.raises(ValueError, match='no affine parameters'):
    meta_train.check(backbone, variables, CONFIG._replace(learn_norm=True))


@pytest.mark.parametrize('settings', [*ROWS.values(), {'learn': 'ft', 'adapts': 'head'}, {'adapts': 'all'},
                                      {'learn': 'head', 'learn_inner_lr': 'scalar', 'learn_classifier': False},
                                      {'gradient_order': 'implicit', 'regularization': 1.0, 'inner_steps': 40}])
def test_sensible_combinations_are_not(settings):
  backbone, variables = tiny_network()
  meta_train.check(backbone, variables, CONFIG._replace(**settings))
  assert isinstance(learnable.network(variables, init(**settings)), BackboneVars)


@pytest.mark.parametrize('row', ROWS)
def test_row_names(row):
  settings = {'learn': 'ss', 'scope': 'all', 'adapts': 'head'} | ROWS[row]
  assert learnable.row_name(**settings, hard_tasks=True) == (row if 'update' in row else f'{row}, HT meta-batch')
  assert learnable.row_name(**settings, hard_tasks=False) == (row if 'update' in row else f'{row}, meta-batch')
