"""What the outer loop may change, and what it makes of the network: the choices behind the paper's ablation.

| row of the paper | `learn` | `scope` | the inner loop adapts |
|---|---|---|---|
| update[Θ;θ], update θ | none | - | all, head |
| FT θ | head | - | head |
| FT[Θ4;θ], FT[Θ;θ] (MAML) | ft | last_block, all | last_block, all |
| SS[Θ4;θ], SS[Θ;θ] (MTL) | ss | last_block, all | head |

Every other combination that makes sense may be had too; `check` says why one does not.
"""
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mtl_jax import base_learner, scale_shift
from mtl_jax.backbones.readout import READOUT
from mtl_jax.types import Backbone, BackboneVars, MetaParams, Tree

LEARN = ('none', 'head', 'ss', 'ft')
SCOPES = ('all', 'last_block')
INNER_LR = ('fixed', 'scalar', 'per_step')
SCALED = ('published', 'every')


def check(backbone: Backbone, params: Tree, *, learn: str, scope: str, learn_norm: bool, learn_classifier: bool,
          learn_inner_lr: str, adapts: str, gradient_order: str, regularization: float, scaled: str = 'published',
          replace_bias: bool = False, learn_temperature: bool = False) -> None:
  """Refuses a combination of choices that makes no sense, and says why.

  Args:
    backbone: the network.
    params: its parameters, or their shapes.
    learn: what the outer loop learns beside θ: 'none' (not even θ), 'head' (θ alone), 'ss' (Φ_S), 'ft' (the weights).
    scope: where: 'all' layers or the 'last_block'.
    learn_norm: also learn the affine parameters of normalisation within `scope`.
    learn_classifier: learn θ; otherwise it starts from zero in every task.
    learn_inner_lr: 'fixed', or learn one rate ('scalar') or one per inner step ('per_step').
    adapts: what the inner loop adapts beside θ: nothing ('head'), the 'last_block', 'all'.
    gradient_order: 'second', 'first' or 'implicit'.
    regularization: λ, pull of the inner loop towards its start.
    scaled: layers that Φ_S acts on: those of the paper ('published'), or 'every' one with a kernel.
    replace_bias: shifts take the place of the biases.
    learn_temperature: learn the length of L2-normalised features.

  Raises:
    ValueError: a value out of range, or a combination without meaning.
  """
  for name, value, allowed in (('learn', learn, LEARN), ('scope', scope, SCOPES),
                               ('learn_inner_lr', learn_inner_lr, INNER_LR), ('scaled', scaled, SCALED),
                               ('gradient_order', gradient_order, ('second', 'first', 'implicit'))):
    if value not in allowed:
      raise ValueError(f'expected {name} to be one of {", ".join(allowed)}, got {value!r}')
  layers = _scaled_layers(backbone, params, scope, scaled) if learn == 'ss' else ()
  has_norm = bool(jax.tree.leaves(_norms(params)))
  implicit = gradient_order == 'implicit'
  senseless = (
      (learn in ('none', 'head') and scope != 'all', f'scope={scope} with learn={learn}: it says where Φ_S or the '
       'weights are learned, and neither is; choose learn=ss or learn=ft'),
      (learn in ('none', 'head') and learn_norm, f'learn_norm with learn={learn}: the affine parameters are learned '
       'beside Φ_S or the weights; choose learn=ss or learn=ft'),
      (learn == 'ss' and not layers, 'learn=ss with a backbone that has no layer to scale and shift there: layers '
       'are the dicts that hold a kernel; choose learn=ft'),
      (learn_norm and not has_norm, 'learn_norm with a backbone whose normalisation has no affine parameters; '
       'pre-train one that has them'),
      (learn != 'ss' and (scaled != 'published' or replace_bias), f'scaled or replace_bias with learn={learn}: they '
       'shape Φ_S, which is not learned; choose learn=ss'),
      (learn_temperature and backbone.temperature is None, 'learn_temperature: only L2-normalised features have '
       'one; choose feature_norm=l2'),
      (learn_temperature and learn == 'none', 'learn_temperature with learn=none: nothing is meta-learned there; '
       'choose learn=head'),
      (learn == 'none' and learn_inner_lr != 'fixed', f'learn_inner_lr={learn_inner_lr} with learn=none: nothing is '
       'meta-learned there; choose learn=head'),
      (learn == 'head' and not (learn_classifier or learn_temperature or learn_inner_lr != 'fixed'),
       'learn=head without learn_classifier: nothing is left to learn; choose learn=none'),
      (implicit and adapts != 'head', f'gradient_order=implicit with adapts={adapts}: only the base-learner has a '
       'single minimum; choose adapts=head'),
      (implicit and not regularization > 0, 'gradient_order=implicit without regularization: the base-learner has no '
       'single minimum; choose one above 0'),
      (learn_inner_lr != 'fixed' and gradient_order != 'second', f'learn_inner_lr={learn_inner_lr} with '
       f'gradient_order={gradient_order}: its gradient goes through the inner loop; choose gradient_order=second'),
      (not regularization >= 0, f'regularization of {regularization}: expected at least 0'))
  for is_so, why in senseless:
    if is_so:
      raise ValueError(f'cannot learn with {why}')


