"""Counts of operations and bytes against counts by hand, the networks, and XLA's count."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops, inputs, network_shapes
from benchmarks.ours import trees
from mtl_jax import backbones, outer_loop
from mtl_jax.backbones import layers
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import Episode


def test_resnet12_by_hand():
  """16 pixels, width 2: maps of 16, 8, 4 and 2 pixels with 2, 4, 8 and 16 channels.

  One task of 2 + 4 images.
  """
  count = flops.meta_step('resnet12', 16, tasks=1, way=2, shot=1, query=2, inner_steps=3, width=2)
  shortcuts = [256 * 3 * 2, 64 * 2 * 4, 16 * 4 * 8, 4 * 8 * 16]
  firsts = [9 * part for part in shortcuts]
  others = [2 * 256 * 9 * 2 * 2, 2 * 64 * 9 * 4 * 4, 2 * 16 * 9 * 8 * 8, 2 * 4 * 9 * 16 * 16]
  assert count.forward == 6 * (sum(shortcuts) + sum(firsts) + sum(others))
  assert count.to_inputs == 6 * (sum(shortcuts[1:]) + sum(firsts[1:]) + sum(others))
  assert count.to_kernels == 6 * (sum(firsts) + sum(others))
  # Over 16 features: G 2x2, the first logits 2x2, the classifier's change and the logits 4x2; and
  # three times G A.
  assert count.inner_loop == 3 * ((2 * 2 + 2 * 2 + 2 * 2 + 4 * 2) * 16 + 3 * 2 * 2 * 2)
  assert count.flops == 2 * sum(count)


def test_bytes_by_hand():
  """The same network: pixels times channels of what goes in and out of each pass."""
  shortcut = [(256 * 3, 256 * 2), (64 * 2, 64 * 4), (16 * 4, 16 * 8), (4 * 8, 4 * 16)]
  # Of a shortcut, no pass to the image and none to kernels.
  passes = sum(2 * (a + b) for a, b in shortcut) - sum(shortcut[0])
  # The first convolution of each block; then the second and the third.
  passes += sum(3 * (a + b) for a, b in shortcut) - sum(shortcut[0])
  passes += sum(2 * 3 * 2 * b for _, b in shortcut)
  assert flops.map_bytes('resnet12', 16, 6, width=2) == 4 * 6 * passes
  kept = sum(a for a, _ in shortcut[1:]) + sum(2 * b for _, b in shortcut)
  assert flops.kept_bytes('resnet12', 16, 6, width=2, value_bytes=2) == 2 * 6 * kept


@pytest.mark.parametrize('network', network_shapes.NAMES)
def test_layers_and_weights_are_those_of_the_network(network):
  backbone = backbones.create(network, (32, 32, 3), width=4)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  scaled = {tuple(layer.path.split('/')) for layer in network_shapes.layers(network, 32, 4)
            if layer.scaled}
  assert scaled == set(backbone.scaled_layers)
  found = {name: array.shape for name, array in inputs.weights(network, width=4).items()}
  expected = {jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
              for tree in shapes for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
  assert found == expected
  assert backbone.feature_dim == 4 * network_shapes.FEATURES[network]


def test_xla_counts_about_as_much(monkeypatch):
  """XLA leaves out products with padding, and counts elementwise work that is left out here."""
  # Winograd's form has fewer products.
  monkeypatch.setattr(layers, '_winograd_pays', lambda *_, **__: False)
  size = 84
  config = MetaTrainConfig(way=2, query=2, meta_batch=1, inner=InnerLoop(steps=2))
  backbone = backbones.create('resnet12', (size, size, 3))
  variables = jax.eval_shape(backbone.init, jax.random.key(0))
  meta_params = jax.eval_shape(lambda v: meta_train.init(backbone, v, config).meta_params,
                               variables)
  images = [jax.ShapeDtypeStruct((1, number, size, size, 3), jnp.float32) for number in (2, 4)]
  labels = [jax.ShapeDtypeStruct((1, number), jnp.int32) for number in (2, 4)]
  tasks = Episode(images[0], labels[0], images[1], labels[1], None)
  loss = functools.partial(outer_loop.query_loss, backbone=backbone, config=config)
  lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(meta_params, variables, tasks)
  ours = flops.meta_step('resnet12', size, tasks=1, way=2, shot=1, query=2, inner_steps=2).flops
  assert 0.85 < lowered.cost_analysis()['flops'] / ours < 1.1


def test_names_become_trees_and_back():
  arrays = {'stage1/block1/conv1/kernel': np.zeros(2), 'stem/bias': np.ones(3)}
  assert trees.nest(arrays)['stage1']['block1']['conv1']['kernel'].shape == (2,)
  assert list(trees.flat(trees.nest(arrays))) == list(arrays)


def test_an_unknown_network():
  with pytest.raises(ValueError, match="expected networks among resnet12, resnet25, got 'vgg'"):
    network_shapes.layers('vgg', 84)
