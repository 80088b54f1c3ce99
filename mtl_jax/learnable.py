"""What the outer loop may change, and what it makes of the network: the choices of the ablation.

| row of the paper | `learn` | `scope` | the inner loop adapts |
|---|---|---|---|
| update[Θ;θ], update θ | none | - | all, head |
| FT θ | head | - | head |
| FT[Θ4;θ], FT[Θ;θ] (MAML) | ft | last_block, all | last_block, all |
| SS[Θ4;θ], SS[Θ;θ] (MTL) | ss | last_block, all | head |

Every other combination that makes sense may be had too; `check_combination` says why one does not.

References: Sun et al., CVPR 2019, section 5.3.
"""

import jax
import jax.numpy as jnp

from mtl_jax import inner_loop, parts, scale_shift
from mtl_jax.configs import InnerLoop, Learn
from mtl_jax.scale_shift import Path
from mtl_jax.types import Array, Backbone, BackboneVars, MetaParams, Tree


def check_combination(backbone: Backbone, params: Tree, learn: Learn, inner: InnerLoop) -> None:
  """Refuses a combination of choices that makes no sense, and says why.

  Args:
    backbone: its scaled layers, last block and temperature are looked at.
    params: its parameters, or their shapes.
    learn: what the outer loop learns.
    inner: the inner loop that it goes through.

  Raises:
    ValueError: a combination without meaning, or a value out of range.
  """
  layers = _scaled_layers(backbone, params, learn) if learn.learn == 'ss' else ()
  has_norm = bool(jax.tree.leaves(parts.affine(params)))
  neither = learn.learn in ('none', 'head')
  implicit = inner.gradient_order == 'implicit'
  left = learn.classifier or learn.temperature or learn.inner_lr != 'fixed'
  shapes_phi = (learn.scaled, learn.scale_per, learn.replace_bias) != ('published', 'slice', False)
  senseless = (
    (neither and learn.scope != 'all',
     f'scope={learn.scope} with learn={learn.learn}: it says where Φ_S or the weights are '
     'learned, and neither is; choose learn=ss, ft or affine'),
    (neither and learn.norm,
     f'learn_norm with learn={learn.learn}: the affine parameters are learned beside Φ_S or the '
     'weights; choose learn=ss or learn=ft'),
    (learn.learn == 'ss' and not layers,
     'learn=ss with a backbone that has no layer to scale and shift there: layers are the dicts '
     'that hold a kernel; choose learn=ft'),
    ((learn.norm or learn.learn == 'affine') and not has_norm,
     f'{"learn_norm" if learn.norm else "learn=affine"} with a backbone whose '
     'normalisation has no affine parameters; pre-train one that has them'),
    (learn.learn != 'ss' and shapes_phi,
     f'scaled, scale_per or replace_bias with learn={learn.learn}: they shape Φ_S, which is not '
     'learned; choose learn=ss'),
    (learn.temperature and backbone.temperature is None,
     'learn_temperature: only L2-normalised features have one; choose feature_norm=l2'),
    (learn.temperature and learn.learn == 'none',
     'learn_temperature with learn=none: nothing is meta-learned there; choose learn=head'),
    (learn.learn == 'none' and learn.inner_lr != 'fixed',
     f'learn_inner_lr={learn.inner_lr} with learn=none: nothing is meta-learned there; choose '
     'learn=head'),
    (learn.learn == 'head' and not left,
     'learn=head without learn_classifier: nothing is left to learn; choose learn=none'),
    (learn.learn == 'head' and not _has_theta(backbone, params, inner),
     f'learn=head with adapts={inner.adapts}, which has no parameters of its own: nothing is left '
     'to learn; choose learn=ss or learn=ft'),
    (implicit and inner.adapts != 'head',
     f'gradient_order=implicit with adapts={inner.adapts}: only the base-learner has a single '
     'minimum; choose adapts=head'),
    (implicit and not inner.regularization > 0,
     'gradient_order=implicit without regularization: the base-learner has no single minimum; '
     'choose one above 0'),
    (learn.inner_lr != 'fixed' and inner.gradient_order != 'second',
     f'learn_inner_lr={learn.inner_lr} with gradient_order={inner.gradient_order}: its gradient '
     'goes through the inner loop; choose gradient_order=second'),
    (learn.inner_lr != 'fixed' and not inner_loop.find(inner.adapts).learns_rates,
     f'learn_inner_lr={learn.inner_lr} with adapts={inner.adapts}, which has no gradient with '
     'respect to its rates; choose inner_lr=fixed'),
    (not inner.regularization >= 0,
     f'regularization of {inner.regularization}: expected at least 0'))
  for is_so, why in senseless:
    if is_so:
      raise ValueError(f'cannot learn with {why}')


