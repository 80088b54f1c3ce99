"""The form in which tasks see features: averaged over views of an image, scaled to length τ."""
import functools
import operator
import typing
from typing import Literal

import jax
import jax.numpy as jnp

from mtl_jax.types import Backbone, Cut

Norm = Literal['none', 'l2']
NORMS = typing.get_args(Norm)
_TEMPERATURE = 10.0  # τ where none is given
_MANY = 3            # views from which on they are looped over
_EPSILON = 1e-12     # keeps the gradient of an all-zero feature vector finite


def read_out(backbone: Backbone, *, norm: Norm = 'none', mirror: bool = False,
             temperature: float | None = None, shift: int = 0) -> Backbone:
  """Wraps a backbone so that few-shot tasks see another form of its features.

      e(x) = mean of f(v) over the views v of x: x itself; where `shift`, also x moved by that many
             pixels towards each of its four corners; where `mirror`, also the mirror image of each
      e(x) <- e(x) - m where `BackboneVars.center` holds a mean m
      e(x) <- τ e(x) / |e(x)| where `norm` is 'l2'

  Each image's features still depend on that image alone. Pre-training sees the plain features. A
  learned τ, `BackboneVars.temperature`, takes the place of the fixed one.

  Args:
    backbone: the network; its cut and its twin by patches are wrapped too.
    norm: 'none' or 'l2'.
    mirror: whether to average with the features of the mirrored image, at twice the cost.
    temperature: τ, length of a feature vector under 'l2'; None for 10.
    shift: pixels; what a moved image leaves free repeats its edge. At five times the cost.

  Returns:
    A Backbone of the same parameters.

  Raises:
    ValueError: an unknown norm, a temperature not above 0, a temperature without 'l2', or a shift
      below 0 or as large as the image.
  """
  if norm not in NORMS:
    raise ValueError(f'expected norm of features to be one of {", ".join(NORMS)}, got {norm!r}')
  if temperature is not None and not (norm == 'l2' and temperature > 0):
    raise ValueError('expected a temperature above 0, and only with norm l2, got '
                     f'{temperature} with {norm}')
  if not 0 <= shift < min(backbone.image_shape[:2]):
    raise ValueError(f'expected a shift of features from 0 to below {min(backbone.image_shape[:2])}'
                     f', the side of the images, got {shift}')
  views = functools.partial(_views, mirror=mirror, shift=shift)
  fixed = (_TEMPERATURE if temperature is None else temperature) if norm == 'l2' else None

  def features(backbone_vars, images, *, batch_stats_mode):
    encode = functools.partial(backbone.features, batch_stats_mode=batch_stats_mode)
    outputs = _each(functools.partial(encode, backbone_vars), views(images))
    return _scaled(_mean(outputs), backbone_vars, fixed)

  # Pre-training goes through `train_features`, which stays as it is.
  twin = backbone.by_patches
  return backbone._replace(
      features=features, temperature=fixed,
      cut=None if backbone.cut is None else _wrap_cut(backbone.cut, views, fixed),
      by_patches=None if twin is None else read_out(twin, norm=norm, mirror=mirror,
                                                    temperature=temperature, shift=shift))


def _wrap_cut(cut, views, fixed):
  """The two parts, with the maps of the views of an image along a new axis 1."""
  def below(backbone_vars, images):
    maps = _each(functools.partial(cut.below, backbone_vars), views(images))
    return jnp.stack(list(maps), axis=1)

  def last(backbone_vars, maps):
    outputs = [cut.last(backbone_vars, maps[:, i]) for i in range(maps.shape[1])]
    return _scaled(_mean(outputs), backbone_vars, fixed)

  return Cut(below, last)


def _views(images, *, mirror, shift):
  views = [images]
  if shift:
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode='edge')
    views += [padded[:, y:y + height, x:x + width] for y in (0, 2 * shift) for x in (0, 2 * shift)]
  return views + [view[:, :, ::-1] for view in views] if mirror else views


def _each(function, views):
  """What a function makes of each view; of many it is compiled once."""
  if len(views) < _MANY:
    return [function(view) for view in views]
  return jax.lax.map(function, jnp.stack(views))


def _mean(outputs):
  return functools.reduce(operator.add, outputs) / len(outputs)


def _scaled(output, backbone_vars, fixed):
  """Takes the center away, if any; then L2-normalises, times τ, learned or `fixed`, if not None."""
  if backbone_vars.center is not None:
    output = output - backbone_vars.center[None]
  if fixed is None:
    return output
  learned = backbone_vars.temperature
  temperature = fixed if learned is None else learned
  squares = jnp.sum(output ** 2, axis=1, keepdims=True)
  return temperature * output * jax.lax.rsqrt(squares + _EPSILON)
