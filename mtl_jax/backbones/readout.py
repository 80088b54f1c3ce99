"""What is made of a network's output before the base-learner sees it: mean with the mirror image, unit length."""
import jax
import jax.numpy as jnp

from mtl_jax.types import Backbone

NORMS = ('none', 'l2')
READOUT = '_readout'  # where meta-training puts a learned temperature among the parameters


def read_out(backbone: Backbone, *, norm: str = 'none', mirror: bool = False,
             temperature: float | None = None) -> Backbone:
  """Wraps a backbone so that few-shot tasks see another form of its features; pre-training sees the plain ones.

      e(x) = (f(x) + f(mirrored x)) / 2 where `mirror`;   e(x) <- τ e(x) / |e(x)| where `norm` is 'l2'

  Each image's features still depend on that image alone. τ is taken from the parameters at `_readout/log_temperature`
  where meta-training has learned it.

  Args:
    backbone: the network.
    norm: 'none' or 'l2'.
    mirror: average with the features of the mirrored image, at twice the cost.
    temperature: τ, length of a feature vector under 'l2'; None for 10.

  Returns:
    A Backbone of the same parameters.

  Raises:
    ValueError: an unknown norm, a temperature not above 0, or one without 'l2'.
  """
  if norm not in NORMS:
    raise ValueError(f'expected norm of features to be one of {", ".join(NORMS)}, got {norm!r}')
  if temperature is not None and not (norm == 'l2' and temperature > 0):
    raise ValueError(f'expected a temperature above 0, and only with norm l2, got {temperature} with {norm}')
  temperature = 10.0 if temperature is None else temperature

  def plain(backbone_vars):
    params = {name: child for name, child in backbone_vars.params.items() if name != READOUT}
    return backbone_vars._replace(params=params)

  def scaled(backbone_vars, output):
    if norm == 'none':
      return output
    learned = backbone_vars.params.get(READOUT)
    scale = jnp.exp(learned['log_temperature']) if learned else temperature
    # The small term keeps the gradient of an all-zero feature vector finite.
    return scale * output * jax.lax.rsqrt(jnp.sum(output ** 2, axis=1, keepdims=True) + 1e-12)

  def features(backbone_vars, images, *, batch_stats_mode):
    variables = plain(backbone_vars)
    output = backbone.features(variables, images, batch_stats_mode=batch_stats_mode)
    if mirror:
      output = (output + backbone.features(variables, images[:, :, ::-1], batch_stats_mode=batch_stats_mode)) / 2
    return scaled(backbone_vars, output)

  def below(backbone_vars, images):
    views = [images, images[:, :, ::-1]] if mirror else [images]
    return jnp.stack([backbone.below(plain(backbone_vars), view) for view in views], axis=1)

  def last(backbone_vars, maps):
    outputs = [backbone.last(plain(backbone_vars), maps[:, i]) for i in range(maps.shape[1])]
    return scaled(backbone_vars, sum(outputs) / len(outputs))

  return backbone._replace(
      features=features, temperature=temperature if norm == 'l2' else None,
      **({} if backbone.below is None else {'below': below, 'last': last}))