def init(backbone: Backbone, backbone_vars: BackboneVars, *, way: int, learn: str = 'ss', scope: str = 'all',
         learn_norm: bool = False, learn_inner_lr: str = 'fixed', inner_lr: float = 0.01, inner_steps: int = 20,
         scaled: str = 'published', replace_bias: bool = False, learn_temperature: bool = False) -> MetaParams:
  """Makes what the outer loop starts from: with it the network is the pre-trained one and θ is zero.

  Args:
    backbone: the network.
    backbone_vars: Θ, pre-trained.
    way: N, classes of a task.
    learn: 'none', 'head', 'ss' or 'ft', as in `check`.
    scope: 'all' or 'last_block'.
    learn_norm: also learn the affine parameters of normalisation within `scope`.
    learn_inner_lr: 'fixed', 'scalar' or 'per_step'.
    inner_lr: α at the start, where it is learned.
    inner_steps: T, for one rate per step.
    scaled: 'published' or 'every' layer, for Φ_S.
    replace_bias: shifts start at minus the biases, so that their sum starts at zero and the shift *replaces* the bias,
      as in the authors' TensorFlow code.
    learn_temperature: also learn the length of L2-normalised features, as its logarithm.

  Returns:
    MetaParams; what is not learned is an empty tree.
  """
  params = backbone_vars.params
  phi, weights = {}, {}
  if learn == 'ss':
    phi = scale_shift.init(params, _scaled_layers(backbone, params, scope, scaled), replace_bias=replace_bias)
  if learn in ('ss', 'ft'):
    part = within(params, None if scope == 'all' else backbone.last_block)
    weights = merge(_others(part) if learn == 'ft' else {}, _norms(part) if learn_norm else {})
  if learn_temperature:
    weights[READOUT] = {'log_temperature': jnp.asarray(jnp.log(backbone.temperature), jnp.float32)}
  rates = {} if learn_inner_lr == 'fixed' else {
      'log': jnp.full(() if learn_inner_lr == 'scalar' else (inner_steps,), jnp.log(inner_lr), jnp.float32)}
  # A copy: the state of a run is donated, and must not take the frozen arrays with it.
  return MetaParams(phi, jax.tree.map(jnp.array, weights), base_learner.init(backbone.feature_dim, way), rates)


def network(backbone_vars: BackboneVars, meta_params: MetaParams) -> BackboneVars:
  """Gives the network that the outer loop has made of Θ.

  Args:
    backbone_vars: Θ, frozen.
    meta_params: learned weights take the place of those of Θ; then Φ_S scales and shifts.

  Returns:
    BackboneVars; bitwise those of Θ at the start of meta-training, biases aside where shifts replace them.
  """
  params = merge(backbone_vars.params, meta_params.weights)
  return backbone_vars._replace(params=scale_shift.modulate(params, meta_params.scale_shift))


def inner_rates(meta_params: MetaParams, inner_lr: float, num_steps: int) -> jax.Array | float:
  """Gives the learning rates of the inner loop, learned or not.

  Learned rates are stored as log α, so that they stay above zero and an outer step changes them by a share. A loop
  longer than the one they were learned for goes on with the last of them.

  Args:
    meta_params: its `inner_lr` is empty, or log α as a scalar or per step.
    inner_lr: α, where it is not learned.
    num_steps: inner steps to be taken.

  Returns:
    A scalar, or one rate per step [num_steps].
  """
  if not meta_params.inner_lr:
    return inner_lr
  rates = jnp.exp(meta_params.inner_lr['log'])
  return rates if rates.ndim == 0 else rates[jnp.minimum(jnp.arange(num_steps), len(rates) - 1)]


