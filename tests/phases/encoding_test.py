"""Every image of a split encoded once, against one pass over all of them."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import scale_shift
from mtl_jax.phases import encoding
from tests.phases import features_of, normalized
from tests.phases.learned_pool import POOL, learned


@pytest.mark.parametrize('batch_size', [7, 48, 240, 1000])
def test_encode_pool_at_any_batch_size(batch_size):
  backbone, variables, meta_params = learned()
  pool = jax.tree.map(jnp.asarray, POOL)
  encode = jax.jit(functools.partial(encoding.encode_pool, backbone=backbone,
                                     batch_size=batch_size))
  found = encode(meta_params, variables, pool)
  params = scale_shift.modulate(variables.params, meta_params.scale_shift)
  expected = features_of(variables._replace(params=params), normalized(POOL.images), 'running')
  np.testing.assert_allclose(found.images, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.class_sizes, POOL.class_sizes)
  assert found.normalization is None  # features are not normalised again


def test_a_pass_has_no_more_pixels_than_200_images_of_84():
  assert encoding.images_per_pass(84, 84) == encoding.images_per_pass(32, 32) == 200
  for size in (85, 112, 224, 500):
    images = encoding.images_per_pass(size, size)
    assert images * size**2 <= 200 * 84**2 < (images + 1) * size**2
  assert encoding.images_per_pass(5000, 5000) == 1
