"""Vision transformers in the forms of timm, DINOv2 and CLIP's image tower."""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import dtypes

from mtl_jax.backbones.positions import Interpolation, resample

_INIT = nn.initializers.truncated_normal(0.02)


class VisionTransformer(nn.Module):
  """Maps images to the class token after the last layer norm; CLIP projects it.

  Patches of the image become tokens by one convolution; a class token comes first; positions are
  learned, and resampled for an image of another size than that of pre-training. Height and width
  are multiples of the patch.

  References: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; DINOv2: Oquab et al., 2023, arXiv
    2304.07193; CLIP: Radford et al., ICML 2021, arXiv 2103.00020.
  """
  patch: int
  width: int = 384
  depth: int = 12
  heads: int = 6
  grid: int = 14                          # patches per side in pre-training
  interpolation: Interpolation = 'antialiased'
  layer_scale: bool = False               # DINOv2: a factor per channel after each half block
  pre_norm: bool = False                  # CLIP: a layer norm before the first block
  quick_gelu: bool = False                # CLIP: x σ(1.702 x) in place of GELU
  projection: int = 0                     # CLIP: width of the features; 0 for the token itself
  norm_epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = _Patches(self.patch, self.width, not self.pre_norm, self.dtype, name='patches')(x)
    rows, columns = x.shape[1:3]
    x = x.reshape(x.shape[0], -1, self.width)
    token = self.param('class_token', _INIT, (self.width,))
    x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width)), x],
                        axis=1)
    positions = self.param('positions', _INIT, (1 + self.grid ** 2, self.width))
    positions = resample(positions, (self.grid, self.grid), (rows, columns), self.interpolation)
    x = x + positions[None].astype(x.dtype)
    if self.pre_norm:
      x = _layer_norm(self.norm_epsilon, self.dtype, 'pre_norm')(x)
    for i in range(self.depth):
      x = _Block(self.heads, self.layer_scale, self.quick_gelu, self.norm_epsilon, self.dtype,
                 name=f'block{i + 1}')(x)
    x = _layer_norm(self.norm_epsilon, jnp.float32, 'norm')(x[:, 0])
    if self.projection:
      x = nn.Dense(self.projection, use_bias=False, name='projection')(x)
    return x


class _Patches(nn.Module):
  """A convolution whose stride is its size, as one product: several times as fast on a CPU."""
  patch: int
  width: int
  use_bias: bool
  dtype: Any

  @nn.compact
  def __call__(self, x):
    side, channels = self.patch, x.shape[-1]
    kernel = self.param('kernel', nn.initializers.lecun_normal(),
                        (side, side, channels, self.width))
    bias = self.param('bias', nn.initializers.zeros, (self.width,)) if self.use_bias else None
    x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    rows, columns = (length // side for length in x.shape[1:3])
    x = x.reshape(-1, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    y = x.reshape(-1, rows, columns, side * side * channels) @ kernel.reshape(-1, self.width)
    return y if bias is None else y + bias[None, None, None]


class _Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)); DINOv2 scales both before it adds them."""
  heads: int
  layer_scale: bool
  quick_gelu: bool
  norm_epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    y = _layer_norm(self.norm_epsilon, self.dtype, 'norm1')(x)
    y = _dense(width, self.dtype, 'out')(_attention(_dense(3 * width, self.dtype, 'qkv')(y),
                                                    self.heads))
    x = x + self._scaled(y, 'scale1')
    y = _layer_norm(self.norm_epsilon, self.dtype, 'norm2')(x)
    y = _dense(4 * width, self.dtype, 'mlp1')(y)
    y = y * nn.sigmoid(1.702 * y) if self.quick_gelu else _gelu(y)
    return x + self._scaled(_dense(width, self.dtype, 'mlp2')(y), 'scale2')

  def _scaled(self, y, name):
    if not self.layer_scale:
      return y
    factor = self.param(name, nn.initializers.constant(1e-5), (y.shape[-1],))
    return y * factor.astype(y.dtype)[None, None]


def _gelu(y: jax.Array) -> jax.Array:
  """y Φ(y), Φ the normal distribution; by erf, as PyTorch does, which is faster than by erfc."""
  return 0.5 * y * (1 + jax.lax.erf(y * 0.5 ** 0.5))


def _attention(qkv: jax.Array, heads: int) -> jax.Array:
  """softmax(q kᵀ / √d) v of each head; [B, n, 3 w] -> [B, n, w]."""
  batch, tokens, width = qkv.shape
  # Heads beside the batch, as a CPU multiplies stacks of matrices in order faster than others; and
  # the sum of the softmax divides what is mixed, which is smaller than the scores.
  q, k, v = jnp.transpose(qkv.reshape(batch, tokens, 3, heads, -1), (2, 0, 3, 1, 4))
  scores = jnp.einsum('bhqd,bhkd->bhqk', q * q.shape[-1] ** -0.5, k)
  weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
  mixed = jnp.einsum('bhqk,bhkd->bhqd', weights, v) / jnp.sum(weights, axis=-1, keepdims=True)
  return jnp.transpose(mixed, (0, 2, 1, 3)).reshape(batch, tokens, width // 3)


def _dense(width, dtype, name):
  return nn.Dense(width, dtype=dtype, kernel_init=_INIT, name=name)


def _layer_norm(epsilon, dtype, name):
  # The mean is taken off first, as PyTorch does: E[x²] - E[x]² would lose digits.
  return nn.LayerNorm(epsilon, dtype, use_fast_variance=False, name=name)
