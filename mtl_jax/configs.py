"""Settings of the method, with the choices that the paper, or its authors' code, leaves open.

The configs of the three phases hold one `InnerLoop`, and that of meta-training a `Learn`. All are
frozen and without arrays, so each may be a static argument of `jax.jit`. A value outside of a
field's `Literal` is refused where the config is made.
"""
import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

GradientOrder = Literal['second', 'first', 'implicit']
BatchStatsMode = Literal['running', 'batch']
Batching = Literal['loop', 'vmap', 'patches']
Learned = Literal['ss', 'ft', 'affine', 'head', 'none']
Scope = Literal['all', 'last_block']
LearnedRate = Literal['fixed', 'scalar', 'per_step']
Scaled = Literal['published', 'every']
ScalePer = Literal['slice', 'channel']

T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Config:
  """Base of all settings; refuses a value that the `Literal` of a field does not list."""

  def __post_init__(self) -> None:
    for name, kind in typing.get_type_hints(type(self)).items():
      choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
      if choices and getattr(self, name) not in choices:
        raise ValueError(f'expected {name} to be one of {", ".join(choices)}, got '
                         f'{getattr(self, name)!r}')


@dataclasses.dataclass(frozen=True)
class InnerLoop(Config):
  """The inner loop: gradient descent on the support set of one task (equation 2).

  Attributes:
    adapts: what it adapts beside θ: nothing ('head'), the 'last_block', 'all' of the network, the
      affine parameters of its normalisation or its gains ('film'), an entry of
      `inner_loop.register`, or a function with the signature of `inner_loop.adapt_heads`.
    lr: α, step size on the mean cross-entropy.
    steps: T, number of gradient steps.
    gradient_order: how the outer gradient goes through the loop: 'second' in full, 'first' not at
      all, 'implicit' as that of the minimum, which needs `regularization`.
    regularization: λ, pull towards the start of the loop.
    batch_stats_mode: batch norm by 'running' statistics of pre-training, or by those of the 'batch'
      at hand, support and query apart.
    batching: how tasks that each adapt kernels of their own are computed: one after the other
      ('loop'), together with grouped convolutions ('vmap'), or together as batched products of
      'patches'. Equal to rounding.
  """
  adapts: str | Callable[..., Any] = 'head'
  lr: float = 0.01
  steps: int = 20
  gradient_order: GradientOrder = 'second'
  regularization: float = 0.0
  batch_stats_mode: BatchStatsMode = 'running'
  batching: Batching = 'loop'


@dataclasses.dataclass(frozen=True)
class Learn(Config):
  """What the outer loop learns (section 4.2; the rows of the ablation, section 5.3).

  Attributes:
    learn: beside θ: scale and shift Φ_S ('ss'), the weights themselves ('ft'), the affine
      parameters of normalisation alone ('affine'), nothing ('head'); 'none' learns not even θ.
    scope: of 'ss', 'ft' and 'affine': 'all' layers, or those of the 'last_block'.
    norm: also the affine parameters of normalisation within `scope`.
    classifier: θ; without it θ starts from zero in every task.
    inner_lr: α: 'fixed', learned as one 'scalar', or learned 'per_step'.
    temperature: the length of L2-normalised features.
    scaled: layers of Φ_S: those of the paper ('published'), or 'every' one with a kernel.
    scale_per: one scale of Φ_S per kernel 'slice' (the paper's) or per output 'channel'.
    replace_bias: shifts take the place of the biases, as in the authors' TensorFlow code; here the
      sum of both starts at zero, there at the bias.
  """
  learn: Learned = 'ss'
  scope: Scope = 'all'
  norm: bool = False
  classifier: bool = True
  inner_lr: LearnedRate = 'fixed'
  temperature: bool = False
  scaled: Scaled = 'published'
  scale_per: ScalePer = 'slice'
  replace_bias: bool = False


@dataclasses.dataclass(frozen=True)
class PretrainConfig(Config):
  """Phase 1: SGD with Nesterov momentum 0.9 under a cosine schedule.

  Attributes:
    steps: optimizer steps in all.
    batch_size: images per step.
    lr: first learning rate. ResNet-12, whose shortcuts have no batch norm, diverges with 0.1;
      0.02 works.
    weight_decay: on kernels.
    label_smoothing: share of the target spread over all classes.
    rotation_weight: share of the loss that tells quarter turns apart; 0 turns nothing.
    crop_padding: pixels on each side before a random crop.
    flip: whether images are mirrored at random.
    color: strength of colour jitter, in [0, 1].
    hidden_units: of a hidden layer between features and classes (the authors' PyTorch code has
      1000); 0 for none.
    ema: decay of an exponential moving average of weights and running statistics, which is what is
      validated and kept; 0 for none.
    distillation: share w of the loss that a teacher's answers have, where there is a teacher.
    steps_per_call: optimizer steps in one compiled call.
  """
  steps: int = 5000
  batch_size: int = 128
  lr: float = 0.1
  weight_decay: float = 5e-4
  label_smoothing: float = 0.0
  rotation_weight: float = 0.0
  crop_padding: int = 4
  flip: bool = True
  color: float = 0.0
  hidden_units: int = 0
  ema: float = 0.0
  distillation: float = 0.5
  steps_per_call: int = 25


