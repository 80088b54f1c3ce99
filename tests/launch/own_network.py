"""A network of a user's own, as --backbone=tests.launch.own_network:make takes it."""
import flax.linen as nn

from mtl_jax import backbones


class TwoLayers(nn.Module):
  """A strided convolution, and a dense layer over its map."""

  @nn.compact
  def __call__(self, images):  # [B, H, W, c]
    x = nn.relu(nn.Conv(6, (3, 3), 4, name='conv')(images))
    return nn.Dense(5, name='dense')(x.reshape(len(x), -1))


def make(image_shape):
  return backbones.from_linen(TwoLayers(), image_shape, last_block='dense')


not_a_function = 3
