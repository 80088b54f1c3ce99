"""Part of suite inner_loop: ways over tasks that adapt kernels of their own, and the one that a run would take."""
from benchmarks import plan, report, rounds
from mtl_jax import inner_loop

_SIDES = {f'jax {way}': way for way in inner_loop.WAYS} | {'jax chosen': 'auto'}


def settings(request: plan.Request) -> dict:
  """Gives what is measured: FT[Θ;θ] and FT[Θ4;θ], whose inner loops adapt the network or its last block.

  Args:
    request: of the flags.

  Returns:
    Settings that JSON can hold; `cases` are (network, what is adapted, width of the network or None as published).
  """
  if request.smoke:
    return {'cases': [['conv4', 'last_block', 2]], 'image_size': 16, 'tasks': 2, 'way': 2, 'shot': 1, 'query': 1,
            'inner_steps': 1, 'inner_lr': 0.01}
  return {'cases': [['conv4', 'all', None], ['conv4', 'last_block', None], ['resnet12', 'all', None],
                    ['resnet12', 'last_block', None]],
          'image_size': 32, 'tasks': 2, 'way': 5, 'shot': 1, 'query': 15, 'inner_steps': 5, 'inner_lr': 0.01}


def measure(settings: dict, bench, pairs: int) -> list[dict]:
  """Lets all ways take turns, and the one that a run would choose, in a process of its own.

  Args:
    settings: of `settings`.
    bench: starts workers.
    pairs: rounds.

  Returns:
    A row per case: `network`, `adapts`, `sides` and `over_best`, the time of the chosen one over the least, by turns.
  """
  sides = {name: rounds.Side(bench, 'jax', 'over_tasks', mode) for name, mode in _SIDES.items()}
  rows, shapes = [], {name: value for name, value in settings.items() if name != 'cases'}
  for network, adapts, width in settings['cases']:
    for side in sides.values():
      side.prepare({'network': network, 'adapts': adapts, 'width': width, **shapes})
    records = rounds.in_turn(sides, pairs)
    records['jax chosen'] |= {'way': sides['jax chosen'].setup.get('way')}
    rows.append({'network': network, 'adapts': adapts, 'sides': records, 'over_best': _over_best(records)})
    report.say('inner_loop', {'network': network, 'adapts': adapts}, records)
  for side in sides.values():
    side.close()
  return rows


def _over_best(records):
  best = rounds.strongest({name: record for name, record in records.items() if name != 'jax chosen'})
  chosen = records['jax chosen']
  if best is None or 'median' not in chosen:
    return None
  return rounds.ratios(chosen['turns'], records[best]['turns'])


def table(settings: dict, rows: list[dict]) -> plan.Table:
  """Writes them down.

  Args:
    settings: of `settings`.
    rows: of `measure`.

  Returns:
    A table in milliseconds.
  """
  title = (f'Value and gradient where each task adapts the network: {settings["tasks"]} tasks, {settings["way"]}-way '
           f'{settings["shot"]}-shot, {settings["query"]} queries per class, {settings["image_size"]} pixels, '
           f'{settings["inner_steps"]} inner steps, second order')
  header = ['network', 'adapted', *(f'{name}, ms' for name in _SIDES), 'chosen', 'chosen over best']
  cells = [[row['network'], row['adapts'], *(report.seconds(row['sides'][name], 1e3) for name in _SIDES),
            row['sides']['jax chosen']['way'] or report.NONE, report.ratio(row['over_best'])] for row in rows]
  return plan.Table(title, header, cells)
