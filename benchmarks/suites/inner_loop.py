"""Suite inner_loop: value and gradient of the adapted classifier's query loss, over features; then of networks."""
import itertools
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import inputs, plan, report, rounds
from benchmarks.suites import task_batching

_JAX = ('dual', 'scan')
_TORCH = ('unrolled', 'batched', 'func', 'compile')


def _settings(request):
  sizes = {'tasks': [1, 16, 64], 'support': [5, 25], 'steps': [20, 100], 'orders': ['second', 'first'],
           'query': 75, 'dim': 640}
  if request.smoke:
    sizes = {'tasks': [1, 2], 'support': [5], 'steps': [2], 'orders': ['second'], 'query': 5, 'dim': 8}
  return {**request.common(), **sizes, 'way': 5, 'inner_lr': 0.01, 'over_tasks': task_batching.settings(request)}


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
          tasks=tasks, way=settings['way'], support=support, query=settings['query'], dim=settings['dim']))
      asked = {'inputs': path, 'inner_steps': steps, 'inner_lr': settings['inner_lr'], 'order': order}
      row = {'order': order, 'steps': steps, 'support': support, 'tasks': tasks}
      rows.append(row | _compare(sides, asked, settings['pairs'], too_long))
      report.say('inner_loop', row, rows[-1]['sides'])
  for side in sides.values():
    side.close()
  rows.sort(key=lambda row: (settings['orders'].index(row['order']), row['support'], row['steps'], row['tasks']))
  networks = task_batching.measure(settings['over_tasks'], bench, settings['pairs'])
  notes = plan.without_pytorch(settings, _TORCH) + rounds.skipped([row['sides'] for row in rows + networks])
  return {'rows': rows, 'over_tasks': networks, 'notes': notes}


def _compare(sides, asked, pairs, too_long):
  """Records of all sides, and what the PyTorch ones take over ours."""
  key = asked['order'], asked['inner_steps']
  for name, side in sides.items():
    if key[0] in too_long.get(name, {}):
      side.record = {'skip': f'{too_long[name][key[0]]} to compile fewer or as many steps'}
    elif not side.prepare(asked) and side.record['skip'].startswith('>'):
      too_long.setdefault(name, {})[key[0]] = side.record['skip']
  records = rounds.in_turn(sides, pairs)
  ours = records['jax dual']
  over = {name: rounds.ratios(record['turns'], ours['turns']) for name, record in records.items()
          if 'median' in record and 'median' in ours and name != 'jax dual'}
  torch = {name: record for name, record in records.items() if name.startswith('pytorch')}
  return {'sides': records, 'over_dual': over, 'strongest': rounds.strongest(torch)}


def _tables(results):
  names = list(results['rows'][0]['sides'])
  torch = any(name.startswith('pytorch') for name in names)
  header = ['tasks', 'support', 'steps', *(f'{name}, ms' for name in names)]
  header += ['unrolled over dual', 'strongest over dual'] if torch else ['scan over dual']
  tables = []
  for order in results['settings']['orders']:
    cells = []
    for row in (row for row in results['rows'] if row['order'] == order):
      over = row['over_dual']
      compared = ['pytorch unrolled'] if torch else ['jax scan']
      cells.append([*(str(row[name]) for name in ('tasks', 'support', 'steps')),
                    *(report.seconds(row['sides'][name], 1e3) for name in names),
                    *(report.ratio(over.get(name)) for name in compared), *([_strongest(row)] if torch else [])])
    tables.append(plan.Table(f'Value and gradient of the inner loop, {order} order', header, cells))
  return [*tables, task_batching.table(results['settings']['over_tasks'], results['over_tasks'])]


def _strongest(row):
  name = row['strongest']
  return report.NONE if name is None else f'{report.ratio(row["over_dual"].get(name))} {name.removeprefix("pytorch ")}'


def _plot(results):
  """Milliseconds against tasks, one panel per support size and number of steps, of the first order asked for."""
  settings = results['settings']
  figure = Figure(figsize=(3.2 * len(settings['steps']) + 1, 2.9 * len(settings['support'])), layout='constrained')
  panels = figure.subplots(len(settings['support']), len(settings['steps']), squeeze=False, sharex=True, sharey=True)
  for i, j in itertools.product(range(len(settings['support'])), range(len(settings['steps']))):
    support, steps = settings['support'][i], settings['steps'][j]
    rows = [row for row in results['rows'] if
            (row['order'], row['support'], row['steps']) == (settings['orders'][0], support, steps)]
    for name in rows[0]['sides']:
      report.line(panels[i, j], name, [(row['tasks'], row['sides'][name]) for row in rows], scale=1e3)
    panels[i, j].set_title(f'{support} support images, {steps} steps', fontsize='medium')
    panels[i, j].set_xscale('log', base=2)
    panels[i, j].set_xticks(settings['tasks'], [str(number) for number in settings['tasks']])
  report.label(figure, panels, 'tasks', 'milliseconds')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
