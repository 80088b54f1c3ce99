"""4CONV: four blocks of convolution, batch norm, ReLU and 2x2 max-pool (Vinyals et al. 2016; MAML's network)."""
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mtl_jax.backbones.layers import batch_norm, conv, max_pool, relu


class Conv4(nn.Module):
  """Maps images to the flattened last feature map: 256 features at 32 pixels with 64 filters, 1,600 at 84."""
  width: int = 64
  norm_affine: bool = True
  norm_epsilon: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    for i in range(1, 5):
      x = _Block(self.width, self.norm_affine, self.norm_epsilon, self.dtype, name=f'block{i}')(x, batch_stats_mode)
    return x.reshape(x.shape[0], -1).astype(jnp.float32)


class _Block(nn.Module):
  width: int
  norm_affine: bool
  norm_epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = nn.Conv(self.width, (3, 3), dtype=self.dtype, conv_general_dilated=conv, name='conv')(x)
    x = batch_norm(batch_stats_mode, self.norm_affine, self.norm_epsilon, self.dtype, 'bn')(x)
    return max_pool(relu(x))
