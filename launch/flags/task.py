"""Flags of the few-shot tasks, and the validation tasks that they make."""
import dataclasses
import time
from typing import get_args

from absl.flags import FlagValues

from mtl_jax import runs
from mtl_jax.configs import TEST_LOOP, InnerLoop, MetaTestConfig, MetaTrainConfig
from mtl_jax.phases.meta_test import Protocol

from .declared import Flag, Flags, of_field, read

SPLITS = ('train', 'val', 'test')

WAY = of_field(MetaTrainConfig, 'way', 'Classes of a task (N).', least=2, most=65_536)
SHOT = of_field(MetaTrainConfig, 'shot', 'Support images per class (K).', least=1, most=65_536)
QUERY = of_field(MetaTrainConfig, 'query', 'Query images per class (Q).', least=1, most=65_536)
MOST_SEED = 2**32 - 1  # a random key has 32 bits of it: 2^32 would be 0 again
SEED = Flag('seed', 'Decides every random choice of the run.', int, 0, least=0, most=MOST_SEED)
NUM_TASKS = of_field(MetaTestConfig, 'num_tasks', 'Number of tasks.', least=2, most=1_000_000)

VALIDATION: Flags = (
    of_field(runs.Validation, 'every', 'Steps between validations, and so between checkpoints.',
             name='validate_every', least=1),
    of_field(runs.Validation, 'num_tasks',
             'Tasks of the validation classes, which choose the best snapshot.',
             name='validation_tasks', least=2, most=1_000_000),
)
TEST_INNER_STEPS = Flag('test_inner_steps', 'Inner steps in validation and meta-test.', int,
                        TEST_LOOP.steps, least=1, most=100_000)

# Of pre-training and meta-training.
TRAINING: Flags = (WAY, SHOT, *VALIDATION, TEST_INNER_STEPS, SEED)

MAX_MINUTES = Flag(
    'max_minutes', 'Train for this long: the steps that fit are measured at the start, and the '
    'schedule of the learning rate is laid over them, so results depend on the machine. --steps, '
    'if given too (or by a preset), is the most.', float, least=0.0, most=5_256_000.0)

# What the settings of meta-test are where no flag says so depends on the run that is tested.
TESTING: Flags = (
    WAY._replace(default=None, help='Classes of a task (N); by default as in --checkpoint, or 5.'),
    SHOT._replace(default=None,
                  help='Support images per class (K); by default as in --checkpoint, or 1.'),
    Flag('split', 'Classes that the tasks come from; or, for images of your own, fractions of the '
         'classes for train, val and test, such as 0.6,0.2,0.2, where the run in --checkpoint does '
         'not say so already: then test.', str, 'test', shown=f'{"|".join(SPLITS)}|X,Y,Z'),
    NUM_TASKS,
    Flag('protocol', 'inductive: 15 queries, running statistics; paper: as many queries as shots, '
         'batch statistics, support doubled by flips.', str, 'inductive',
         shown='|'.join(get_args(Protocol))),
    Flag('query', 'Query images per class (Q); by default as the protocol says.', int, least=1,
         most=65_536),
    Flag('flip_support', 'Double the support by mirrored images; by default as the protocol says.',
         bool),
    SEED,
)


def tested_split(values: FlagValues) -> str:
  """Returns the split that the tasks of a meta-test come from.

  Args:
    values: parsed flags.

  Raises:
    ValueError: --split names no split, and has no fractions.
  """
  if values.split not in SPLITS and ',' not in values.split:
    raise ValueError(f'expected --split to be one of {", ".join(SPLITS)}, or fractions of the '
                     f'classes for them, such as 0.6,0.2,0.2, got {values.split!r}')
  return values.split if values.split in SPLITS else 'test'


def time_budget(values: FlagValues) -> runs.TimeBudget | None:
  """Returns the time that a training may take by the flags, from the start of the process on.

  Args:
    values: parsed flags; MAX_MINUTES, and --steps.

  Returns:
    A TimeBudget; None where no time was given.

  Raises:
    ValueError: no time at all.
  """
  if values.max_minutes is None:
    return None
  # Imports have taken about as long as this process has computed so far.
  began = time.monotonic() - time.process_time()
  return runs.TimeBudget(values.max_minutes, values.steps if values['steps'].present else None,
                         began)


def validation(values: FlagValues, inner: InnerLoop) -> runs.Validation:
  """Returns the validation tasks that the flags name.

  Args:
    values: parsed flags.
    inner: the loop of the training; that of the tasks takes --test_inner_steps steps instead.
  """
  loop = dataclasses.replace(inner, steps=values.test_inner_steps, batching=TEST_LOOP.batching,
                             gradient_order=TEST_LOOP.gradient_order)
  return read(runs.Validation, VALIDATION, values, way=values.way, shot=values.shot, inner=loop)
