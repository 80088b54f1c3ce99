"""The form in which tasks see features: averaged with the mirror image's, scaled to length τ."""
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
_EPSILON = 1e-12     # keeps the gradient of an all-zero feature vector finite


def read_out(backbone: Backbone, *, norm: Norm = 'none', mirror: bool = False,
             temperature: float | None = None) -> Backbone:
  """Wraps a backbone so that few-shot tasks see another form of its features.

      e(x) = (f(x) + f(mirrored x)) / 2 where `mirror`
      e(x) <- τ e(x) / |e(x)| where `norm` is 'l2'

  Each image's features still depend on that image alone. Pre-training sees the plain features. A
  learned τ, `BackboneVars.temperature`, takes the place of the fixed one.

  Args:
    backbone: the network; its cut and its twin by patches are wrapped too.
    norm: 'none' or 'l2'.
    mirror: whether to average with the features of the mirrored image, at twice the cost.
    temperature: τ, length of a feature vector under 'l2'; None for 10.

  Returns:
    A Backbone of the same parameters.

  Raises:
    ValueError: an unknown norm, a temperature not above 0, or a temperature without 'l2'.
  """
  if norm not in NORMS:
    raise ValueError(f'expected norm of features to be one of {", ".join(NORMS)}, got {norm!r}')
  if temperature is not None and not (norm == 'l2' and temperature > 0):
    raise ValueError('expected a temperature above 0, and only with norm l2, got '
                     f'{temperature} with {norm}')
  fixed = (_TEMPERATURE if temperature is None else temperature) if norm == 'l2' else None

  def features(backbone_vars, images, *, batch_stats_mode):
    encode = functools.partial(backbone.features, batch_stats_mode=batch_stats_mode)
    outputs = [encode(backbone_vars, view) for view in _views(images, mirror)]
    return _scaled(_mean(outputs), backbone_vars, fixed)

  # Pre-training goes through `train_features`, which stays as it is.
  twin = backbone.by_patches
  return backbone._replace(
      features=features, temperature=fixed,
      cut=None if backbone.cut is None else _wrap_cut(backbone.cut, mirror, fixed),
      by_patches=None if twin is None else read_out(twin, norm=norm, mirror=mirror,
                                                    temperature=temperature))


def _wrap_cut(cut, mirror, fixed):
  """The two parts, with the maps of an image and of its mirror image along a new axis 1."""
  def below(backbone_vars, images):
    return jnp.stack([cut.below(backbone_vars, view) for view in _views(images, mirror)], axis=1)

  def last(backbone_vars, maps):
    outputs = [cut.last(backbone_vars, maps[:, i]) for i in range(maps.shape[1])]
    return _scaled(_mean(outputs), backbone_vars, fixed)

  return Cut(below, last)


def _views(images, mirror):
  return [images, images[:, :, ::-1]] if mirror else [images]


def _mean(outputs):
  return functools.reduce(operator.add, outputs) / len(outputs)


def _scaled(output, backbone_vars, fixed):
  """L2-normalises features and multiplies them by τ, learned or `fixed`; by None it leaves them."""
  if fixed is None:
    return output
  learned = backbone_vars.temperature
  temperature = fixed if learned is None else learned
  squares = jnp.sum(output ** 2, axis=1, keepdims=True)
  return temperature * output * jax.lax.rsqrt(squares + _EPSILON)
