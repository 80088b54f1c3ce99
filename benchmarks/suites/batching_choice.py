"""Part of suite inner_loop: the batchings of tasks that each adapt kernels of their own.

Beside them stands the one that a run would choose.
"""
from typing import get_args

from benchmarks import formatting, plan, rounds
from mtl_jax import configs

_SIDES = {f'jax {batching}': batching for batching in get_args(configs.Batching)}
_SIDES['jax chosen'] = 'auto'  # a process of its own, as the measurement may warm others up


def settings(request: plan.Request) -> dict:
  """Returns what is measured: FT[Θ;θ] and FT[Θ4;θ], which adapt the network or its last block.

  Args:
    request: of the flags.

  Returns:
    Settings that JSON can hold; `cases` are (network, what is adapted, width of the network or None
    as published).
  """
  if request.smoke:
    return {'cases': [['conv4', 'last_block', 2]], 'image_size': 16, 'tasks': 2, 'way': 2,
            'shot': 1, 'query': 1, 'inner_steps': 1, 'inner_lr': 0.01}
  cases = [[network, adapts, None] for network in ('conv4', 'resnet12')
           for adapts in ('all', 'last_block')]
  return {'cases': cases, 'image_size': 32, 'tasks': 2, 'way': 5, 'shot': 1, 'query': 15,
          'inner_steps': 5, 'inner_lr': 0.01}


def measure(settings: dict, bench, pairs: int) -> list[dict]:
  """Measures all batchings in turn, and the one that a run would choose in a process of its own.

  Args:
    settings: of `settings`.
    bench: starts workers.
    pairs: rounds.

  Returns:
    A row per case: `network`, `adapts`, `sides` and `over_best`, the time of the chosen one over
    the least, turn by turn.
  """
  sides = {name: rounds.Side(bench, 'jax', 'batching', mode) for name, mode in _SIDES.items()}
  rows, shapes = [], {name: value for name, value in settings.items() if name != 'cases'}
  for network, adapts, width in settings['cases']:
    case = {'network': network, 'adapts': adapts}
    for side in sides.values():
      side.prepare(case | {'width': width, **shapes})
    records = rounds.in_turn(sides, pairs)
    records['jax chosen'] |= {'batching': sides['jax chosen'].setup.get('batching')}
    rows.append(case | {'sides': records, 'over_best': _over_best(records)})
    rounds.log('inner_loop', case, records)
  for side in sides.values():
    side.close()
  return rows


def _over_best(records):
  best = rounds.strongest({name: record for name, record in records.items()
                           if name != 'jax chosen'})
  chosen = records['jax chosen']
  if best is None or 'median' not in chosen:
    return None
  return rounds.ratios(chosen['turns'], records[best]['turns'])


def table(settings: dict, rows: list[dict]) -> plan.Table:
  """Formats the rows as a table in milliseconds.

  Args:
    settings: of `settings`.
    rows: of `measure`.

  Returns:
    A Table with a line per case.
  """
  title = (f'Value and gradient where each task adapts the network: {settings["tasks"]} tasks, '
           f'{settings["way"]}-way {settings["shot"]}-shot, {settings["query"]} queries per class, '
           f'{settings["image_size"]} pixels, {settings["inner_steps"]} inner steps, second order')
  header = ['network', 'adapted', *(f'{name}, ms' for name in _SIDES), 'chosen',
            'chosen over best']
  cells = [[row['network'], row['adapts'],
            *(formatting.seconds(row['sides'][name], 1e3) for name in _SIDES),
            row['sides']['jax chosen']['batching'] or formatting.NONE,
            formatting.ratio(row['over_best'])] for row in rows]
  return plan.Table(title, header, cells)
