"""Public networks compute what torchvision, timm and CLIP's own weights compute there.

`python -m tests.golden.public_networks` writes what the other side says.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones
from mtl_jax.weights import known, public_runs
from tests.golden import public_networks
from tests.golden import public_recipe as recipe

CASES = [(network, format, size) for network, (format, _, sizes) in public_networks.NETWORKS.items()
         for size in sizes]
# The smallest network of each family at one size, and all sizes of one that convolves and of one
# that attends; others are slow.
_SMALLEST = ('efficientnet_lite0', 'resnet50', 'dinov2_small_14', 'clip_base_32')
_QUICK = [(network, size) for network, (_, _, sizes) in public_networks.NETWORKS.items()
          for size in (sizes if network in ('resnet18', 'vit_small_16') else
                       sizes[:1] if network in _SMALLEST else ())]


def tensors(network, format):
  """A file of a network, by the recipe: their name -> array."""
  return {place.key: recipe.tensor(place.key, shape)
          for place, shape in public_runs.tensors_of({'name': network}, format)}


@pytest.mark.parametrize('network, format, size', [
    pytest.param(*case, marks=() if case[::2] in _QUICK else pytest.mark.slow) for case in CASES])
def test_features_are_those_of_the_other_side(network, format, size):
  found = public_runs.from_public(tensors(network, format), format)
  assert found.backbone == {'name': network} and not found.left_out
  backbone = backbones.create(image_shape=(size, size, 3), **found.backbone)
  features = jax.jit(backbone.features, static_argnames='batch_stats_mode')
  ours = features(found.backbone_vars, jnp.asarray(recipe.images(size)),
                  batch_stats_mode='running')
  with np.load(public_networks.FOLDER / f'{network}.npz') as file:
    theirs = file[str(size)]
  assert ours.shape == theirs.shape
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_imagenets_weights_that_pip_brings_give_the_features_of_their_own_package():
  run = known.load('imagenet')
  ours = jax.jit(run.backbone.features, static_argnames='batch_stats_mode')(
      run.backbone_vars, jnp.asarray(recipe.images(224)), batch_stats_mode='running')
  with np.load(public_networks.FOLDER / 'imagenet.npz') as file:
    theirs = file['224']
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
  np.testing.assert_allclose(run.normalization.mean, 127 / 255)
  np.testing.assert_allclose(run.normalization.std, 128 / 255)
