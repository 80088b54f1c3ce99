"""Linen modules that backbones share."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax.backbones import modules


def test_strided_conv1x1_takes_every_other_pixel():
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))

  class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
      return modules.conv1x1(x, 6, 2, jnp.float32, 'shortcut')

  output, variables = Layer().init_with_output(jax.random.key(1), x)
  kernel = np.asarray(variables['params']['shortcut']['kernel'])
  expected = np.asarray(x)[:, [0, 2, 4]][:, :, [0, 2]] @ kernel
  np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
