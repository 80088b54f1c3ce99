"""The rows of the table of systems: what each is in flags, and what was published of it.

A system starts from the pre-trained network, as meta-transfer learning does, or from random weights
where its authors do; then batch norm goes by the statistics of support and of query apart, as there
are no running ones that such a network could be tested by.
"""
from typing import Literal, NamedTuple

from . import paper

Start = Literal['pretrained', 'random']


class System(NamedTuple):
  """A row: flags of `launch.meta_train`, the last of which count."""
  method: str
  start: Start
  flags: tuple[str, ...]
  published: dict[tuple[str, int], str] = {}  # (data set, shots) -> accuracy in %, network


def _of_paper(preset: str) -> dict[tuple[str, int], str]:
  """What the authors of meta-transfer learning published of a row, with ResNet-12."""
  found = {column: paper.figure(preset, *column) for column in paper.COLUMNS}
  return {column: f'{figure[0]:.1f}, ResNet-12' for column, figure in found.items() if figure}


def _of_table(index: int, network: str) -> dict[tuple[str, int], str]:
  figures = zip(paper.COLUMNS, paper.MAIN[index].figures, strict=True)
  return {column: f'{figure[0]:.1f}, {network}' for column, figure in figures}


def _fc100(one: str, five: str, network: str) -> dict[tuple[str, int], str]:
  return {('fc100', 1): f'{one}, {network}', ('fc100', 5): f'{five}, {network}'}


_FT, _FROM_RANDOM = '--outer=ft', ('--outer=ft', '--batch_stats=batch')
_NETWORK = ('--inner=all', '--inner_lr=0.05', '--inner_steps=5', '--test_inner_steps=10')

SYSTEMS = {
    'update_theta': System('update θ: frozen features', 'pretrained', ('--outer=none',),
                           _of_paper('update_theta')),
    'ss': System('MTL, SS[Θ;θ]', 'pretrained', ('--outer=ss',), _of_paper('ss_all')),
    'ss_ht': System('MTL, SS[Θ;θ], HT', 'pretrained', ('--outer=ss', '--hard_tasks'),
                    _of_paper('ss_all_ht')),
    'prototypes': System('ProtoNet', 'random', (*_FROM_RANDOM, '--inner=prototypes'),
                         _fc100('35.9', '49.3', '4CONV')),
    'prototypes_pretrained': System('ProtoNet over a pre-training', 'pretrained',
                                    (_FT, '--inner=prototypes')),
    'cosine': System('Meta-Baseline: cosine, learned temperature', 'pretrained',
                     (_FT, '--inner=cosine')),
    'matching': System('MatchingNet', 'random', (*_FROM_RANDOM, '--inner=matching')),
    'relation': System('RelationNet (on features)', 'random', (*_FROM_RANDOM, '--inner=relation'),
                       _fc100('35.8', '47.8', '4CONV')),
    'ridge': System('R2-D2: ridge regression', 'random', (*_FROM_RANDOM, '--inner=ridge')),
    'svm': System('MetaOptNet: support vector machine', 'random', (*_FROM_RANDOM, '--inner=svm'),
                  _fc100('41.1', '55.5', 'ResNet-12')),
    'anil': System('ANIL', 'random', (*_FROM_RANDOM, '--inner=head', '--inner_lr=0.1'),
                   _fc100('40.7', '48.0', '4CONV')),
    'bilevel': System('bilevel programming: ANIL with λ, implicit', 'random', (
        *_FROM_RANDOM, '--inner=head', '--inner_lr=0.5', '--inner_steps=100',
        '--regularization=0.1', '--gradient_order=implicit')),
    'maml': System('MAML', 'random', (*_FROM_RANDOM, *_NETWORK), _of_table(0, '4CONV')),
    'maml_per_step': System('MAML++: a learned rate per step', 'random', (
        *_FROM_RANDOM, *_NETWORK, '--learn_inner_lr=per_step')),
    'meta_sgd': System('Meta-SGD', 'random', (*_FROM_RANDOM, *_NETWORK, '--inner=meta_sgd')),
    'boil': System('BOIL', 'random', (*_FROM_RANDOM, *_NETWORK, '--inner=boil')),
    'reptile': System('Reptile', 'random', (*_FROM_RANDOM, *_NETWORK, '--inner=reptile')),
    'implicit_maml': System('iMAML: implicit gradient', 'random', (
        *_FROM_RANDOM, '--inner=implicit_maml', '--inner_lr=0.1', '--inner_steps=16',
        '--test_inner_steps=16', '--regularization=2')),
    'maml_deep': System('MAML deep, FT[Θ;θ], HT', 'pretrained', (_FT, *_NETWORK, '--hard_tasks'),
                        _of_table(2, 'ResNet-12')),
    'set_transformer': System('FEAT-like set transformer on frozen features', 'pretrained',
                              ('--outer=head', '--inner=set_transformer')),
    'tadam_frozen': System('task conditioning (TADAM) of the frozen network', 'pretrained',
                           ('--outer=head', '--inner=tadam')),
    'tadam': System('TADAM without co-training, over a pre-training', 'pretrained',
                    (_FT, '--inner=tadam'), _of_table(3, 'ResNet-12')),
}
# Outer steps of rows from random weights by budget: over features, and with the network in the
# inner loop.
STEPS_FROM_RANDOM = {'smoke': (1500, 600), 'cpu': (6000, 1500), 'full': (30_000, 10_000)}
ADAPTS_NETWORK = ('maml', 'maml_per_step', 'meta_sgd', 'boil', 'reptile', 'implicit_maml',
                  'maml_deep')

# In the paper's tables, and of no system that can be run here: (method, figures).
def _mini(one: str, five: str, network: str) -> dict[tuple[str, int], str]:
  return {('mini_imagenet', 1): f'{one}, {network}', ('mini_imagenet', 5): f'{five}, {network}'}


PUBLISHED_ONLY: dict[str, dict[tuple[str, int], str]] = {
    'Meta-LSTM': _mini('43.6', '60.6', '4CONV'), 'SNAIL': _mini('55.7', '68.9', 'ResNet-12'),
    'MetaGAN': _mini('52.7', '68.6', 'ResNet-12'), 'adaResNet': _mini('56.9', '71.9', 'ResNet-12'),
    'LEO': _mini('61.8', '77.6', 'WRN-28-10')}