def hold(meta_params: MetaParams, *, learn_classifier: bool) -> MetaParams:
  """Cuts the gradient of θ where it is not learned; Adam leaves what has no gradient bitwise as it was.

  Args:
    meta_params: as made by `init`.
    learn_classifier: whether θ is learned.

  Returns:
    MetaParams of the same values.
  """
  if learn_classifier:
    return meta_params
  return meta_params._replace(base_learner=jax.lax.stop_gradient(meta_params.base_learner))


def row_name(learn: str, scope: str, adapts: str, hard_tasks: bool) -> str:
  """Names a combination as the paper's tables do; inner loops other than the table's are named after it.

  Args:
    learn: 'none', 'head', 'ss' or 'ft'.
    scope: 'all' or 'last_block'.
    adapts: 'head', 'last_block' or 'all'.
    hard_tasks: whether there are hard tasks.

  Returns:
    A name.

  >>> row_name('ss', 'all', 'head', True), row_name('none', 'all', 'head', False), row_name('ft', 'all', 'head', False)
  ('SS[Θ;θ], HT meta-batch', 'update θ', 'FT[Θ;θ] (inner θ), meta-batch')
  """
  adapted = {'head': 'θ', 'last_block': '[Θ4;θ]', 'all': '[Θ;θ]'}
  if learn == 'none':
    return 'update' + ('' if adapts in ('last_block', 'all') else ' ') + adapted.get(adapts, adapts)
  name = 'FT θ' if learn == 'head' else f'{learn.upper()}{adapted[scope]}'
  usual = {'head': 'head', 'ss': 'head', 'ft': scope}[learn]
  if adapts != usual:
    name += f' (inner {adapted.get(adapts, adapts)})'
  return f'{name}, {"HT " if hard_tasks else ""}meta-batch'


def within(params: Tree, blocks: tuple[tuple[str, ...], ...] | None) -> Tree:
  """Selects whole blocks of a network.

  Args:
    params: nested dict of arrays.
    blocks: their paths; None for everything but a learned temperature, which is no part of the network.

  Returns:
    A nested dict of the same arrays.
  """
  if blocks is None:
    return {name: child for name, child in params.items() if name != READOUT}
  selected = {}
  for path in blocks:
    child = params
    for name in path:
      child = child[name]
    for name in reversed(path):
      child = {name: child}
    selected = merge(selected, child)
  return selected


def merge(tree: Tree, over: Tree) -> Tree:
  """Puts leaves in place of others.

  Args:
    tree: nested dict.
    over: nested dict, whose leaves are taken in place of those of `tree`, or added.

  Returns:
    A nested dict.
  """
  merged = dict(tree)
  for name, child in over.items():
    merged[name] = merge(tree.get(name, {}), child) if isinstance(child, Mapping) else child
  return merged


def _scaled_layers(backbone: Backbone, params: Tree, scope: str, scaled: str) -> tuple[tuple[str, ...], ...]:
  layers = backbone.scaled_layers if scaled == 'published' else scale_shift.layer_paths(params)
  return tuple(path for path in layers if scope == 'all' or
               any(path[:len(block)] == block for block in backbone.last_block))


def _is_norm(layer: Tree) -> bool:
  """Batch and layer norms are the dicts of arrays with a `scale` of one dimension and no `kernel`."""
  holds_layers = any(isinstance(child, Mapping) for child in layer.values())
  return not holds_layers and 'kernel' not in layer and getattr(layer.get('scale'), 'ndim', 0) == 1


def _norms(tree: Tree) -> Tree:
  if _is_norm(tree):
    return tree
  parts = {name: _norms(child) for name, child in tree.items() if isinstance(child, Mapping)}
  return {name: part for name, part in parts.items() if part}


def _others(tree: Tree) -> Tree:
  if _is_norm(tree):
    return {}
  parts = {name: _others(child) if isinstance(child, Mapping) else child for name, child in tree.items()}
  return {name: part for name, part in parts.items() if not isinstance(part, Mapping) or part}
