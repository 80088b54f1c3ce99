"""Both sides of the benchmarks compute the same: ours against numbers that PyTorch wrote.

`python -m tests.golden.pytorch_mtl` writes them.
"""
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, base_learner, outer_loop, scale_shift
from mtl_jax.backbones.basic_resnets import ResNet25
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.types import BackboneVars, BaseLearner, Episode, MetaParams
from tests.golden import pytorch_recipe as recipe

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MODULES = {'resnet12': ResNet12, 'resnet25': ResNet25}
# Compiles four times faster, and tiny arrays run fast all the same.
QUICK = {'xla_backend_optimization_level': 0}


def golden(name, order):
  """Returns what PyTorch wrote: name -> array."""
  with np.load(GOLDEN / f'pytorch_{name}.npz') as file:
    return {key.removeprefix(f'{order}/'): file[key] for key in file.files
            if key.startswith(f'{order}/')}


def assert_same(found, expected):
  """Asserts equality up to rounding in float64, array by array."""
  assert set(found) == set(expected)
  for name, value in expected.items():
    assert found[name].shape == value.shape, name
    np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-10 * np.abs(value).max(),
                               err_msg=name)


def flat(tree):
  """Returns path/of/leaf -> array."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in leaves}


def filled(tree, prefix=''):
  """Returns a tree of the same shapes with the arrays of the recipe."""
  def fill(path, leaf):
    name = prefix + jax.tree_util.keystr(path, simple=True, separator='/')
    return jnp.asarray(recipe.array(name, leaf.shape))

  return jax.tree_util.tree_map_with_path(fill, tree)


def problem(network):
  """Returns a narrow backbone in float64, variables, meta-parameters and tasks by the recipe."""
  published = backbones.create(network, (17, 16, 3), width=recipe.WIDTH)
  unscaled = () if network == 'resnet25' else ('shortcut',)
  module = MODULES[network](width=recipe.WIDTH, norm_epsilon=recipe.EPS, dtype=jnp.float64)
  last_block = 'block4' if network == 'resnet12' else 'stage3'
  backbone = backbones.from_linen(module, (17, 16, 3), last_block=last_block, unscaled=unscaled)
  assert backbone.scaled_layers == published.scaled_layers
  variables = jax.eval_shape(published.init, jax.random.key(0))
  variables = BackboneVars(filled(variables.params), filled(variables.batch_stats))
  phi = filled(scale_shift.init(variables.params, backbone.scaled_layers), 'scale_shift/')
  theta = filled(base_learner.init(backbone.feature_dim, recipe.WAY), 'base_learner/')
  arrays = jax.tree.map(jnp.asarray, recipe.tasks())
  class_ids = jnp.tile(jnp.arange(recipe.WAY), (recipe.TASKS, 1))
  tasks = Episode(arrays['support_images'], arrays['support_labels'], arrays['query_images'],
                  arrays['query_labels'], class_ids)
  return backbone, MetaParams(phi, {}, theta, {}, {}), variables, tasks


@pytest.mark.parametrize('network', [
    pytest.param(name, marks=pytest.mark.slow if name == 'resnet25' else ())
    for name in recipe.NETWORKS])
def test_outer_step_is_that_of_pytorch(network):
  with jax.enable_x64(True):
    backbone, *arguments = problem(network)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def losses_and_gradients(*arguments):
      inner = InnerLoop(lr=recipe.STEP['inner_lr'], steps=recipe.STEP['inner_steps'])
      found = []
      for order in recipe.ORDERS:
        config = MetaTrainConfig(way=recipe.WAY,
                                 inner=dataclasses.replace(inner, gradient_order=order))
        loss = functools.partial(outer_loop.query_loss, backbone=backbone, config=config)
        found.append(jax.value_and_grad(loss, has_aux=True)(*arguments))
      return found

    both = losses_and_gradients(*arguments)
  for order, ((loss, _), gradient) in zip(recipe.ORDERS, both, strict=True):
    assert_same({'loss': np.asarray(loss), **flat(gradient._asdict())}, golden(network, order))


@pytest.mark.parametrize('order', recipe.ORDERS)
@pytest.mark.parametrize('adapt', [base_learner.adapt, base_learner.adapt_primal])
def test_inner_loop_is_that_of_pytorch(adapt, order):
  def loss(x):
    theta = BaseLearner(x['kernel'], x['bias'])

    def one(support, support_labels, query, query_labels):
      adapted = adapt(theta, support, support_labels, query, gradient_order=order,
                      num_steps=recipe.LOOP['inner_steps'], inner_lr=recipe.LOOP['inner_lr'])
      return base_learner.cross_entropy(adapted.query_logits, query_labels)

    return jnp.mean(jax.vmap(one)(x['support'], labels['support'], x['query'], labels['query']))

  with jax.enable_x64(True):
    arrays = jax.tree.map(jnp.asarray, recipe.features())
    labels = {part: arrays.pop(f'{part}_labels') for part in ('support', 'query')}
    value, gradient = jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(arrays)
  assert_same({'loss': np.asarray(value), **flat(gradient)}, golden('inner_loop', order))


@pytest.mark.parametrize('name', ['inner_loop', *recipe.NETWORKS])
def test_the_numbers_are_those_of_the_files_that_are_there(name):
  with np.load(GOLDEN / f'pytorch_{name}.npz') as file:
    assert str(file['sources']) == recipe.sources(), (
        'write them anew: python -m tests.golden.pytorch_mtl, with PyTorch')


def test_orders_differ():
  for network in recipe.NETWORKS:
    second, first = (golden(network, order) for order in recipe.ORDERS)
    assert second['loss'] == pytest.approx(first['loss'], rel=1e-12) and 0.5 < second['loss'] < 2
    for name in set(second) - {'loss', 'base_learner/bias'}:
      difference = np.linalg.norm(second[name] - first[name])
      assert difference > 1e-3 * np.linalg.norm(second[name]), name
