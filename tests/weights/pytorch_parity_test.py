"""The same weights in the authors' PyTorch modules and here: features, adapted logits, query loss, outer gradients.

What their modules compute, in float64, is in `tests/golden/authors_pytorch.npz`; `tests/golden/recipe.py` makes the
same weights and images anew, by two recipes. Gradients are compared on the one whose activations stay away from the
kinks of ReLU; on the other even their own float32 gradients are off by 2e-3. One activation is near one even there, so
in float32 the gradient is compared as a whole, and parameter by parameter in float64.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ours import trees
from mtl_jax import learnable, outer_loop
from mtl_jax.phases import meta_train
from mtl_jax.types import Episode
from mtl_jax.weights import names, transfer
from tests.golden import recipe
from tests.weights import authors_layout

TOLERANCES = {'float32': 1e-4, 'float64': 1e-9}
CONFIG = meta_train.MetaTrainConfig(way=recipe.WAY, query=recipe.QUERY, meta_batch=1, inner_steps=100,
                                    gradient_order='first', learn_norm=True, batch_stats_mode='batch')
SHIFT = 'gradient/encoder.conv1.mtl_bias'  # batch norm takes it out again: its gradient is rounding alone


@functools.cache
def golden():
  return dict(np.load(authors_layout.GOLDEN))


@functools.lru_cache(maxsize=1)
def imported(name, dtype='float32'):
  """Their weights in our trees: (network, Θ, what is meta-learned)."""
  found = transfer.from_authors(authors_layout.pytorch(recipe_name=name), 'pytorch')
  assert found.backbone == {'name': 'resnet25'}
  network = trees.make_backbone('resnet25', (recipe.SIZE, recipe.SIZE, 3), None, dtype)
  return network, *jax.tree.map(lambda x: jnp.asarray(x, dtype), (found.backbone_vars, found.meta_params))


def task(shot):
  return Episode(recipe.images(f'support{shot}', shot), recipe.labels(shot), recipe.images('query', recipe.QUERY),
                 recipe.labels(recipe.QUERY), np.arange(recipe.WAY))


@functools.partial(jax.jit, static_argnames=('network', 'differentiated'))
def step(meta_params, variables, task, network, differentiated):
  """Features, logits, query loss and, where asked for, outer gradients of one task."""
  modulated = learnable.network(variables, meta_params)
  found = {f'{name}_features': network.features(modulated, images, batch_stats_mode=mode) for name, images, mode in (
      ('running', task.query_images, 'running'), ('support', task.support_images, 'batch'),
      ('query', task.query_images, 'batch'))}
  loss = functools.partial(outer_loop.query_loss, backbone=network, config=CONFIG)
  arguments = meta_params, variables, jax.tree.map(lambda x: x[None], task)
  (loss, logits), gradient = (jax.value_and_grad(loss, has_aux=True)(*arguments) if differentiated else
                              (loss(*arguments), None))
  return found | {'loss': loss, 'logits': logits[0]}, gradient


def as_theirs(gradient):
  """The gradients under their keys and in their layouts."""
  flat = {'scale_shift': gradient.scale_shift, 'params': gradient.weights,
           'base_learner': gradient.base_learner._asdict()}
  keys = {place.path: place.key for place in names.places('pytorch', meta_trained=True)}
  for path, leaf in jax.tree_util.tree_flatten_with_path(flat)[0]:
    array = np.asarray(leaf)
    key = f"gradient/{keys[jax.tree_util.keystr(path, simple=True, separator='/')]}"
    yield key, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T  # 1x1 kernels are [in, out] here


def assert_near(found, expected, what, tolerance=TOLERANCES['float32']):
  error = recipe.relative_error(found, expected)
  print(f'{what}: {error:.1e}')
  assert error < tolerance, what


@pytest.mark.parametrize('name, shot, dtype', [
    ('ordinary', 1, 'float32'), ('clear', 1, 'float32'), ('clear', 5, 'float32'), ('clear', 1, 'float64')])
def test_one_outer_step(name, shot, dtype):
  """The gradient of the encoder as one vector, known by projections of its parts, and that of θ."""
  with jax.enable_x64(dtype == 'float64'):
    network, variables, meta_params = imported(name, dtype)
    found, gradient = step(meta_params, variables, task(shot), network, differentiated=name == 'clear')
    gradient = gradient and {key: np.append(np.linalg.norm(array), recipe.projected(key, array))
                             for key, array in as_theirs(gradient)}
  near = functools.partial(assert_near, tolerance=TOLERANCES[dtype])
  for key, value in found.items():
    value = recipe.projected_features(value) if key.endswith('features') else value
    near(value, golden()[f'{name}/{shot}shot/{key}'], f'{name} {shot}-shot {key}')
  if gradient is None:
    return
  prefix = f'{name}/{shot}shot/'
  expected = {key.removeprefix(prefix): value for key, value in golden().items() if f'{prefix}gradient/' in key}
  assert gradient.keys() == expected.keys()
  assert gradient.pop(SHIFT)[0] < 1e-4 * np.linalg.norm([vector[0] for vector in gradient.values()])
  for part in ('encoder', 'base_learner'):
    keys = [key for key in gradient if part in key]
    near(*(np.concatenate([tree[key][1:] for key in keys]) for tree in (gradient, expected)),
         f'{name} {shot}-shot gradient of {part}')
  if dtype == 'float64':
    for key in gradient:
      near(gradient[key], expected[key], f'{name} {shot}-shot {key}')
