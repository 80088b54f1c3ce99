"""A network of one's own as a `Backbone`: a linen module, an nnx module, or a pair of pure functions."""
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from mtl_jax import scale_shift
from mtl_jax.types import Backbone, BackboneVars, Tree

# Statistics of batch norm, and whatever else a module keeps that is not trained.
_STATE = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))


def from_functions(init: Callable[[jax.Array], Tree], apply: Callable[..., Any], image_shape: tuple[int, int, int], *,
                   last_block: str | tuple[str, ...], unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps a pair of pure functions as a Backbone.

  Without batch norm: `init(key) -> params` and `apply(params, images) -> features`. With batch norm, or another state:
  `init(key) -> BackboneVars(params, batch_stats)` and
  `apply(backbone_vars, images, batch_stats_mode) -> (features, new batch_stats)`.

  Args:
    init: makes nested dicts with names (str) as keys. A dict with a `kernel` [spatial..., c_in, c_out], and perhaps a
      `bias` [c_out], is a layer: scale and shift act on it.
    apply: maps images, float32 [B, H, W, C], to features [B, d]; `batch_stats_mode` is 'running' or 'batch'.
    image_shape: (H, W, C).
    last_block: name in `params` of what counts as the last block, or several such names; below the top level with
      slashes, as in 'blocks/3'.
    unscaled: names of layers that scale and shift leave alone.

  Returns:
    A Backbone.

  Raises:
    ValueError: the features are not floating [B, d], or there is no such last block.
  """
  key = jax.random.key(0)
  if not isinstance(jax.eval_shape(init, key), BackboneVars):
    return from_functions(lambda key: BackboneVars(init(key), {}),
                          lambda backbone_vars, images, batch_stats_mode: (apply(backbone_vars.params, images), {}),
                          image_shape, last_block=last_block, unscaled=unscaled)

  def features(backbone_vars, images, *, batch_stats_mode):
    if batch_stats_mode not in ('running', 'batch'):
      raise ValueError(f"expected batch_stats_mode 'running' or 'batch', got {batch_stats_mode!r}")
    return _at_least_float32(apply(backbone_vars, images, batch_stats_mode)[0])

  def train_features(backbone_vars, images):
    output, batch_stats = apply(backbone_vars, images, 'batch')
    return _at_least_float32(output), batch_stats

  shapes = jax.eval_shape(init, key)
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  output = jax.eval_shape(lambda v, x: apply(v, x, 'running')[0], shapes, images)
  _check_features(output)
  layers = scale_shift.layer_paths(shapes.params)
  layers = tuple(path for path in layers if not set(path[-1:]) & set(unscaled))
  blocks = tuple(tuple(name.split('/')) for name in ((last_block,) if isinstance(last_block, str) else last_block))
  for block in blocks:
    _check_block(shapes.params, block)
  return Backbone(init, features, train_features, output.shape[1], tuple(image_shape), layers, blocks)


def from_linen(module, image_shape: tuple[int, int, int], *, last_block: str | tuple[str, ...],
               unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps a linen module as a Backbone.

  Args:
    module: called as `module(images, batch_stats_mode)` with `batch_stats_mode` 'running' or 'batch' where its
      `__call__` has an argument of that name, and as `module(images)` otherwise; its output is [B, d] and its batch
      norms, if any, keep their statistics in the collection `batch_stats`.
    image_shape: (H, W, C).
    last_block: name of the submodule that counts as the last block, or several.
    unscaled: names of layers that scale and shift leave alone.

  Returns:
    A Backbone.

  Raises:
    ValueError: the features are not floating [B, d], or there is no such last block.
  """
  takes_mode = 'batch_stats_mode' in inspect.signature(module.__call__).parameters

  def init(key):
    variables = module.init(key, jnp.zeros((1, *image_shape)), *(('running',) if takes_mode else ()))
    return BackboneVars(variables['params'], variables.get('batch_stats', {}))

  def apply(backbone_vars, images, batch_stats_mode):
    arguments = (images, batch_stats_mode) if takes_mode else (images,)
    if batch_stats_mode == 'running':  # linen raises if the module changes its statistics all the same
      return module.apply(backbone_vars._asdict(), *arguments), backbone_vars.batch_stats
    output, changed = module.apply(backbone_vars._asdict(), *arguments, mutable=['batch_stats'])
    return output, changed.get('batch_stats', {})

  backbone = from_functions(init, apply, image_shape, last_block=last_block, unscaled=unscaled)
  if len(backbone.last_block) != 1:
    return backbone
  below, last = _cut(apply, backbone.last_block[0], image_shape)
  return backbone._replace(below=below, last=last)


def _cut(apply, path, image_shape):
  """A linen network in two parts, by stepping in where its submodule `path` is called.

  What one part does not need is still traced, on dummy values, and dropped by the compiler.
  """
  def below(backbone_vars, images):
    seen = []

    def keep_input(next_function, arguments, keywords, context):
      if context.module.path == path and context.method_name == '__call__':
        seen.append(arguments[0])
      return next_function(*arguments, **keywords)

    with nn.intercept_methods(keep_input):
      apply(backbone_vars, images, 'running')
    return seen[0]

  def last(backbone_vars, maps):
    def put_input(next_function, arguments, keywords, context):
      if context.module.path == path and context.method_name == '__call__':
        arguments = (maps, *arguments[1:])
      return next_function(*arguments, **keywords)

    with nn.intercept_methods(put_input):
      output, _ = apply(backbone_vars, jnp.zeros((maps.shape[0], *image_shape)), 'running')
    return _at_least_float32(output)

  return below, last


def from_nnx(module, image_shape: tuple[int, int, int], *, last_block: str | tuple[str, ...],
             unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps an nnx module as a Backbone.

  The numbers that name the entries of an `nnx.List` become strings, as in `blocks/0/dense/kernel`. Batch norms use
  running or batch statistics as they are asked to; dropout is always off.

  Args:
    module: a constructor, called as `module(rngs)`; or a module, whose own weights `init` then returns whatever the
      key. It is called as `module(images)`; its output is [B, d].
    image_shape: (H, W, C).
    last_block: name of the attribute that counts as the last block, or several.
    unscaled: names of layers that scale and shift leave alone.

  Returns:
    A Backbone.

  Raises:
    ValueError: the features are not floating [B, d], or there is no such last block.
  """
  def construct(key):
    return module if isinstance(module, nnx.Module) else module(nnx.Rngs(key))

  def init(key):
    params, _, state = nnx.split(construct(key), nnx.Param, nnx.RngState, ...)[1:]
    return BackboneVars(*(_with_names(nnx.to_pure_dict(part)) for part in (params, state)))

  graph, _, rngs, _ = nnx.split(nnx.eval_shape(construct, jax.random.key(0)), nnx.Param, nnx.RngState, ...)

  def apply(backbone_vars, images, batch_stats_mode):
    network = nnx.merge(graph, *map(nnx.restore_int_paths, backbone_vars), rngs)
    network.set_attributes(deterministic=True, use_running_average=batch_stats_mode == 'running',
                           raise_if_not_found=False)
    output = network(images)
    return output, _with_names(nnx.to_pure_dict(nnx.state(network, _STATE)))

  return from_functions(init, apply, image_shape, last_block=last_block, unscaled=unscaled)


def _with_names(tree):
  return {str(name): _with_names(child) if isinstance(child, dict) else child for name, child in tree.items()}


def _check_block(params, block):
  for depth, name in enumerate(block):
    if not isinstance(params, dict) or name not in params:
      names = ['/'.join((*block[:depth], other)) for other in (params if isinstance(params, dict) else ())]
      raise ValueError(f'expected last_block to be among {", ".join(names) or "blocks"}, got {"/".join(block)}')
    params = params[name]


def _at_least_float32(features):
  return features.astype(jnp.promote_types(features.dtype, jnp.float32))


def _check_features(output):
  shape, dtype = getattr(output, 'shape', None), getattr(output, 'dtype', None)
  if shape is None or len(shape) != 2 or shape[0] != 2:
    raise ValueError(f'expected features of shape [B, d], got {shape or type(output).__name__} for a batch of 2')
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'expected floating-point features, got {dtype.name} {shape}')
