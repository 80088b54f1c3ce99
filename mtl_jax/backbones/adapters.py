"""A network of your own as a `Backbone`: a linen module, an nnx module, or pure functions."""
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors, nnx

from mtl_jax import scale_shift
from mtl_jax.backbones import cuts, gains
from mtl_jax.types import Backbone, BackboneVars, Tree

ImageShape = tuple[int, int, int]  # (H, W, C)

# Statistics of batch norm, and whatever else a module keeps that is not trained.
_STATE = nnx.Not(nnx.Any(nnx.Param, nnx.RngState))


def from_functions(init: Callable[[jax.Array], Tree], apply: Callable[..., Any],
                   image_shape: ImageShape, *, last_block: str | tuple[str, ...],
                   unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps a pair of pure functions as a Backbone.

  Without batch norm: `init(key) -> params` and `apply(params, images) -> features`.
  With batch norm, or another state: `init(key) -> BackboneVars(params, batch_stats)` and
  `apply(backbone_vars, images, batch_stats_mode) -> (features, new batch_stats)`.

  Args:
    init: makes nested dicts with names (str) as keys. A dict with a `kernel` [..., c_in, c_out],
      and perhaps a `bias` [c_out], is a layer: scale and shift act on it.
    apply: maps images, float32 [B, H, W, C], to features [B, d]; it reads `backbone_vars.params`
      and `backbone_vars.batch_stats`; `batch_stats_mode` is 'running' or 'batch'.
    image_shape: (H, W, C).
    last_block: name in `params` of what counts as the last block, or several such names; below the
      top level with slashes, as in 'blocks/3'.
    unscaled: names of layers that scale and shift leave alone.

  Returns:
    A Backbone.

  Raises:
    ValueError: the features are not floating [B, d], or there is no such last block.
  """
  shapes = jax.eval_shape(init, jax.random.key(0))
  if not isinstance(shapes, BackboneVars):
    return from_functions(
        lambda key: BackboneVars(init(key), {}),
        lambda backbone_vars, images, batch_stats_mode: (apply(backbone_vars.params, images), {}),
        image_shape, last_block=last_block, unscaled=unscaled)

  output = _output_shape(apply, shapes, image_shape)
  _check_features(output)
  layers = tuple(path for path in scale_shift.layer_paths(shapes.params)
                 if not set(path[-1:]) & set(unscaled))
  names = (last_block,) if isinstance(last_block, str) else last_block
  blocks = tuple(tuple(name.split('/')) for name in names)
  for block in blocks:
    _check_block(shapes.params, block)
  return Backbone(init, *_modes(apply), output.shape[1], tuple(image_shape), layers, blocks)


def _modes(apply):
  """`features` and `train_features` of a Backbone, made of `apply` as in `from_functions`."""
  def run(backbone_vars, images, batch_stats_mode):
    # A learned temperature and a center belong to `read_out`; the network itself never sees them.
    plain = backbone_vars._replace(temperature=None, center=None)
    output, batch_stats = apply(plain, images, batch_stats_mode)
    return output.astype(jnp.promote_types(output.dtype, jnp.float32)), batch_stats

  def features(backbone_vars, images, *, batch_stats_mode):
    if batch_stats_mode not in ('running', 'batch'):
      raise ValueError(f"expected batch_stats_mode 'running' or 'batch', got {batch_stats_mode!r}")
    return run(backbone_vars, images, batch_stats_mode)[0]

  def train_features(backbone_vars, images):
    return run(backbone_vars, images, 'batch')

  return features, train_features


def from_linen(module: nn.Module, image_shape: ImageShape, *, last_block: str | tuple[str, ...],
               unscaled: tuple[str, ...] = (), by_patches: nn.Module | None = None) -> Backbone:
  """Wraps a linen module as a Backbone.

  Args:
    module: called as `module(images, batch_stats_mode)` with `batch_stats_mode` 'running' or
      'batch' where its `__call__` has an argument of that name, and as `module(images)` otherwise;
      its output is [B, d] and its batch norms, if any, keep their statistics in the collection
      `batch_stats`.
    image_shape: (H, W, C).
    last_block: name of the submodule that counts as the last block, or several.
    unscaled: names of layers that scale and shift leave alone.
    by_patches: the same network with `conv_by_patches` for its convolutions, which is faster on
      many devices where each task has kernels of its own: `module.clone(conv=conv_by_patches)` of a
      module that passes its attribute `conv` to `nn.Conv(..., conv_general_dilated=conv)`.

  Returns:
    A Backbone. It has a `cut` if there is a single last block.

  Raises:
    ValueError: the features are not floating [B, d], there is no such last block, or `by_patches`
      has other parameters than `module`.
  """
  init, apply = _linen_functions(module, image_shape)
  backbone = from_functions(init, apply, image_shape, last_block=last_block, unscaled=unscaled)
  backbone = backbone._replace(cut=_cut(apply, backbone), scales_outputs=True)
  if by_patches is None:
    return backbone
  _check_twin(by_patches, backbone)
  return with_twin(backbone, by_patches)


def with_twin(backbone: Backbone, by_patches: nn.Module) -> Backbone:
  """Returns a backbone made of a linen module with its twin, whose parameters are not checked.

  Args:
    backbone: of `from_linen`.
    by_patches: the same module with another convolution.
  """
  _, apply = _linen_functions(by_patches, backbone.image_shape)
  features, train_features = _modes(apply)
  # Parameters do not depend on how a convolution is computed, so both have the same `init`.
  twin = backbone._replace(features=features, train_features=train_features,
                           cut=_cut(apply, backbone))
  return backbone._replace(by_patches=twin)


def _cut(apply, backbone):
  if len(backbone.last_block) != 1:
    return None
  return cuts.before_block(apply, backbone.last_block[0], backbone.image_shape)


def _linen_functions(module, image_shape):
  """`init` and `apply` of a linen module, as `from_functions` takes them."""
  takes_mode = 'batch_stats_mode' in inspect.signature(module.__call__).parameters

  def init(key):
    mode = ('running',) if takes_mode else ()
    variables = module.init(key, jnp.zeros((1, *image_shape)), *mode)
    return BackboneVars(variables['params'], variables.get('batch_stats', {}))

  def apply(backbone_vars, images, batch_stats_mode):
    variables = {'params': backbone_vars.params, 'batch_stats': backbone_vars.batch_stats}
    arguments = (images, batch_stats_mode) if takes_mode else (images,)
    with gains.applied(backbone_vars.params):
      if batch_stats_mode == 'running':
        # Nothing is mutable, so linen raises if the module changes its statistics all the same.
        return module.apply(variables, *arguments), backbone_vars.batch_stats
      output, changed = module.apply(variables, *arguments, mutable=['batch_stats'])
      return output, changed.get('batch_stats', {})

  return init, apply


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module], image_shape: ImageShape, *,
             last_block: str | tuple[str, ...], unscaled: tuple[str, ...] = ()) -> Backbone:
  """Wraps an nnx module as a Backbone.

  The numbers that name the entries of an `nnx.List` become strings, as in `blocks/0/dense/kernel`.
  Batch norms use running or batch statistics as they are asked to; dropout is always off.

  Args:
    module: a constructor, called as `module(rngs)`; or a module, whose own weights `init` then
      returns whatever the key. It is called as `module(images)`; its output is [B, d].
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

  abstract = nnx.eval_shape(construct, jax.random.key(0))
  graph, _, rngs, _ = nnx.split(abstract, nnx.Param, nnx.RngState, ...)

  def apply(backbone_vars, images, batch_stats_mode):
    parts = (backbone_vars.params, backbone_vars.batch_stats)
    network = nnx.merge(graph, *map(nnx.restore_int_paths, parts), rngs)
    # Not every network has dropout or batch norm to be set.
    network.set_attributes(deterministic=True, use_running_average=batch_stats_mode == 'running',
                           raise_if_not_found=False)
    output = network(images)
    return output, _with_names(nnx.to_pure_dict(nnx.state(network, _STATE)))

  return from_functions(init, apply, image_shape, last_block=last_block, unscaled=unscaled)


def _with_names(tree):
  """The tree with strings in place of the numbers that name entries of an `nnx.List`."""
  return {str(name): _with_names(child) if isinstance(child, dict) else child
          for name, child in tree.items()}


def _check_block(params, block):
  # A wrong name deep down is reported with its neighbours, not with those of the top level.
  for depth, name in enumerate(block):
    if not isinstance(params, dict) or name not in params:
      others = params if isinstance(params, dict) else ()
      names = ['/'.join((*block[:depth], other)) for other in others]
      raise ValueError(f'expected last_block to be among {", ".join(names) or "blocks"}, got '
                       f'{"/".join(block)}')
    params = params[name]


def _output_shape(apply, shapes, image_shape):
  """Shape and type of what a network returns for two images; two, to notice means over a batch."""
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  return jax.eval_shape(lambda v, x: apply(v, x, 'running')[0], shapes, images)


def _check_twin(by_patches, backbone):
  _, apply = _linen_functions(by_patches, backbone.image_shape)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  try:
    output = _output_shape(apply, shapes, backbone.image_shape)
  except errors.FlaxError as error:
    raise ValueError('expected by_patches to take the parameters of module, by name and shape: '
                     f'{error}') from error
  if output.shape != (2, backbone.feature_dim):
    raise ValueError(f'expected by_patches to return {backbone.feature_dim} features, as module '
                     f'does, got shape {output.shape} for a batch of 2')


def _check_features(output: Any) -> None:
  shape = getattr(output, 'shape', None)
  if shape is None or len(shape) != 2 or shape[0] != 2:
    raise ValueError(f'expected features of shape [B, d], got {shape or type(output).__name__} for '
                     'a batch of 2')
  if not jnp.issubdtype(output.dtype, jnp.floating):
    raise ValueError(f'expected floating-point features, got {output.dtype.name} {shape}')
