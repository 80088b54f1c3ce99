"""Which combinations of what is learned and adapted are refused, and gradients of rarer ones."""
import dataclasses
import warnings

import jax
import numpy as np
import pytest

from mtl_jax import backbones, learnable, outer_loop
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.phases import meta_train
from mtl_jax.types import BackboneVars, Episode
from tests.ablation_rows import CONFIG, ROWS, start_of, tiny_network
from tests.phases import changed, finite_differences, smooth_network


@pytest.mark.parametrize('make, message', [
    (lambda: Learn('all'), "expected learn to be one of ss, ft, affine, head, none, got 'all'"),
    (lambda: Learn(scope='first'), "expected scope to be one of all, last_block, got 'first'"),
    (lambda: Learn(inner_lr='each'), 'expected inner_lr to be one of fixed, scalar, per_step'),
    (lambda: Learn(scaled='some'), 'expected scaled to be one of published, every'),
    (lambda: InnerLoop(gradient_order='third'), 'one of second, first, implicit'),
    (lambda: InnerLoop(batch_stats_mode='both'), 'one of running, batch'),
    (lambda: InnerLoop(batching='fast'), "one of loop, vmap, patches, got 'fast'")])
def test_a_choice_that_there_is_not_is_refused_where_it_is_made(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize('learn, inner, why', [
    ({}, {'adapts': 'body'}, "adapts to be one of head, last_block, all, film(, .*)?, got 'body'"),
    ({'learn': 'head', 'scope': 'last_block'}, {},
     'scope=last_block with learn=head: .* neither is'),
    ({'learn': 'none', 'norm': True}, {}, 'learn_norm with learn=none'),
    ({'learn': 'ft', 'replace_bias': True}, {},
     'replace_bias with learn=ft: they shape Φ_S, which is not learned'),
    ({'learn': 'none', 'inner_lr': 'scalar'}, {},
     'learn_inner_lr=scalar with learn=none: nothing is meta-learned'),
    ({'learn': 'head', 'classifier': False}, {}, 'nothing is left to learn'),
    ({'inner_lr': 'scalar'}, {'lr': 0.0}, 'inner_lr above 0'),
    ({}, {'gradient_order': 'implicit', 'regularization': 0.1, 'adapts': 'all'},
     'only the base-learner has a single'),
    ({}, {'gradient_order': 'implicit'}, 'implicit without regularization'),
    ({'inner_lr': 'scalar'}, {'gradient_order': 'first'},
     'its gradient goes through the inner loop'),
    ({'temperature': True}, {}, 'only L2-normalised features have one'),
    ({}, {'regularization': -1.}, 'regularization of -1.0: expected at least 0')])
def test_senseless_combinations_are_refused(learn, inner, why):
  with pytest.raises(ValueError, match=why):
    meta_train.check_config(*tiny_network(), changed(CONFIG, learn=learn, inner=inner))


def test_a_network_without_layers_has_nothing_to_scale_and_shift():
  backbone = smooth_network()[0]._replace(scaled_layers=(), last_block=())
  with pytest.raises(ValueError, match='no layer to scale and shift'):
    meta_train.check_config(backbone, tiny_network()[1], CONFIG)


def test_norm_parameters_that_a_backbone_has_not_are_refused():
  backbone = backbones.create('resnet12', (16, 16, 3), width=2)
  variables = jax.eval_shape(backbone.init, jax.random.key(0))
  with pytest.raises(ValueError, match='no affine parameters'):
    meta_train.check_config(backbone, variables, changed(CONFIG, learn={'norm': True}))


def test_an_implicit_gradient_short_of_the_minimum_is_warned_of():
  config = changed(CONFIG, inner={'gradient_order': 'implicit', 'regularization': 0.1})
  with pytest.warns(UserWarning, match='stops short of it'):
    meta_train.check_config(*tiny_network(), config)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    meta_train.check_config(*tiny_network(), changed(config, inner={'steps': 400}))


@pytest.mark.parametrize('settings', [
    *ROWS.values(), {'learn': {'learn': 'ft'}}, {'inner': {'adapts': 'all'}},
    {'learn': {'learn': 'head', 'inner_lr': 'scalar', 'classifier': False}},
    {'inner': {'gradient_order': 'implicit', 'regularization': 1.0, 'steps': 40}}])
def test_sensible_combinations_are_not(settings):
  config = changed(CONFIG, **settings)
  meta_train.check_config(*tiny_network(), config)
  assert isinstance(learnable.network(tiny_network()[1], start_of(config)), BackboneVars)


def test_gradients_of_learned_rates_norms_and_temperature_against_finite_differences():
  rng = np.random.default_rng(0)
  backbone, variables = smooth_network(channels=2, width=3, columns=4)
  backbone = backbones.read_out(backbone, norm='l2', temperature=3.0)
  config = dataclasses.replace(
      CONFIG, inner=InnerLoop(lr=0.2, steps=3),
      learn=Learn(norm=True, inner_lr='per_step', temperature=True))
  with jax.enable_x64(True):
    start = meta_train.init(backbone, variables, config).meta_params
    start = jax.tree.map(
        lambda x: np.asarray(x, np.float64) + 0.1 * rng.normal(size=x.shape), start)
    labels = np.array([[0, 1]] * 2)
    of_class = labels[..., None, None, None]
    tasks = Episode(rng.normal(size=(2, 2, 2, 4, 2)) + of_class, labels,
                    rng.normal(size=(2, 2, 2, 4, 2)) + of_class, labels, labels)

    @jax.jit
    def loss(params):
      return outer_loop.query_loss(params, variables, tasks, backbone=backbone, config=config)[0]

    found, expected = jax.jit(jax.grad(loss))(start), finite_differences(loss, start)
    found = jax.tree.map(np.asarray, found)
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8 * largest),
               found, expected)
  assert found.inner_lr['log'].shape == (3,) and np.all(np.abs(found.inner_lr['log']) > 1e-6)
  assert abs(found.temperature['log']) > 1e-6
