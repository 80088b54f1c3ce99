"""Suite scaling: the same outer steps on 1, 2, 4 and 8 devices; on a CPU these are simulated, and their speed is not.

Each number of devices has a process of its own.
"""
import os
import tempfile

import numpy as np
from matplotlib.figure import Figure

from benchmarks import networks, plan, report, rounds

_DIFFERENCES = ('largest_difference', 'rms_difference', 'median_difference')


def _settings(request):
  sizes = {'image_size': 32, 'width': None, 'devices': [1, 2, 4, 8], 'classes': 20, 'per_class': 20, 'steps': 10,
           'meta_batch': 8, 'way': 5, 'query': 15, 'inner_steps': 20}
  if request.smoke:
    sizes = {'image_size': 16, 'width': 4, 'devices': [1, 2], 'classes': 4, 'per_class': 5, 'steps': 2, 'meta_batch': 2,
             'way': 3, 'query': 2, 'inner_steps': 2, 'network': 'conv4'}  # which compiles in a third of the time
  networks.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], 'images': 'patterns under noise', 'shot': 1,
          'inner_lr': 0.01, 'outer_lr': 1e-3, **sizes}


def _measure(settings, bench):
  simulated = bench.platform == 'cpu'
  there = max(settings['devices']) if simulated else bench.about['jax']['devices']
  rows, notes = [], []
  with tempfile.TemporaryDirectory() as folder:
    for number in settings['devices']:
      if number > there:
        notes.append(f'{number} devices: this machine has {there}.')
        continue
      row = {'devices': number, 'sides': {'jax': _record(settings, bench, folder, number, simulated)}}
      rows.append(row | _difference(folder, number))
      report.say('scaling', {'devices': number}, row['sides'])
  if simulated:
    notes.append('Devices are simulated on one CPU: equal results and communication mean something, speed does not.')
  return {'rows': rows, 'simulated': simulated, 'notes': notes + rounds.skipped([row['sides'] for row in rows])}


def _record(settings, bench, folder, number, simulated):
  side = rounds.Side(bench, 'jax', 'scaling', 'cycle',
                      environment={'JAX_NUM_CPU_DEVICES': str(number)} if simulated else None)
  names = ('network', 'width', 'image_size', 'classes', 'per_class', 'steps', 'meta_batch', 'way', 'shot', 'query',
           'inner_steps', 'inner_lr', 'outer_lr')
  if side.prepare({'devices': number, **{name: settings[name] for name in names}},
                  warmup=0 if simulated else None):
    side.save(os.path.join(folder, f'{number}.npz'))
  record = rounds.in_turn({'jax': side}, 0 if simulated else settings['pairs'])['jax'] | side.setup
  side.close()
  if 'median' in record:
    record['tasks_per_second'] = settings['steps'] * settings['meta_batch'] / record['median']
  return record


def _difference(folder, number):
  """Largest, root mean square and median absolute difference of the parameters to those of one device."""
  one, many = (os.path.join(folder, f'{n}.npz') for n in (1, number))
  if not (os.path.exists(one) and os.path.exists(many)):
    return dict.fromkeys(_DIFFERENCES)
  ours, theirs = (np.load(path) for path in (many, one))
  gaps = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in theirs.files])
  values = gaps.max(), np.sqrt(np.mean(gaps ** 2)), np.median(gaps)
  return dict(zip(_DIFFERENCES, map(float, values), strict=True))


def _tables(results):
  settings, cells = results['settings'], []
  for row in results['rows']:
    record = row['sides']['jax']
    cell = [str(row['devices'])]
    for name in _DIFFERENCES:
      cell.append(report.NONE if row[name] is None else f'{row[name]:.1e}')
    cell += [str(record.get(name, report.NONE)) for name in ('all_reduces', 'other_collectives')]
    cell.append(f'{record["reduced_bytes"] / 1e6:.2f}' if 'reduced_bytes' in record else report.NONE)
    if not results['simulated']:
      cell.append(report.number(record['tasks_per_second']) if 'median' in record else report.NONE)
    cells.append(cell)
  header = ['devices', 'largest difference to one', 'root mean square', 'median', 'all-reduces per step',
            'other collectives', 'MB reduced per step']
  return [plan.Table(
      f'{settings["network"]}, {settings["image_size"]} pixels, {settings["steps"]} outer steps of '
      f'{settings["meta_batch"]} tasks, half of them hard: parameters, and what devices tell each other',
      header + ([] if results['simulated'] else ['tasks per s']), cells)]


def _plot(results):
  rows = results['rows']
  figure = Figure(figsize=(9, 3), layout='constrained')
  left, right = figure.subplots(1, 2)
  several = [row for row in rows if row['devices'] > 1 and row['largest_difference'] is not None]
  left.plot([row['devices'] for row in several], [row['largest_difference'] for row in several], 'o-', color='tab:red',
            label='largest')
  left.plot([row['devices'] for row in several], [row['median_difference'] for row in several], 'o--',
            color='tab:orange', label='median')
  left.set_yscale('symlog', linthresh=1e-9)
  left.set_ylabel('difference to one device')
  left.legend()
  key, name = (('reduced_bytes', 'MB reduced per step') if results['simulated'] else
               ('tasks_per_second', 'tasks per second'))
  found = [(row['devices'], row['sides']['jax'][key]) for row in rows if key in row['sides']['jax']]
  right.plot([x for x, _ in found], [y / (1e6 if results['simulated'] else 1) for _, y in found], 'o-', color='tab:red')
  right.set_ylabel(name)
  right.set_ylim(bottom=0)
  for axes in (left, right):
    axes.set_xlabel('devices')
    axes.set_xticks([row['devices'] for row in rows])
    axes.grid(alpha=0.3)
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot)
