"""4CONV: four blocks of convolution, batch norm, ReLU and 2x2 max-pool.

References: Vinyals et al., NeurIPS 2016; Finn et al., ICML 2017 (the network of MAML).
"""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones import layers
from mtl_jax.backbones.layers import relu
from mtl_jax.backbones.modules import Conv, batch_norm
from mtl_jax.backbones.pooling import max_pool


class Conv4(nn.Module):
  """Maps images to their flattened last feature map.

  With 64 filters that has 256 features at 32 pixels and 1,600 at 84.
  """
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32
  conv: Conv = layers.conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    options = (self.width, self.norm_affine, self.norm_epsilon, self.dtype, self.conv)
    for i in range(1, 5):
      x = _Block(*options, name=f'block{i}')(x, batch_stats_mode)
    return x.reshape(x.shape[0], -1).astype(jnp.float32)


class _Block(nn.Module):
  """conv -> batch norm -> ReLU -> max-pool."""
  width: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any
  conv: Conv

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = nn.Conv(self.width, (3, 3), dtype=self.dtype, conv_general_dilated=self.conv,
                name='conv')(x)
    x = batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, 'bn')(x)
    return max_pool(relu(x))
