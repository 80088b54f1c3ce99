"""Crops, flips and normalisation against explicit NumPy windows."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import augment
from mtl_jax.types import Normalization


def images(batch=4, height=5, width=4, channels=3, seed=0):
  """Random uint8 images without zeros, so that padding is recognisable."""
  rng = np.random.default_rng(seed)
  return rng.integers(1, 256, (batch, height, width, channels)).astype(np.uint8)


def windows(image, padding):
  """Every window of the zero-padded image, by offset."""
  height, width = image.shape[:2]
  padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  return {(i, j): padded[i:i + height, j:j + width]
          for i in range(2 * padding + 1) for j in range(2 * padding + 1)}


def offset_of(crop, image, padding):
  """The one offset whose window is `crop`."""
  matches = [offset for offset, window in windows(image, padding).items()
             if np.array_equal(window, crop)]
  assert len(matches) == 1
  return matches[0]


def test_random_crop_is_a_window_of_the_padded_image():
  batch = images(20)
  crops = np.asarray(augment.random_crop(jax.random.key(0), batch, 2))
  assert crops.shape == batch.shape and crops.dtype == np.uint8
  offsets = {offset_of(crop, image, 2) for crop, image in zip(crops, batch, strict=True)}
  assert len(offsets) > 5  # Each image has its own offset.


def test_random_crop_offsets_are_uniform():
  image = images(1)[0]
  copies = np.broadcast_to(image, (4_500, *image.shape))
  crops = np.asarray(augment.random_crop(jax.random.key(1), copies, 1))
  counts = np.array([(crops == window[None]).all(axis=(1, 2, 3)).sum()
                     for window in windows(image, 1).values()])
  assert counts.sum() == 4_500
  # Chi-square of 9 cells, five deviations.
  assert ((counts - 500) ** 2 / 500).sum() < 8 + 5 * np.sqrt(16)


def test_random_crop_without_padding_is_the_identity():
  np.testing.assert_array_equal(augment.random_crop(jax.random.key(0), images(), 0), images())


def test_random_flip_mirrors_left_right_about_half_of_the_images():
  batch = images(2_000)
  flipped = np.asarray(augment.random_flip(jax.random.key(0), batch))
  assert flipped.shape == batch.shape and flipped.dtype == np.uint8
  kept = (flipped == batch).all(axis=(1, 2, 3))
  mirrored = (flipped == batch[:, :, ::-1]).all(axis=(1, 2, 3))
  assert np.all(kept ^ mirrored)
  assert abs(kept.sum() - 1_000) < 5 * np.sqrt(500)


@pytest.mark.parametrize('function', [
    augment.random_flip, lambda key, x: augment.random_crop(key, x, 2)])
def test_a_key_decides(function):
  batch = images(16)
  first, again, other = (np.asarray(jax.jit(function)(jax.random.key(seed), batch))
                         for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_float_images_are_augmented_too():
  batch = images().astype(np.float32)
  assert augment.random_crop(jax.random.key(0), batch, 1).dtype == jnp.float32
  assert augment.random_flip(jax.random.key(0), batch).dtype == jnp.float32


def test_normalize():
  batch = images()
  mean, std = np.array([.1, .2, .3], np.float32), np.array([.5, .25, 2.], np.float32)
  out = augment.normalize(batch, Normalization(mean, std))
  assert out.dtype == jnp.float32
  expected = (batch.astype(np.float64) / 255 - mean) / std
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_normalize_of_black_and_white():
  normalization = Normalization(np.array([.5, .5]), np.array([.25, .5]))
  out = augment.normalize(np.array([[[[0, 255]]]], np.uint8), normalization)
  np.testing.assert_allclose(np.ravel(out), [-2, 1], atol=1e-6)


def test_what_a_network_has_gone_over_is_left_as_it_is():
  maps = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
  np.testing.assert_array_equal(augment.normalize(maps, None), maps)


def test_color_jitter_of_one_image_by_hand():
  batch, strength = images(3), 0.4
  factors = np.asarray(jax.random.uniform(
      jax.random.key(3), (3, 3, 1, 1, 1), minval=0.6, maxval=1.4), np.float64)
  assert np.ptp(factors) > 0.2
  for image, (brightness, contrast, saturation), found in zip(
      batch, factors[..., 0, 0, 0].T, augment.color_jitter(jax.random.key(3), batch, strength),
      strict=True):
    x = brightness * image.astype(np.float64)
    x = x.mean() + contrast * (x - x.mean())
    grey = x.mean(axis=2, keepdims=True)
    expected = np.clip(grey + saturation * (x - grey), 0, 255)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_no_color_jitter_is_the_identity():
  np.testing.assert_array_equal(augment.color_jitter(jax.random.key(0), images(), 0), images())
