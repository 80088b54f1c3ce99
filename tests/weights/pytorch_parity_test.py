"""The same weights in the authors' PyTorch modules and here: features, adapted logits, query loss, outer gradients.

What their modules compute, in float64, is in `tests/golden/authors_pytorch.npz`; `tests/golden/recipe.py` makes the same
weights and images anew, and says why the gradients are compared on one of its two recipes.
"""
import functools

import jax
import numpy as np
import pytest

from mtl_jax import backbones, base_learner, inner_loop, learnable
from mtl_jax.phases import meta_train
from mtl_jax.types import Episode
from mtl_jax.weights import names, transfer
from tests.golden import recipe
from tests.weights import authors_layout

TOLERANCE = 1e-4
CONFIG = meta_train.MetaTrainConfig(way=recipe.WAY, query=recipe.QUERY, meta_batch=1, inner_steps=100,
                                    gradient_order='first', learn_norm=True, batch_stats_mode='batch')


@functools.cache
def golden():
  return dict(np.load(authors_layout.GOLDEN))


@functools.lru_cache(maxsize=1)
def imported(name):
  """Their weights in our trees: (network, Θ, what is meta-learned)."""
  found = transfer.from_authors(authors_layout.pytorch(recipe_name=name), 'pytorch')
  assert found.backbone == {'name': 'resnet25'}
  network = backbones.create(image_shape=(recipe.SIZE, recipe.SIZE, 3), **found.backbone)
  return network, found.backbone_vars, found.meta_params


def task(shot):
  return Episode(recipe.images(f'support{shot}', shot), recipe.labels(shot), recipe.images('query', recipe.QUERY),
                 recipe.labels(recipe.QUERY), np.arange(recipe.WAY))


def differences(found, name, shot):
  """Returns the relative error of each array."""
  return {key: recipe.relative_error(value, golden()[f'{name}/{shot}shot/{key}']) for key, value in found.items()}


@functools.partial(jax.jit, static_argnames=('network', 'mode'))
def features(variables, images, network, mode):
  return network.features(variables, images, batch_stats_mode=mode)


@functools.partial(jax.jit, static_argnames='network')
def step(meta_params, variables, task, network):
  """Query loss, logits and outer gradients of one meta-training step."""
  tasks = jax.tree.map(lambda x: x[None], task)
  return jax.value_and_grad(meta_train.outer_loss, has_aux=True)(meta_params, variables, tasks, backbone=network,
                                                                 config=CONFIG._replace(shot=len(task.support_labels)))


def gradients_as_theirs(gradient):
  """The norm and the projections of each gradient, under their key and in their layout."""
  trees = {'scale_shift': gradient.scale_shift, 'params': gradient.weights,
           'base_learner': gradient.base_learner._asdict()}
  ours = {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]}
  keys = {place.path: place.key for place in names.places('pytorch', meta_trained=True)}
  found = {}
  for path, array in ours.items():
    theirs = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T  # 1x1 kernels are [in, out] here
    found[f'gradient/{keys[path]}'] = np.append(np.linalg.norm(theirs), recipe.projected(keys[path], theirs))
  return found


def test_clear():
  import time
  for name in ('clear',):
    network, variables, meta_params = imported(name)
    modulated = learnable.network(variables, meta_params)
    t = task(1)
    t0 = time.time(); c0 = time.process_time()
    f = features(modulated, t.query_images, network, 'running')
    print('running', differences({'running_features': recipe.projected_features(f)}, name, 1), time.time() - t0, time.process_time() - c0)
    for shot in (1, 5):
      t0 = time.time(); c0 = time.process_time()
      (loss, logits), gradient = jax.block_until_ready(step(meta_params, variables, task(shot), network))
      print(time.time() - t0, time.process_time() - c0)
      d = differences({'loss': loss, 'logits': logits[0], **gradients_as_theirs(gradient)}, name, shot)
      print(shot, {k: v for k, v in d.items() if 'grad' not in k}, max((v, k) for k, v in d.items() if 'mtl_bias' not in k))
