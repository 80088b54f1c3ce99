"""Flags of the inner and the outer loop, and the configs that they make."""
from collections.abc import Mapping
from typing import Any

from absl.flags import FlagValues

from mtl_jax import inner_loop, types
from mtl_jax.configs import InnerLoop, Learn, MetaTrainConfig
from mtl_jax.weights import public_names

from . import data, machine, task
from .declared import Flag, Flags, of_field, read

AUTO = 'auto'
_UNIT_LENGTH = 0.1  # inner rate for features of length 10; 0.01 would leave θ far from confident
INNER_LR = of_field(InnerLoop, 'lr', 'Inner learning rate (α).', name='inner_lr', least=0.0)
_TRAINED_INNER_LR = INNER_LR._replace(
    default=None, words=(AUTO,), shown='X|auto',
    help='Inner learning rate (α); auto: that of the lowest query loss on validation tasks before '
    f'the first step; by default {InnerLoop.lr}, with --feature_norm=l2 {_UNIT_LENGTH}.')
ADAPTS = of_field(InnerLoop, 'adapts', 'What the inner loop adapts: the base-learner (head), the '
                  'last_block too, all of the network (MAML), or a scale and shift per channel '
                  '(film); or another system: '
                  f'{", ".join(sorted(set(inner_loop.LOOPS) - inner_loop.OWN))}.', name='inner',
                  kind=tuple(inner_loop.LOOPS))._replace(shown='LOOP')
BATCH_STATS = of_field(InnerLoop, 'batch_stats_mode', 'Batch norm by running statistics, or '
                       'by those of support and query apart.',
                       name='batch_stats')
INNER: Flags = (
    ADAPTS,
    _TRAINED_INNER_LR,
    of_field(InnerLoop, 'steps', 'Inner steps in meta-training.', name='inner_steps', least=1,
             most=100_000),
    of_field(InnerLoop, 'gradient_order', 'How the outer gradient goes through the loop: in '
             'full, not at all, or as at a minimum (with --regularization).'),
    of_field(InnerLoop, 'regularization', 'Pull of the inner loop towards its start (λ).',
             least=0.0),
    BATCH_STATS,
)

LEARN: Flags = (
    of_field(Learn, 'learn', 'What is learned beside the base-learner: scale and shift, the '
             'weights (ft), nothing (head); none: not even that.', name='outer'),
    of_field(Learn, 'scope', 'Where --outer=ss or ft learns.'),
    of_field(Learn, 'norm', 'With --outer=ss or ft: also learn the affine parameters of batch '
             'norm.', name='learn_norm'),
    of_field(Learn, 'classifier', 'Learn the start of the base-learner; else it is zero.',
             name='learn_classifier'),
    of_field(Learn, 'inner_lr', 'Learn the inner learning rate, or one for each inner step, from '
             '--inner_lr on.', name='learn_inner_lr'),
    of_field(Learn, 'temperature', 'With --feature_norm=l2: learn that length.',
             name='learn_temperature'),
    of_field(Learn, 'scaled', 'Layers that are scaled and shifted: those of the paper, or all.'),
    of_field(Learn, 'scale_per', 'One scale for each kernel slice, as in the paper, or for each '
             'output channel; by default slice, of public networks channel.', default=None),
    of_field(Learn, 'replace_bias', "Shifts replace the biases, as in the authors' TensorFlow "
             'code, and do not add to them.'),
)

# Networks whose kernels are mostly 1x1 or dense, where a scale per slice is one per weight.
PER_CHANNEL = frozenset(name for kind in public_names.FORMATS.values() for name in kind.networks)

MOST_STEPS = 1_000_000_000  # whole calls of them are counted in 32 bits
HARD_TASKS = Flag('hard_tasks', 'Compose hard tasks of the classes that failed (HT meta-batch).',
                  bool, True)