def init(backbone: Backbone, backbone_vars: BackboneVars, way: int, learn: Learn,
         inner: InnerLoop) -> MetaParams:
  """Makes what the outer loop starts from: the network is the pre-trained one, and θ is zero.

  Args:
    backbone: its scaled layers, last block, width and temperature are read.
    backbone_vars: Θ, pre-trained.
    way: N, classes of a task.
    learn: what is learned.
    inner: learned rates start at its `lr`, one for each of its `steps` where learned per step.

  Returns:
    MetaParams; what is not learned is an empty tree, save θ, which is always there.
  """
  params = backbone_vars.params
  phi, weights, temperature = {}, {}, {}
  if learn.learn == 'ss':
    layers = _scaled_layers(backbone, params, learn)
    phi = scale_shift.init(params, layers, replace_bias=learn.replace_bias, per=learn.scale_per,
                           on_outputs=backbone.scales_outputs)
  if learn.learn in ('ss', 'ft', 'affine'):
    part = parts.within(params, None if learn.scope == 'all' else backbone.last_block)
    weights = parts.merge(parts.without_affine(part) if learn.learn == 'ft' else {},
                          parts.affine(part) if learn.norm or learn.learn == 'affine' else {})
  if learn.temperature and backbone.temperature is not None:
    temperature = {'log': jnp.asarray(jnp.log(backbone.temperature), jnp.float32)}
  rates = {}
  if learn.inner_lr != 'fixed':
    shape = () if learn.inner_lr == 'scalar' else (inner.steps,)
    rates = {'log': jnp.full(shape, jnp.log(inner.lr), jnp.float32)}
  # A copy: the state of a run is donated, and must not take the frozen arrays with it.
  weights = jax.tree.map(jnp.array, weights)
  theta = inner_loop.find(inner.adapts).init(backbone, backbone_vars, way)
  return MetaParams(phi, weights, theta, rates, temperature)


def nothing_learned(backbone: Backbone, backbone_vars: BackboneVars, way: int,
                    inner: InnerLoop) -> MetaParams:
  """Returns what stands for no meta-learning: no scale and shift, and θ as it starts (update θ).

  Args:
    backbone: the network.
    backbone_vars: Θ, or its shapes.
    way: N, classes of a task.
    inner: its θ; a linear base-learner starts from zero.
  """
  theta = inner_loop.find(inner.adapts).init(backbone, backbone_vars, way)
  return MetaParams({}, {}, theta, {}, {})


def network(backbone_vars: BackboneVars, meta_params: MetaParams) -> BackboneVars:
  """Returns the network that the outer loop has made of Θ.

  Args:
    backbone_vars: Θ, frozen.
    meta_params: learned weights take the place of those of Θ; then Φ_S scales and shifts.

  Returns:
    BackboneVars; bitwise those of Θ at the start of meta-training, biases aside where shifts
    replace them. A learned temperature is in them.
  """
  params = parts.merge(backbone_vars.params, meta_params.weights)
  params = scale_shift.modulate(params, meta_params.scale_shift)
  if not meta_params.temperature:
    return backbone_vars._replace(params=params)
  return backbone_vars._replace(params=params,
                                temperature=jnp.exp(meta_params.temperature['log']))


def inner_rates(meta_params: MetaParams, inner: InnerLoop) -> Array | float:
  """Returns the learning rates of the inner loop, learned or not.

  Learned rates are stored as log α, so that they stay above zero and an outer step changes them by
  a share. A loop longer than the one they were learned for goes on with the last of them.

  Args:
    meta_params: its `inner_lr` is empty, or log α as a scalar or per step.
    inner: α where it is not learned, and the number of steps to be taken.

  Returns:
    A scalar, or one rate per step [steps].
  """
  if not meta_params.inner_lr:
    return inner.lr
  rates = jnp.exp(meta_params.inner_lr['log'])
  if rates.ndim == 0:
    return rates
  return rates[jnp.minimum(jnp.arange(inner.steps), len(rates) - 1)]


def hold(meta_params: MetaParams, learn: Learn) -> MetaParams:
  """Cuts the gradient of θ where it is not learned.

  Adam leaves what has no gradient bitwise as it was.

  Args:
    meta_params: as made by `init`.
    learn: its `classifier` says whether θ is learned.

  Returns:
    MetaParams of the same values.
  """
  if learn.classifier:
    return meta_params
  theta = jax.lax.stop_gradient(meta_params.base_learner)
  return meta_params._replace(base_learner=theta)


def row_name(learn: Learn, adapts: str, hard_tasks: bool) -> str:
  """Names a combination as the paper's tables do.

  Args:
    learn: what the outer loop learns; its `learn` and `scope` count.
    adapts: 'head', 'last_block' or 'all'; other inner loops are named after themselves.
    hard_tasks: whether there are hard tasks.

  Returns:
    A name.

  >>> row_name(Learn('ss'), 'head', True), row_name(Learn('none'), 'head', False)
  ('SS[Θ;θ], HT meta-batch', 'update θ')
  >>> row_name(Learn('ft'), 'head', False)
  'FT[Θ;θ] (inner θ), meta-batch'
  """
  adapted = {'head': 'θ', 'last_block': '[Θ4;θ]', 'all': '[Θ;θ]'}
  shown = adapted.get(adapts, adapts)
  if learn.learn == 'none':
    return f'update{"" if adapts in ("last_block", "all") else " "}{shown}'
  method = 'affine' if learn.learn == 'affine' else learn.learn.upper()
  name = 'FT θ' if learn.learn == 'head' else f'{method}{adapted[learn.scope]}'
  if learn.scale_per == 'channel':
    name += ' per channel'
  usual = {'ft': learn.scope}.get(learn.learn, 'head')
  if adapts != usual:
    name += f' (inner {shown})'
  return f'{name}, {"HT " if hard_tasks else ""}meta-batch'


def _has_theta(backbone: Backbone, params: Tree, inner: InnerLoop) -> bool:
  start = inner_loop.find(inner.adapts).init
  theta = jax.eval_shape(lambda p: start(backbone, BackboneVars(p, {}), 2), params)
  return bool(jax.tree.leaves(theta))


def _scaled_layers(backbone: Backbone, params: Tree, learn: Learn) -> tuple[Path, ...]:
  published = learn.scaled == 'published'
  layers = backbone.scaled_layers if published else scale_shift.layer_paths(params)
  if learn.scope == 'all':
    return layers
  return tuple(path for path in layers
               if any(path[:len(block)] == block for block in backbone.last_block))
