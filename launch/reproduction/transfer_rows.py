"""The rows and the budgets of the transfer table: what is meta-learned of which network, where."""
from typing import NamedTuple


class Row(NamedTuple):
  """What is learned over a pre-trained network; flags of `launch.meta_train`."""
  method: str
  flags: tuple[str, ...]


_SLICE, _CHANNEL = ('--outer=ss', '--scale_per=slice'), ('--outer=ss', '--scale_per=channel')
ROWS = {
    'update_theta': Row('update θ', ('--outer=none',)),
    'ft_theta': Row('FT θ', ('--outer=head',)),
    'ss_slice': Row('SS[Θ;θ] per slice', _SLICE),
    'ss_channel': Row('SS[Θ;θ] per channel', _CHANNEL),
    'ss_last_block': Row('SS[Θ4;θ] per slice', (*_SLICE, '--scope=last_block')),
    'affine': Row('affine of batch norm', ('--outer=affine',)),
    'film': Row('affine, adapted per task (film)', ('--outer=affine', '--inner=film',
                                                    '--inner_steps=5', '--test_inner_steps=5')),
    'ft': Row('FT[Θ;θ] (inner θ)', ('--outer=ft',)),
}
WITH_HARD_TASKS = '_ht'  # ends the name of a row with hard tasks

SCRATCH = 'scratch'  # the source that is pre-trained on the target itself, by 4CONV


class Budget(NamedTuple):
  """What a transfer table costs."""
  sources: tuple[str, ...]   # Θ: 'imagenet', 'scratch', or the work directory of a run
  targets: tuple[str, ...]   # data sets
  rows: tuple[str, ...]      # of ROWS, some with '_ht'
  shots: tuple[int, ...]
  seeds: int
  image_size: int            # of public weights; scratch has the data set's own
  meta_train: tuple[str, ...]
  scratch: tuple[str, ...]   # flags of `launch.pretrain`
  num_tasks: int
  parts: tuple[str, ...]     # of the base classes: --base_classes, for the figure


_META = ('--query=10', '--meta_batch=2', '--outer_lr=1e-3', '--inner_steps=20', '--crop_padding=0',
         '--validation_tasks=200')
_PARTS = ('fold:1/16', 'fold:1/8', 'fold:1/4', 'fold:1/2', 'all')
# Inner rates that are compared on validation tasks, for update θ; all rows take the best.
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)

BUDGETS = {
    # Some ten minutes on two CPU cores.
    'smoke': Budget(
        ('imagenet', SCRATCH), ('glyphs',), ('update_theta', 'ss_channel'), (1,), 1, 64,
        (*_META, '--steps=20', '--validate_every=20'),
        ('--steps=300', '--validate_every=150'), 600, ('all',)),
    # A night on two CPU cores.
    'cpu': Budget(
        ('imagenet', SCRATCH), ('omniglot', 'glyphs', 'cifar_fs'),
        ('update_theta', 'ft_theta', 'ss_slice', 'ss_channel', 'ss_channel_ht', 'ss_last_block',
         'affine', 'film', 'ft'), (1, 5), 3, 64,
        (*_META, '--steps=160', '--validate_every=40'),
        ('--steps=3000', '--validate_every=500'), 600, ('all',)),
    # For an accelerator.
    'full': Budget(
        ('imagenet', SCRATCH), ('omniglot', 'glyphs', 'cifar_fs'),
        tuple(name + ending for name in ROWS for ending in ('', WITH_HARD_TASKS)
              if name != 'update_theta' or not ending), (1, 5), 3, 96,
        (*_META, '--steps=1000', '--validate_every=100'),
        ('--steps=10000', '--validate_every=1000'), 2000, _PARTS),
}


def flags_of(name: str) -> tuple[str, ...]:
  """Returns the flags of `launch.meta_train` that a row stands for.

  Args:
    name: one of ROWS, with '_ht' or without.
  """
  row = ROWS[name.removesuffix(WITH_HARD_TASKS)]
  ending = '--hard_tasks' if name.endswith(WITH_HARD_TASKS) else '--nohard_tasks'
  return (*row.flags, ending)


def method_of(name: str) -> str:
  """Returns what a row is called in the table.

  Args:
    name: one of ROWS, with '_ht' or without.
  """
  row = ROWS[name.removesuffix(WITH_HARD_TASKS)]
  return row.method + (', HT' if name.endswith(WITH_HARD_TASKS) else '')
