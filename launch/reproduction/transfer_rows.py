"""The rows and the budgets of the transfer table: what is meta-learned of which network, where."""
import re
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
    # At the outer rate of Φ_S, 1e-3, all weights of a large network fall to chance.
    'ft': Row('FT[Θ;θ], θ adapted', ('--outer=ft', '--outer_lr=1e-4')),
    # The rate that suits θ on features of unit length is far too high for kernels.
    'ft_network': Row('FT[Θ;θ], Θ adapted too', (
        '--outer=ft', '--outer_lr=1e-4', '--inner=all', '--inner_lr=0.01', '--inner_steps=5',
        '--test_inner_steps=5')),
}
WITH_HARD_TASKS = '_ht'  # ends the name of a row with hard tasks
# Such a row may say K and K', and that all classes that failed weigh alike:
# ss_channel_ht4x12_equal.
_ENDING = re.compile(r'_ht(?:(?P<K>[1-9]\d*)x(?P<hard>[1-9]\d*))?(?P<equal>_equal)?$')

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
         'affine', 'film', 'ft', 'ft_network'), (1, 5), 3, 64,
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


def without_hard_tasks(name: str) -> str:
  """Returns the name of a row without what it says of hard tasks.

  Args:
    name: of a row.

  >>> without_hard_tasks('ss_channel_ht4x12_equal'), without_hard_tasks('ft_theta')
  ('ss_channel', 'ft_theta')
  """
  return _ENDING.sub('', name)


def flags_of(name: str) -> tuple[str, ...]:
  """Returns the flags of `launch.meta_train` that a row stands for.

  Args:
    name: one of ROWS, or with its hard tasks.
  """
  row, ending = ROWS[without_hard_tasks(name)], _ENDING.search(name)
  if ending is None:
    return (*row.flags, '--nohard_tasks')
  flags = [*row.flags, '--hard_tasks']
  if ending['K']:
    flags += [f'--num_ordinary_tasks={ending["K"]}', f'--num_hard_tasks={ending["hard"]}']
  return (*flags, '--failure_weights=equal') if ending['equal'] else tuple(flags)


def method_of(name: str) -> str:
  """Returns what a row is called in the table.

  Args:
    name: one of ROWS, or with its hard tasks.

  >>> method_of('ss_channel_ht4x12_equal')
  "SS[Θ;θ] per channel, HT (K=4, K'=12, equal weights)"
  """
  row, ending = ROWS[without_hard_tasks(name)], _ENDING.search(name)
  if ending is None:
    return row.method
  said = [f"K={ending['K']}, K'={ending['hard']}"] if ending['K'] else []
  said += ['equal weights'] if ending['equal'] else []
  return f'{row.method}, HT' + (f' ({", ".join(said)})' if said else '')