OUTER: Flags = (
    of_field(MetaTrainConfig, 'steps', 'Outer steps, rounded up to whole cycles of ordinary and '
             'hard tasks.', least=1, most=MOST_STEPS),
    of_field(MetaTrainConfig, 'meta_batch', 'Tasks per outer step.', least=1, most=65_536),
    HARD_TASKS,
    of_field(MetaTrainConfig, 'num_ordinary_tasks', 'Ordinary tasks of a cycle (K).', least=1,
             most=1_000_000),
    of_field(MetaTrainConfig, 'num_hard_tasks', "Hard tasks of a cycle (K').", least=1,
             most=1_000_000),
    of_field(MetaTrainConfig, 'failure_weights', 'Classes of hard tasks: in proportion to how '
             'often each failed, or all that failed alike.'),
    of_field(MetaTrainConfig, 'outer_lr', 'First learning rate of Adam.', least=0.0),
    of_field(MetaTrainConfig, 'outer_lr_halving', 'Outer steps after which that rate is '
             'halved.', least=1),
    of_field(MetaTrainConfig, 'outer_lr_floor', 'That rate never falls below this; at most '
             '--outer_lr.', least=0.0),
)


def check(values: FlagValues) -> None:
  """Refuses flags of the outer loop that do not go together, before images are read.

  Args:
    values: parsed flags of meta-training.

  Raises:
    ValueError: a floor above the rate, which would never be reached; or an inner rate to be chosen
      for a loop that adapts more than θ, or that is learned.
  """
  if chooses_rate(values) and (values.inner != 'head' or values.learn_inner_lr != 'fixed'):
    raise ValueError('--inner_lr=auto goes with --inner=head and --learn_inner_lr=fixed: give a '
                     'number')
  if values['outer_lr_floor'].present and values.outer_lr_floor > values.outer_lr:
    raise ValueError(f'expected --outer_lr_floor of at most --outer_lr={values.outer_lr:g}, got '
                     f'{values.outer_lr_floor:g}')


def chooses_rate(values: FlagValues) -> bool:
  """Whether validation tasks choose the inner rate.

  Args:
    values: parsed flags.
  """
  return values.inner_lr == AUTO


def inner(values: FlagValues, readout: Mapping[str, Any] | None = None) -> InnerLoop:
  """Returns the inner loop that the flags name; --batching is for the machine to decide.

  Args:
    values: parsed flags.
    readout: options of `backbones.read_out` of the features; they decide the rate where no flag
      does.
  """
  rate = values.inner_lr
  if rate is None or chooses_rate(values):
    rate = _UNIT_LENGTH if (readout or {}).get('norm') == 'l2' else InnerLoop.lr
  return read(InnerLoop, INNER, values, lr=rate)


def learn(values: FlagValues, network: str = '') -> Learn:
  """Returns what the outer loop learns by the flags.

  Args:
    values: parsed flags.
    network: name of the backbone, which decides --scale_per where no flag does.
  """
  per = values.scale_per
  if per is None:
    per = 'channel' if values.outer == 'ss' and network in PER_CHANNEL else 'slice'
  return read(Learn, LEARN, values, scale_per=per)


def meta_train_config(values: FlagValues, dataset: types.Dataset | None, network: str = '',
                      readout: Mapping[str, Any] | None = None) -> MetaTrainConfig:
  """Returns the settings of meta-training that the flags name.

  Args:
    values: parsed flags of meta-training; --nohard_tasks counts more than --num_hard_tasks.
    dataset: decides the padding and the flips where no flag does; None before it is there.
    network: name of the backbone, which decides --scale_per where no flag does.
    readout: as in `inner`.
  """
  declared = (*OUTER, *data.META_TRAIN, machine.MICROBATCH, task.WAY, task.SHOT, task.QUERY)
  num_hard_tasks = values.num_hard_tasks if values.hard_tasks else 0
  return read(MetaTrainConfig, declared, values, inner=inner(values, readout),
              learn=learn(values, network), num_hard_tasks=num_hard_tasks,
              **data.augmentation_of(values, dataset))
