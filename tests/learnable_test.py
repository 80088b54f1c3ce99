"""What each row of the ablation changes, and what it leaves bitwise as it was."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable, outer_loop, scale_shift
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.phases import meta_train
from mtl_jax.types import BackboneVars, MetaParams
from tests.ablation_rows import CONFIG, ROWS, start_of, tiny_network
from tests.phases import changed, toy_pool


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


@pytest.mark.parametrize('learn, phi, weights', [
    (Learn('none'), set(), set()),
    (Learn('head'), set(), set()),
    (Learn(), {1, 2}, set()),
    (Learn(scope='last_block'), {2}, set()),
    (Learn('ft'), set(),
     {f'block{i}/conv/{leaf}' for i in (1, 2) for leaf in ('kernel', 'bias')}),
    (Learn('ft', 'last_block'), set(), {'block2/conv/kernel', 'block2/conv/bias'}),
    (Learn(norm=True), {1, 2},
     {f'block{i}/bn/{leaf}' for i in (1, 2) for leaf in ('scale', 'bias')}),
    (Learn(norm=True, scope='last_block'), {2}, {'block2/bn/scale', 'block2/bn/bias'}),
    (Learn('ft', 'last_block', norm=True), set(),
     {f'block2/{leaf}' for leaf in ('conv/kernel', 'conv/bias', 'bn/scale', 'bn/bias')}),
])
def test_what_is_learned_where(learn, phi, weights):
  found = start_of(changed(CONFIG, learn=vars(learn)))
  expected = {f'block{i}/conv/{leaf}' for i in phi for leaf in ('scale', 'shift')}
  assert set(leaves(found.scale_shift)) == expected
  assert set(leaves(found.weights)) == weights and found.temperature == {}
  own = leaves(tiny_network()[1].params)
  for path, leaf in leaves(found.weights).items():
    np.testing.assert_array_equal(leaf, own[path])


@pytest.mark.parametrize('settings', [
    *ROWS.values(), {'learn': {'learn': 'ft', 'norm': True}}, {'learn': {'norm': True}}])
def test_at_the_start_the_network_is_bitwise_the_pretrained_one(settings):
  _, variables = tiny_network()
  found = learnable.network(variables, start_of(changed(CONFIG, **settings)))
  jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_learned_weights_are_copies_that_may_be_donated():
  _, variables = tiny_network()
  weights = start_of(changed(CONFIG, learn={'learn': 'ft'})).weights
  jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(weights)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_network_puts_weights_in_place_and_then_scales_and_shifts():
  _, variables = tiny_network()
  rng = np.random.default_rng(0)
  identity = scale_shift.init(variables.params, (('block2', 'conv'),))
  phi = jax.tree.map(lambda x: rng.normal(size=x.shape), identity)
  weights = {'block2': {'conv': {'kernel': rng.normal(size=(1, 1, 4, 4))}},
             'block1': {'bn': {'scale': np.full(4, 7.)}}}
  network = learnable.network(variables, MetaParams(phi, weights, None, {}, {}))
  found, expected = leaves(network.params), leaves(variables.params)
  layer = phi['block2']['conv']
  expected['block2/conv/kernel'] = weights['block2']['conv']['kernel'] * layer['scale']
  expected['block2/conv/bias'] = expected['block2/conv/bias'] + layer['shift']
  expected['block1/bn/scale'] = np.full(4, 7.)
  assert found.keys() == expected.keys() and network.temperature is None
  for path, leaf in found.items():
    np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, err_msg=path)


def test_a_learned_temperature_is_in_the_network():
  backbone, variables = tiny_network()
  backbone = backbones.read_out(backbone, norm='l2', temperature=3.0)
  learn = Learn(temperature=True)
  start = learnable.init(backbone, variables, 2, learn, InnerLoop())
  np.testing.assert_allclose(start.temperature['log'], np.log(3.0), rtol=1e-6)
  moved = start._replace(temperature={'log': jnp.log(5.0)})
  network = learnable.network(variables, moved)
  np.testing.assert_allclose(network.temperature, 5.0, rtol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, network._replace(temperature=None), variables)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  features = backbone.features(network, images, batch_stats_mode='running')
  np.testing.assert_allclose(np.linalg.norm(features, axis=1), 5.0, rtol=1e-4)


def test_every_layer_may_be_scaled_and_shifts_may_replace_biases():
  backbone = backbones.create('resnet12', (16, 16, 3), width=2)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), shapes)

  def start(**learn):
    return learnable.init(backbone, variables, 2, Learn(**learn), InnerLoop())

  published, every = start().scale_shift, start(scaled='every').scale_shift
  assert set(published['block1']) == {'conv1', 'conv2', 'conv3'}
  assert set(every['block1']) == {'conv1', 'conv2', 'conv3', 'shortcut'}
  replaced = leaves(learnable.network(variables, start(replace_bias=True)).params)
  for path, leaf in leaves(variables.params).items():
    is_bias = path.endswith('bias')
    np.testing.assert_array_equal(replaced[path], np.zeros_like(leaf) if is_bias else leaf)
    assert not is_bias or np.all(leaf == 0.5)


@functools.cache
def one_cycle(row, hard):
  """Meta-parameters before and after a cycle of outer steps, and Θ before and after."""
  backbone, variables = tiny_network()
  config = changed(CONFIG, num_hard_tasks=2 if hard else 0, **ROWS[row])
  state = meta_train.init(backbone, variables, config)
  before, frozen = jax.tree.map(np.array, (state.meta_params, variables))
  pool = jax.tree.map(jnp.asarray, toy_pool([6] * 5))
  cycle = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=config))
  after, metrics = cycle(state, jax.random.key(0), variables, pool)
  assert np.isfinite(metrics['loss']) and ('hard_loss' in metrics) == hard
  return before, jax.tree.map(np.asarray, after.meta_params), frozen, variables


@pytest.mark.parametrize('hard', [
    pytest.param(True, id='HT', marks=pytest.mark.slow), pytest.param(False, id='no HT')])
@pytest.mark.parametrize('row', [
    pytest.param(row, marks=pytest.mark.slow if 'Θ4' in row else ())
    for row in ROWS if 'update' not in row])
def test_a_cycle_changes_what_is_learned_and_nothing_else(row, hard):
  before, after, frozen, variables = one_cycle(row, hard)
  moved = {path for path, leaf in leaves(after).items() if np.any(leaf != leaves(before)[path])}
  assert moved == set(leaves(before))  # all that the state holds is learned
  jax.tree.map(np.testing.assert_array_equal, frozen, variables)
  network, plain = leaves(learnable.network(variables, after)), leaves(variables)
  different = {path for path in plain if np.any(network[path] != plain[path])}
  blocks = {'FT θ': (), 'FT[Θ4;θ]': (2,), 'FT[Θ;θ]': (1, 2), 'SS[Θ4;θ]': (2,),
            'SS[Θ;θ]': (1, 2)}[row]
  assert different == {
      f'params/block{i}/conv/{leaf}' for i in blocks for leaf in ('kernel', 'bias')}


def test_the_classifier_stays_where_it_is_not_learned():
  backbone, variables = tiny_network()
  config = changed(CONFIG, learn={'classifier': False})
  state = meta_train.init(backbone, variables, config)
  pool, no_failures = jax.tree.map(jnp.asarray, toy_pool([6] * 5)), jnp.zeros(5, jnp.int32)
  tasks = meta_train.draw_tasks(jax.random.key(0), pool, no_failures, False, config=config)

  @jax.jit
  def step(state, tasks):
    found = outer_loop.value_and_gradient(state.meta_params, variables, tasks, backbone=backbone,
                                          config=config)
    return outer_loop.apply(state, found.gradient, config)

  after = step(state, tasks).meta_params
  assert not np.any(after.base_learner.kernel) and not np.any(after.base_learner.bias)
  assert np.any(np.asarray(after.scale_shift['block2']['conv']['scale']) != 1)


def test_inner_rates():
  plain, each = MetaParams({}, {}, None, {}, {}), jnp.log(jnp.array([0.1, 0.2, 0.4]))

  def rates(inner_lr, steps):
    return learnable.inner_rates(plain._replace(inner_lr=inner_lr), InnerLoop(lr=0.3, steps=steps))

  assert rates({}, 7) == 0.3
  np.testing.assert_allclose(rates({'log': jnp.log(0.2)}, 7), 0.2, rtol=1e-6)
  np.testing.assert_allclose(rates({'log': each}, 2), [0.1, 0.2], rtol=1e-6)
  np.testing.assert_allclose(rates({'log': each}, 5), [0.1, 0.2, 0.4, 0.4, 0.4], rtol=1e-6)
  for learned, expected in (('per_step', [0.1, 0.1]), ('scalar', 0.1)):
    start = start_of(changed(CONFIG, learn={'inner_lr': learned}))
    np.testing.assert_allclose(np.exp(start.inner_lr['log']), expected, rtol=1e-6)


def test_a_block_with_a_scale_of_its_own_is_no_norm():
  # LayerScale: one factor per channel beside the layers of a block.
  params = {'block': {'scale': jnp.ones(3), 'dense': {'kernel': jnp.ones((3, 3))},
                      'norm': {'scale': jnp.ones(3)}}}
  backbone = backbones.from_functions(
      lambda key: params, lambda params, x: x[:, 0, 0] @ params['block']['dense']['kernel'],
      (2, 2, 3), last_block='block')

  def weights(**learn):
    start = learnable.init(backbone, BackboneVars(params, {}), 2, Learn(**learn), InnerLoop())
    return set(leaves(start.weights))

  assert weights(learn='ft') == {'block/scale', 'block/dense/kernel'}
  assert weights(norm=True) == {'block/norm/scale'}


def test_a_last_block_below_the_top_level():
  params = {'blocks': {str(i): {'dense': {'kernel': jnp.full((3, 3), float(i))}}
                       for i in range(3)}}
  backbone = backbones.from_functions(
      lambda key: params, lambda params, x: x[:, 0, 0] @ params['blocks']['2']['dense']['kernel'],
      (2, 2, 3), last_block='blocks/2')
  variables = BackboneVars(params, {})

  def start(**learn):
    return learnable.init(backbone, variables, 2, Learn(scope='last_block', **learn), InnerLoop())

  assert set(leaves(start(learn='ft').weights)) == {'blocks/2/dense/kernel'}
  for scaled in ('published', 'every'):
    assert set(leaves(start(scaled=scaled).scale_shift)) == {'blocks/2/dense/scale'}
  weights = {'blocks': {'2': {'dense': {'kernel': jnp.full((3, 3), 9.)}}}}
  moved = start(learn='ft')._replace(weights=weights)
  found = learnable.network(variables, moved).params['blocks']
  assert [float(found[str(i)]['dense']['kernel'][0, 0]) for i in range(3)] == [0, 1, 9]


@pytest.mark.parametrize('row', ROWS)
def test_row_names(row):
  config = changed(CONFIG, **ROWS[row])
  for hard, suffix in ((True, ', HT meta-batch'), (False, ', meta-batch')):
    name = learnable.row_name(config.learn, config.inner.adapts, hard)
    assert name == (row if 'update' in row else row + suffix)
