"""Values that would make wrong numbers are refused; traced ones do as documented."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import augment, backbones, base_learner, episodes, hard_tasks, scale_shift
from mtl_jax.data import transforms
from mtl_jax.runs import records
from mtl_jax.types import BaseLearner, ImagePool, Normalization
from tests.phases import toy_dataset

THETA = BaseLearner(jnp.zeros((4, 5)), jnp.zeros(5))
FEATURES = jnp.ones((5, 4))
LABELS = jnp.arange(5)


def adapt(theta=THETA, labels=LABELS, **options):
  settings = {'inner_lr': 0.1, 'num_steps': 2} | options
  return base_learner.adapt(theta, FEATURES, labels, FEATURES, **settings)


@pytest.mark.parametrize('as_array', [np.array, jnp.array])
@pytest.mark.parametrize(('labels', 'says'), [
    ([0, 1, 2, 3, -1], 'from 0 to 4, got -1'), ([0, 1, 2, 3, 5], 'from 0 to 4, got 5'),
    ([0.0, 1.0, 2.0, 3.0, 4.0], 'whole numbers, got float'),
    ([True] * 5, 'whole numbers, got bool'),
])
def test_labels_out_of_range(as_array, labels, says):
  labels = as_array(labels)
  with pytest.raises(ValueError, match=says):
    adapt(labels=labels)
  with pytest.raises(ValueError, match=says):
    base_learner.adapt_primal(THETA, FEATURES, labels, FEATURES, inner_lr=0.1, num_steps=1)
  with pytest.raises(ValueError, match=says):
    base_learner.cross_entropy(jnp.zeros((5, 5)), labels)
  with pytest.raises(ValueError, match=says):
    hard_tasks.failure_class(jnp.zeros((5, 5)), labels, jnp.arange(5))


@pytest.mark.parametrize('wrong', [-1, 5, -6, 2**31 - 1])
def test_a_traced_label_out_of_range_makes_the_loss_nan(wrong):
  labels = LABELS.at[2].set(wrong)
  assert jnp.isnan(jax.jit(base_learner.cross_entropy)(jnp.zeros((5, 5)), labels))
  assert jnp.isnan(jax.jit(lambda labels: adapt(labels=labels))(labels).support_losses).all()


@pytest.mark.parametrize(('options', 'says'), [
    ({'inner_lr': float('nan')}, 'inner_lr of at least 0, got nan'),
    ({'inner_lr': jnp.float32([0.1, -1])}, 'inner_lr of at least 0, got -1'),
    ({'regularization': float('inf')}, 'regularization of at least 0, got inf'),
    ({'regularization': jnp.float32(-1)}, 'regularization of at least 0, got -1'),
    ({'regularization': jnp.float32(0), 'gradient_order': 'implicit'}, 'above 0 for an implicit'),
    ({'regularization': jnp.float32(jnp.nan), 'gradient_order': 'implicit'}, 'got nan'),
    ({'theta': BaseLearner(jnp.zeros((4, 5)), jnp.zeros(1))}, r'a bias of shape \(5,\)'),
])
def test_settings_of_the_inner_loop(options, says):
  with pytest.raises(ValueError, match=says):
    adapt(**options)


def pool(sizes, images=None):
  sizes = np.array(sizes, np.int32)
  offsets = np.cumsum(sizes, dtype=np.int32) - sizes
  images = np.zeros((sizes.sum() if images is None else images, 2, 2, 1), np.uint8)
  return ImagePool(images, offsets, sizes)


@pytest.mark.parametrize(('pool', 'options', 'says'), [
    (pool([4, 3, 4]), {}, r'shot \+ query of at most 3, the images of the smallest class, got 4'),
    (pool([4, 3, 4]), {'class_ids': np.array([0, 1])}, 'at most 3'),
    (pool([4, 4, 4]), {'class_ids': np.array([1, 1])}, r'distinct class_ids, got \[1, 1\]'),
    (pool([4, 4, 4]), {'class_ids': jnp.array([0, 3])}, 'class_ids from 0 to 2, got 3'),
    (pool([4, 4, 4]), {'class_ids': np.array([-1, 0])}, 'class_ids from 0 to 2, got -1'),
    (pool([4, 4, 4], images=11), {}, 'divide 11 images'),
    (pool([4, 4, 4])._replace(class_offsets=np.array([0, 4, 9], np.int32)), {}, 'divide 12 images'),
])
def test_episodes_that_would_mix_classes(pool, options, says):
  with pytest.raises(ValueError, match=says):
    episodes.sample(jax.random.key(0), pool, way=2, shot=1, query=3, **options)


def test_classes_large_enough_can_be_chosen_beside_a_small_one():
  found = episodes.sample(jax.random.key(0), pool([4, 3, 4]), way=2, shot=1, query=3,
                          class_ids=np.array([0, 2]))
  assert found.query.shape[0] == 6
  with pytest.raises(ValueError, match='class_size of at least 5, got 4'):
    episodes.draw_images(jax.random.key(0), 4, 5)


def test_images_that_are_no_bytes_are_not_normalised():
  normalization = Normalization(np.zeros(1, np.float32), np.ones(1, np.float32))
  for dtype in (np.float32, np.int32, bool):
    with pytest.raises(ValueError, match='expected uint8 images to normalise'):
      augment.normalize(np.zeros((1, 2, 2, 1), dtype), normalization)


@pytest.mark.parametrize('extra', ['shfit', 'bias', 'gain'])
def test_a_misspelt_part_of_scale_and_shift(extra):
  params = {'conv': {'kernel': jnp.ones((3, 3, 2, 4)), 'bias': jnp.zeros(4)}}
  phi = scale_shift.init(params)
  phi['conv'][extra] = phi['conv'].pop('shift')
  with pytest.raises(ValueError, match='expected a scale or a gain, and perhaps a shift'):
    scale_shift.modulate(params, phi)


def test_sizes_and_seeds():
  with pytest.raises(ValueError, match='center_crop of at least 1 pixel, got 0'):
    transforms.center_crop(toy_dataset(), 0)
  for name in ('conv4', 'resnet12'):
    with pytest.raises(ValueError, match='width of at least 1, got 0'):
      backbones.create(name, (32, 32, 3), width=0)
  for seed in (-1, 2**32):
    with pytest.raises(ValueError, match='expected a seed from 0'):
      records.stream_key(seed, 'train')
  records.stream_key(2**32 - 1, 'train')
