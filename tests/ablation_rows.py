"""The rows of the paper's ablation as changes to a small config, and a network to try them on."""
import functools

import jax
import jax.numpy as jnp

from mtl_jax.configs import InnerLoop, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import MetaParams
from tests.phases import smooth_network

CONFIG = MetaTrainConfig(way=2, shot=1, query=3, num_ordinary_tasks=2, num_hard_tasks=2,
                         crop_padding=0, flip=False, inner=InnerLoop(lr=0.1, steps=2))
ROWS = {
    'update[Θ;θ]': {'learn': {'learn': 'none'}, 'inner': {'adapts': 'all'}},
    'update θ': {'learn': {'learn': 'none'}},
    'FT θ': {'learn': {'learn': 'head'}},
    'FT[Θ4;θ]': {'learn': {'learn': 'ft', 'scope': 'last_block'},
                 'inner': {'adapts': 'last_block'}},
    'FT[Θ;θ]': {'learn': {'learn': 'ft'}, 'inner': {'adapts': 'all'}},
    'SS[Θ4;θ]': {'learn': {'scope': 'last_block'}},
    'SS[Θ;θ]': {},
}


@functools.cache
def tiny_network():
  """Two blocks without kinks, which compile in a moment: (backbone, float32 variables)."""
  backbone, variables = smooth_network()
  return backbone, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables)


def start_of(config: MetaTrainConfig) -> MetaParams:
  """What the outer loop starts from, over `tiny_network`."""
  backbone, variables = tiny_network()
  return meta_train.init(backbone, variables, config).meta_params
