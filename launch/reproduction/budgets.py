"""How much work a reproduction puts into a table: smoke, cpu or full.

A budget is made of the flags of `launch.pretrain` and `launch.meta_train`; of a flag given twice
the last counts.
"""
from typing import NamedTuple

from ..flags import presets


class Budget(NamedTuple):
  """What a table costs."""
  dataset: str | None                      # unless --dataset names another; None: that of the table
  pretrain: tuple[str, ...]                # flags of launch.pretrain
  one_shot: tuple[str, ...]                # flags of launch.meta_train with one image per class
  more_shots: tuple[str, ...]              # the same with more
  network_loop: tuple[str, ...]            # on top, where the inner loop adapts the network too
  curves: tuple[str, ...]                  # on top, for the figure
  num_tasks: int                           # of each meta-test
  network_loop_tasks: int                  # of each meta-test whose inner loop adapts the network
  ablation_shots: tuple[int, ...] | None   # None: as published


# An inner loop over the network costs some twenty times that over θ: fewer steps, fewer tasks.
_NETWORK_LOOP = ('--inner_lr=0.05', '--inner_steps=5', '--test_inner_steps=20', '--outer_lr=3e-4')
_SMOKE = ('--inner_lr=0.05', '--steps=300', '--validate_every=150')
_FULL = ('--steps=2000', '--validate_every=100')

BUDGETS = {
    # Minutes on two CPU cores.
    'smoke': Budget(
        dataset='glyphs', pretrain=('--steps=600', '--inner_lr=0.05', '--validate_every=300'),
        one_shot=_SMOKE, more_shots=_SMOKE,
        network_loop=(*_NETWORK_LOOP, '--steps=60', '--validate_every=30',
                      '--validation_tasks=100'),
        curves=('--validate_every=30',), num_tasks=2000, network_loop_tasks=300,
        ablation_shots=(1,)),
    # About two hours on two CPU cores with FC100.
    'cpu': Budget(
        dataset=None, pretrain=presets.read('fc100_conv4_pretrain'),
        one_shot=presets.read('fc100_conv4_1shot'), more_shots=presets.read('fc100_conv4_5shot'),
        network_loop=(*_NETWORK_LOOP, '--steps=100', '--validate_every=50',
                      '--validation_tasks=200'),
        curves=('--validate_every=40', '--validation_tasks=1000'), num_tasks=2000,
        network_loop_tasks=600, ablation_shots=(1,)),
    # ResNet-12, for an accelerator: FC100's curves take minutes on an H100; mini_imagenet and the
    # ablation were not yet run to the end. The inner rates of the presets are those for features of
    # unit length.
    'full': Budget(
        dataset=None, pretrain=presets.read('fc100_resnet12_pretrain'),
        one_shot=(*presets.read('fc100_conv4_1shot'), *_FULL),
        more_shots=(*presets.read('fc100_conv4_5shot'), *_FULL),
        network_loop=(*_NETWORK_LOOP, '--steps=2000', '--validate_every=200',
                      '--validation_tasks=500'),
        curves=(), num_tasks=2000, network_loop_tasks=600, ablation_shots=None),
}
