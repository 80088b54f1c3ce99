"""The setting in which the paper gained, taken apart into three factors of two levels.

The first level of each factor is the paper's, as the authors' TensorFlow code has it; the second is
that of the presets here.
"""
import itertools
from typing import NamedTuple

from .budgets import Budget


class Setting(NamedTuple):
  """One combination of levels."""
  pretraining: str
  features: str
  statistics: str

  @property
  def name(self) -> str:
    """Its levels with hyphens between, which names its folders."""
    return '-'.join(self)


FACTORS = {'pretraining': ('short', 'preset'), 'features': ('raw', 'unit'),
           'statistics': ('batch', 'running')}
SAYS = {'pretraining': 'pre-training: short, without augmentation, over the preset',
        'features': 'features: raw, over unit length (on FC100 with the mirror image)',
        'statistics': 'batch norm: statistics of the batch, over running ones'}
SETTINGS = tuple(Setting(*levels) for levels in itertools.product(*FACTORS.values()))
PAPERS, OURS = SETTINGS[0], SETTINGS[-1]
ROWS = {'update_theta': 'update θ', 'ss': 'SS[Θ;θ]', 'ss_ht': 'SS[Θ;θ], HT'}
# Options of `backbones.read_out` that make features raw; the other level is that of pre-training.
RAW = {'norm': 'none', 'mirror': False}

_SHORT_STEPS = {'smoke': 150, 'cpu': 3000, 'full': 10_000}


def pretrain_flags(setting: Setting, budget_name: str, budget: Budget) -> tuple[str, ...]:
  """Returns the flags of `launch.pretrain` for the network of a setting.

  Args:
    setting: its pre-training is read.
    budget_name: smoke, cpu or full.
    budget: of that name, or what the command line made of it.
  """
  unit = (*budget.pretrain, '--feature_norm=l2')
  if setting.pretraining == 'preset':
    return unit
  steps = _SHORT_STEPS.get(budget_name)
  return (*unit, '--crop_padding=0', '--noflip', '--color=0',
          *([f'--steps={steps}', f'--validate_every={steps}'] if steps else []))
