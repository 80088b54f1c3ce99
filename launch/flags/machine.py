"""Flags of the machine: devices, memory and compiled programs; and the `runs.Machine` they make.

None of them changes a figure, but by rounding.
"""
from pathlib import Path
from typing import get_args

from absl.flags import FlagValues

from mtl_jax import configs, runs
from mtl_jax.runs import hosts, trackers

from .declared import Flag, Flags, of_field, value_of

COMPILE_CACHE: Flags = (
    Flag('compile_cache', 'Keep compiled programs on disk: the next start is quick.', bool,
         True),
    Flag('compile_cache_mb', 'Bound of that cache, in megabytes.', int, 1024, least=1,
         most=1 << 24),
)

DEVICES = Flag('devices', 'Devices that share each step; by default one, or those of all '
               'processes.', str, shown='N|all')
POOL = Flag('pool', 'With several devices: all images on each, or an equal part.',
            get_args(runs.Pool), 'replicated')
IMAGES = Flag('images', "Where images stay: in the device's memory, or in the host's if they are "
              'too large for it (auto).', get_args(runs.Images), 'auto')
PROFILE = Flag('profile', 'Folder for a trace of a few steady steps, for XProf or Perfetto.', Path,
               shown='DIR')
TRACKER = Flag('tracker', f'Where the metrics of the run go, beside metrics.jsonl: some of '
               f'{", ".join(trackers.NAMES)}; or {trackers.NONE}.', list, [*trackers.DEFAULT])
BATCHING = Flag('batching', 'How --inner=last_block or all computes tasks: one by one, by grouped '
                'convolutions, by products of patches; auto measures it in a long run.',
                ('auto', *get_args(configs.Batching)), 'auto')
MICROBATCH = of_field(configs.MetaTrainConfig, 'microbatch', 'Tasks in memory at a time, at most, '
                      'on each device; 0: one on a CPU, all on others.', least=0, most=65_536)


def machine(values: FlagValues) -> runs.Machine:
  """Returns where and how a run computes.

  Args:
    values: parsed flags; of those that the command does not have the defaults count.

  Raises:
    ValueError: there are no such devices.
  """
  layout = runs.make_layout(value_of(values, DEVICES), value_of(values, POOL))
  return runs.Machine(images=value_of(values, IMAGES), layout=layout,
                      profile=value_of(values, PROFILE), batching=value_of(values, BATCHING),
                      trackers=tuple(value_of(values, TRACKER)))


def check_trackers(values: FlagValues) -> None:
  """Refuses trackers that are not known or not installed, before anything is read or computed.

  Args:
    values: parsed flags; TRACKER.

  Raises:
    ValueError: as `trackers.check`.
  """
  hosts.on_first(lambda: trackers.check(values.tracker))
