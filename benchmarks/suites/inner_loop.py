"""Suite inner_loop: value and gradient of the adapted classifier's query loss, over features.

A second part, `batching_choice`, has inner loops that adapt networks.
"""
import itertools
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import formatting, inputs, plan, plots, rounds
from benchmarks.suites import batching_choice

_JAX = ('dual', 'scan')
_TORCH = ('unrolled', 'batched', 'func', 'compile')


def _settings(request):
  sizes = {'tasks': [1, 16, 64], 'support': [5, 25], 'steps': [20, 100],
           'orders': ['second', 'first'], 'query': 75, 'dim': 640}
  if request.smoke:
    sizes = {'tasks': [1, 2], 'support': [5], 'steps': [2], 'orders': ['second'], 'query': 5,
             'dim': 8}
  return {**request.common(), **sizes, 'way': 5, 'inner_lr': 0.01,
          'batching': batching_choice.settings(request)}


def _measure(settings, bench):
  torch = plan.torch_modes(settings, _TORCH)
  sides = {f'jax {mode}': rounds.Side(bench, 'jax', 'inner_loop', mode) for mode in _JAX}
  sides |= {f'pytorch {mode}': rounds.Side(bench, 'pytorch', 'inner_loop', mode) for mode in torch}
  rows, too_long = [], {}
  with tempfile.TemporaryDirectory() as folder:
    # Steps outermost: a side that takes too long to compile is not asked for more of them.
    for order, steps, support, tasks in itertools.product(
        *(settings[name] for name in ('orders', 'steps', 'support', 'tasks'))):
      path = inputs.write(os.path.join(folder, 'inputs.npz'), inputs.features(
          tasks=tasks, way=settings['way'], support=support, query=settings['query'],
          dim=settings['dim']))
      asked = {'inputs': path, 'inner_steps': steps, 'inner_lr': settings['inner_lr'],
               'order': order}
      row = {'order': order, 'steps': steps, 'support': support, 'tasks': tasks}
      rows.append(row | _compare(sides, asked, settings['pairs'], too_long))
      rounds.log('inner_loop', row, rows[-1]['sides'])
  for side in sides.values():
    side.close()
  rows.sort(key=lambda row: (settings['orders'].index(row['order']), row['support'], row['steps'],
                             row['tasks']))
  networks = batching_choice.measure(settings['batching'], bench, settings['pairs'])
  skips = rounds.skipped([row['sides'] for row in rows + networks])
  return {'rows': rows, 'batching': networks,
          'notes': plan.without_pytorch(settings, _TORCH) + skips}


def _compare(sides, asked, pairs, too_long):
  """Returns the records of all sides, and the quotients of their times to ours."""
  order = asked['order']
  for name, side in sides.items():
    if order in too_long.get(name, {}):
      side.record = {'skip': f'{too_long[name][order]} to compile fewer or as many steps'}
    elif not side.prepare(asked) and side.record['skip'].startswith('>'):
      too_long.setdefault(name, {})[order] = side.record['skip']
  # Ratios are of turns of the same round, as the speed of a machine drifts.
  records = rounds.in_turn(sides, pairs)
  ours = records['jax dual']
  over = {name: rounds.ratios(record['turns'], ours['turns']) for name, record in records.items()
          if 'median' in record and 'median' in ours and name != 'jax dual'}
  torch = {name: record for name, record in records.items() if name.startswith('pytorch')}
  return {'sides': records, 'over_dual': over, 'strongest': rounds.strongest(torch)}


def _tables(results):
  settings = results['settings']
  names = list(results['rows'][0]['sides'])
  torch = any(name.startswith('pytorch') for name in names)
  compared = 'pytorch unrolled' if torch else 'jax scan'
  header = ['tasks', 'support', 'steps', *(f'{name}, ms' for name in names)]
  header += ['unrolled over dual', 'strongest over dual'] if torch else ['scan over dual']
  tables = []
  for order in settings['orders']:
    cells = []
    for row in (row for row in results['rows'] if row['order'] == order):
      cells.append([*(str(row[name]) for name in ('tasks', 'support', 'steps')),
                    *(formatting.seconds(row['sides'][name], 1e3) for name in names),
                    formatting.ratio(row['over_dual'].get(compared)),
                    *([_strongest(row)] if torch else [])])
    tables.append(plan.Table(f'Value and gradient of the inner loop, {order} order', header,
                             cells))
  return [*tables, batching_choice.table(settings['batching'], results['batching'])]


def _strongest(row):
  name = row['strongest']
  if name is None:
    return formatting.NONE
  return f'{formatting.ratio(row["over_dual"].get(name))} {name.removeprefix("pytorch ")}'


def _plot(results):
  """Draws milliseconds against tasks, a panel per support size and steps, of the first order."""
  settings = results['settings']
  supports, steps = settings['support'], settings['steps']
  figure = Figure(figsize=(3.2 * len(steps) + 1, 2.9 * len(supports)), layout='constrained')
  panels = figure.subplots(len(supports), len(steps), squeeze=False, sharex=True, sharey=True)
  for i, j in itertools.product(range(len(supports)), range(len(steps))):
    shown = (settings['orders'][0], supports[i], steps[j])
    rows = [row for row in results['rows']
            if (row['order'], row['support'], row['steps']) == shown]
    for name in rows[0]['sides']:
      points = [(row['tasks'], row['sides'][name]) for row in rows]
      plots.line(panels[i, j], name, points, scale=1e3)
    panels[i, j].set_title(f'{supports[i]} support images, {steps[j]} steps', fontsize='medium')
    panels[i, j].set_xscale('log', base=2)
    panels[i, j].set_xticks(settings['tasks'], [str(number) for number in settings['tasks']])
  plots.label(figure, panels, 'tasks', 'milliseconds')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
