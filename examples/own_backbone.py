"""A backbone of your own: a small Vision Transformer is meta-transferred on the built-in glyphs.

    python examples/own_backbone.py

Any network that maps images [B, H, W, C] to features [B, d] will do. Scale and shift act on each
layer that has a `kernel` [..., c_in, c_out], and perhaps a `bias` [c_out]; of flax's own attention,
whose kernels are [d, heads, d/heads], by its inputs and outputs.
"""
import functools

import flax.linen as nn
import jax

from mtl_jax import backbones, data
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.phases import meta_train

HEADS, PATCH = 4, 8  # PATCH: pixels


class Block(nn.Module):
  """Attention, then two dense layers, each beside a path that leads around it."""

  @nn.compact
  def __call__(self, x):  # [B, patches, width]
    width = x.shape[-1]
    y = nn.LayerNorm(name='norm1')(x)
    query, key, value = (nn.Dense(width, name=name)(y).reshape(*x.shape[:2], HEADS, -1)
                         for name in ('query', 'key', 'value'))
    attended = jax.nn.dot_product_attention(query, key, value).reshape(x.shape)
    x += nn.Dense(width, name='out')(attended)
    y = nn.gelu(nn.Dense(2 * width, name='up')(nn.LayerNorm(name='norm2')(x)))
    return x + nn.Dense(width, name='down')(y)


class VisionTransformer(nn.Module):
  """Two blocks over patches; features are the mean over patches."""
  width: int = 32

  @nn.compact
  def __call__(self, images):  # [B, H, W, 3]
    batch, height, width, channels = images.shape
    rows, columns = height // PATCH, width // PATCH
    x = images.reshape(batch, rows, PATCH, columns, PATCH, channels).swapaxes(2, 3)
    x = nn.Dense(self.width, name='patches')(x.reshape(batch, rows * columns, -1))
    positions = self.param('positions', nn.initializers.normal(0.02), x.shape[1:])
    x = Block(name='block2')(Block(name='block1')(x + positions[None]))
    return nn.LayerNorm(name='norm')(x).mean(axis=1)


glyphs = data.load('glyphs')
backbone = backbones.from_linen(VisionTransformer(), (32, 32, 3), last_block='block2')
frozen = backbone.init(jax.random.key(0))  # better: pre-trained, by mtl_jax.phases.pretrain
config = MetaTrainConfig(num_ordinary_tasks=4, num_hard_tasks=2)
cycle = jax.jit(functools.partial(meta_train.cycle, backbone=backbone, config=config))
state = meta_train.init(backbone, frozen, config)
state, metrics = cycle(state, jax.random.key(1), frozen, glyphs.train)
print({name: round(float(value), 3) for name, value in metrics.items()})