@dataclasses.dataclass(frozen=True)
class MetaTrainConfig(Config):
  """Phase 2; the defaults are the paper's, save for running statistics and augmented images.

  Attributes:
    steps: outer steps in all.
    way: N, classes of a task.
    shot: K, support images per class.
    query: Q, query images per class.
    meta_batch: tasks per outer step.
    microbatch: how many of these, at most, are in memory at a time on a device; 0: as suits it.
    num_ordinary_tasks: K, ordinary tasks of one hard-task cycle.
    num_hard_tasks: K', hard tasks of one cycle; 0 switches them off.
    failure_weights: whether a class is drawn for hard tasks in proportion to how often it failed,
      as from the paper's multiset, or all that failed are drawn alike.
    outer_lr: γ, first learning rate of Adam.
    outer_lr_halving: outer steps after which the rate is halved, again and again.
    outer_lr_floor: the rate never falls below this.
    crop_padding: pixels on each side before a random crop.
    flip: whether images are mirrored at random.
    inner: the inner loop that the outer gradient goes through.
    learn: what the outer loop learns.
  """
  steps: int = 1000
  way: int = 5
  shot: int = 1
  query: int = 15
  meta_batch: int = 2
  microbatch: int = 0
  num_ordinary_tasks: int = 20
  num_hard_tasks: int = 10
  failure_weights: Literal['counts', 'equal'] = 'counts'
  outer_lr: float = 1e-3
  outer_lr_halving: int = 1000
  outer_lr_floor: float = 1e-4
  crop_padding: int = 4
  flip: bool = True
  inner: InnerLoop = InnerLoop()
  learn: Learn = Learn()


# Of a test nothing is differentiated, so the order of the gradient makes no difference there.
TEST_LOOP = InnerLoop(steps=100, gradient_order='first')


@dataclasses.dataclass(frozen=True)
class MetaTestConfig(Config):
  """Phase 3; the defaults are the `inductive` protocol.

  Attributes:
    num_tasks: tasks, fixed by the seed.
    way: N, classes of a task.
    shot: K, support images per class.
    query: Q, query images per class.
    flip_support: whether the support is doubled by mirrored images.
    inner: the inner loop of each task; tasks come one at a time, so `batching` is not read.
    classifier: what is fitted to the support: θ by the inner loop ('gd'), or an entry of
      `systems.support_classifiers.CLASSIFIERS`, over features.
    strength: setting of that other classifier, where it has one.
  """
  num_tasks: int = 600
  way: int = 5
  shot: int = 1
  query: int = 15
  flip_support: bool = False
  inner: InnerLoop = TEST_LOOP
  classifier: str = 'gd'
  strength: float = 1.0


def to_json(config: Config) -> dict[str, Any]:
  """Returns a config as nested dicts of values that JSON can hold.

  Args:
    config: perhaps with others as fields.

  Raises:
    ValueError: it holds a function, which no file can name.

  >>> to_json(Learn(scope='last_block'))['scope']
  'last_block'
  """
  found = dataclasses.asdict(config)
  for name, value in found.items():
    if callable(value):
      raise ValueError(f'expected {name} to be a name, to be written to a file, got a function; '
                       'register it (inner_loop.register) and give its name')
    if dataclasses.is_dataclass(getattr(config, name)):
      found[name] = to_json(getattr(config, name))
  return found


def from_json(kind: type[T], found: Mapping[str, Any], default: T | None = None) -> T:
  """Makes a config of what `to_json` returned, in this version of the library or an earlier one.

  Args:
    kind: class of the config.
    found: its fields. One that was not there yet has its default.
    default: whose fields these defaults are; None for those of `kind`.

  Raises:
    ValueError: a field that `kind` has not, none where it has no default, or a value that it may
      not have.
  """
  fields = typing.get_type_hints(kind)
  needed = {field.name for field in dataclasses.fields(typing.cast(Any, kind))
            if default is None and field.default is dataclasses.MISSING}
  different = (sorted(set(found) - set(fields) | needed - set(found))
               if isinstance(found, Mapping) else ['its form'])
  if different:
    raise ValueError(f'{kind.__name__} differs in {", ".join(different[:3])}')
  start: Any = kind(**{name: found[name] for name in needed}) if default is None else default
  return dataclasses.replace(start, **{
      name: from_json(fields[name], value, getattr(start, name))
      if dataclasses.is_dataclass(fields[name]) else value for name, value in found.items()})
