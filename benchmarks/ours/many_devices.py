"""The same outer steps on one device and on several: what differs, and what devices communicate."""
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours.trees import flat, make_backbone
from mtl_jax import sharding
from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.execution import placement
from mtl_jax.phases import meta_train
from mtl_jax.types import ImagePool, Normalization

_COLLECTIVES = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
_BYTES = {'f64': 8, 'f32': 4, 'bf16': 2, 'f16': 2, 's64': 8, 'u64': 8, 's32': 4, 'u32': 4, 's8': 1,
          'u8': 1, 'pred': 1}
# With a mean of 0, normalising an image is one product, which every program rounds alike.
_NORMALIZATION = Normalization(np.zeros(3, np.float32), np.full(3, 0.5, np.float32))


def prepare_cycle(settings: dict, dtype: str
                  ) -> tuple[Callable[[], jax.Array], Callable[[str], float], dict[str, int]]:
  """Compiles one cycle of ordinary and hard tasks for a number of devices.

  Args:
    settings: `devices`, `network`, `width` (None as published), `image_size`, `classes`,
      `per_class`, `steps` (outer steps of the cycle), `meta_batch`, `way`, `shot`, `query`,
      `inner_steps`, `inner_lr`, `outer_lr`.
    dtype: 'float32', or 'float64', in which rounding is too fine to hide an error of the parallel
      form.

  Returns:
    (run, save, about): `run()` computes the cycle from the start and returns its mean loss;
    `save(path)` writes the parameters after it; `about` has `all_reduces`, `other_collectives` and
    `reduced_bytes` of one step.

  Raises:
    ValueError: there are not so many devices.
  """
  layout = sharding.make_layout(settings['devices'])
  with jax.enable_x64(dtype == 'float64'):
    backbone, state, arguments, config = _start(settings, dtype, layout)
    cycle = sharding.per_device(meta_train.cycle, layout, pools=(3,))
    step = jax.jit(functools.partial(cycle, backbone=backbone, config=config), donate_argnums=0)
    compiled = step.lower(placement.replicate(state, layout), *arguments).compile()
  after = None

  def run():
    nonlocal after
    with jax.enable_x64(dtype == 'float64'):
      start = placement.replicate(state, layout)  # the call takes its memory
      after, metrics = jax.block_until_ready(compiled(start, *arguments))
    return metrics['loss']

  def save(path):
    np.savez(path, **flat(after.meta_params._asdict()))
    return 0.0

  return run, save, communication(compiled.as_text())


def _start(settings, dtype, layout):
  """Returns network, state, all other arguments of a cycle, and its settings."""
  size = settings['image_size']
  backbone = make_backbone(settings['network'], (size, size, 3), settings['width'], dtype)
  if dtype == 'float64':
    # On a CPU a convolution has no fast form in float64; a product of matrices has.
    backbone = backbone.by_patches
  config = MetaTrainConfig(
      **{name: settings[name] for name in ('meta_batch', 'way', 'shot', 'query', 'outer_lr')},
      num_ordinary_tasks=settings['meta_batch'] * -(-settings['steps'] // 2),
      num_hard_tasks=settings['meta_batch'] * (settings['steps'] // 2), crop_padding=size // 8,
      inner=InnerLoop(lr=settings['inner_lr'], steps=settings['inner_steps']))
  variables = _as(dtype, jax.jit(backbone.init)(jax.random.key(0)))
  state = _as(dtype, meta_train.init(backbone, variables, config))
  arguments = (*placement.replicate((jax.random.key(1), variables), layout),
               placement.place_pool(_pool(settings), layout))
  return backbone, state, arguments, config


def _as(dtype, tree):
  """Returns a tree of NumPy arrays, floats in `dtype`."""
  return jax.tree.map(
      lambda x: np.asarray(x, dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype), tree)


def _pool(settings):
  """Draws images of classes that can be told apart: coarse patterns under noise.

  Of classes that look alike, rounding would choose the one that failed.
  """
  rng = np.random.default_rng(0)
  classes, per_class, size = (settings[name] for name in ('classes', 'per_class', 'image_size'))
  patterns = rng.integers(0, 192, (classes, 1, 4, 4, 3))
  patterns = patterns.repeat(size // 4, axis=2).repeat(size // 4, axis=3)
  noise = rng.integers(0, 64, (classes, per_class, size, size, 3))
  images = (patterns + noise).astype(np.uint8).reshape(-1, size, size, 3)
  offsets = jnp.arange(classes, dtype=jnp.int32) * per_class
  return ImagePool(images, offsets, jnp.full(classes, per_class, jnp.int32), _NORMALIZATION)


def communication(program: str) -> dict[str, int]:
  """Counts the collectives of a compiled program, each place once, however often a loop runs it.

  Args:
    program: text of optimized HLO.

  Returns:
    `all_reduces`, `other_collectives` (numbers) and `reduced_bytes` (of all-reduces).

  >>> communication('%a = f32[10]{0} all-reduce(%b), replica_groups={}')
  {'all_reduces': 1, 'other_collectives': 0, 'reduced_bytes': 40}
  """
  found = re.findall(rf'= (.*?) ({_COLLECTIVES})(?:-start)?\(', program)
  reduced = [shape for shape, kind in found if kind == 'all-reduce']
  return {'all_reduces': len(reduced), 'other_collectives': len(found) - len(reduced),
          'reduced_bytes': sum(_shape_bytes(shape) for shape in reduced)}


def _shape_bytes(shapes):
  """Counts the bytes of 'f32[2,3]{1,0}', or of several such shapes in parentheses."""
  total = 0
  for dtype, sizes in re.findall(r'(\w+)\[([\d,]*)\]', shapes):
    total += _BYTES[dtype] * int(np.prod([int(n) for n in sizes.split(',') if n]))
  return total
