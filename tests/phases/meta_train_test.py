"""Meta-training: what tasks look like, what the state holds, and how many steps a cycle has."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import inner_loop, scale_shift
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import MetaState
from tests.golden import meta_step
from tests.phases import changed, features_of, normalized, tiny_network
from tests.phases.one_layer import CLASSES, CONFIG, pool, tasks_of


def random_phi(backbone, variables, seed=0):
  rng = np.random.default_rng(seed)
  identity = scale_shift.init(variables.params, backbone.scaled_layers)
  return jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32),
                      identity)


@functools.partial(jax.jit, static_argnames='mode')
def encode(phi, mode):
  backbone, variables = tiny_network()
  network = variables._replace(params=scale_shift.modulate(variables.params, phi))
  return inner_loop.encode(network, tasks_of().query, backbone=backbone, batch_stats_mode=mode)


def test_encode_is_a_loop_over_tasks():
  backbone, variables = tiny_network()
  phi, images = random_phi(backbone, variables), tasks_of().query
  network = variables._replace(params=scale_shift.modulate(variables.params, phi))
  for mode in ('running', 'batch'):
    found = encode(phi, mode)
    expected = [features_of(network, task, mode) for task in images]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_shift_has_no_effect_under_batch_statistics():
  phi = random_phi(*tiny_network())
  shifted = {block: {'conv': layer['conv'] | {'shift': layer['conv']['shift'] + 1}}
             for block, layer in phi.items()}
  for mode, has_effect in (('batch', False), ('running', True)):
    plain, moved = encode(phi, mode), encode(shifted, mode)
    assert (np.abs(plain - moved).max() > 1e-3) == has_effect


def test_the_backbone_is_no_part_of_the_state():
  backbone, variables = tiny_network()
  state = meta_train.init(backbone, variables, CONFIG)
  assert isinstance(state, MetaState) and state._fields == ('step', 'meta_params', 'opt_state')
  # Scales, then shifts.
  count = scale_shift.count(state.meta_params.scale_shift)
  assert count == 3 * 4 + 3 * 4 * 4 + 4 * 4
  assert all(leaf.shape[:2] != (3, 3) for leaf in jax.tree.leaves(state))
  for layer in state.meta_params.scale_shift.values():
    np.testing.assert_array_equal(layer['conv']['scale'], 1)
    np.testing.assert_array_equal(layer['conv']['shift'], 0)


def test_drawn_tasks_are_augmented_and_normalised_images_of_their_classes():
  plain = changed(CONFIG, crop_padding=0, flip=False)
  draw_plain = jax.jit(functools.partial(meta_train.draw_tasks, config=plain))
  found = draw_plain(jax.random.key(0), pool(), jnp.zeros(CLASSES, jnp.int32), False)
  assert found.support.shape == (2, 2, 16, 16, 3) and found.query.shape == (2, 8, 16, 16, 3)
  every_image = normalized(pool().images)
  class_of = np.repeat(np.arange(CLASSES), np.asarray(pool().class_sizes))
  for images, labels, class_ids in zip(found.query, found.query_labels, found.class_ids,
                                       strict=True):
    for image, label in zip(images, labels, strict=True):
      distance = np.abs(every_image - np.asarray(image)[None]).max(axis=(1, 2, 3))
      assert distance.min() < 1e-5 and class_of[distance.argmin()] == class_ids[label]
  assert np.any(np.asarray(found.class_ids[0] != found.class_ids[1]))


def test_drawing_tasks_uses_no_key_twice():
  no_failures = np.zeros(CLASSES, np.int32)
  with jax.debug_key_reuse(True):
    for hard in (False, True):
      draw = jax.jit(functools.partial(meta_train.draw_tasks, config=CONFIG))
      draw(jax.random.key(0), pool(), no_failures, hard)
    with pytest.raises(jax.errors.KeyReuseError):  # the guard works
      jax.jit(lambda key: jax.random.bits(key) + jax.random.bits(key))(jax.random.key(0))


@pytest.mark.parametrize('settings, message', [
    ({'num_ordinary_tasks': 5}, 'num_ordinary_tasks to be a multiple of meta_batch = 2, got 5'),
    ({'num_hard_tasks': 3}, 'num_hard_tasks to be a multiple of meta_batch = 2, got 3'),
    ({'num_hard_tasks': -2}, 'num_hard_tasks of at least 0, got -2'),
    ({'num_ordinary_tasks': 0}, 'num_ordinary_tasks of at least 2, got 0'),
    ({'microbatch': -1}, 'microbatch of at least 0, got -1'),
    ({'meta_batch': 0}, 'meta_batch of at least 1, got 0')])
def test_steps_per_cycle_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    meta_train.steps_per_cycle(changed(CONFIG, **settings))


def test_steps_per_cycle_of_the_paper():
  assert meta_train.steps_per_cycle(MetaTrainConfig()) == 15
  assert meta_train.steps_per_cycle(MetaTrainConfig(num_hard_tasks=0)) == 10


def test_golden_outer_step_and_cycle():
  with np.load(meta_step.PATH) as golden:
    expected = dict(golden)
  found = meta_step.compute()
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
