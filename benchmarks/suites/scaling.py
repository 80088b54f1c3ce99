"""Suite scaling: the same outer steps on 1, 2, 4 and 8 devices.

On a CPU devices are simulated, and their speed means nothing. Each number of devices has a process
of its own. Simulated devices compute in float32, as everywhere, and in float64: there rounding
stays at some 1e-16, and anything far above would be an error of the parallel form. In float32
rounding can put an activation on the other side of a kink (leaky ReLU, max-pool), and Adam, whose
steps do not shrink with the gradient, turns that into a part of its rate where the gradient is
small.

One source of other rounding is the compiler: whether it fuses a product and a sum into one
instruction (FMA) depends on the program around them. A third row, on x86, compiles for processors
that have no such instruction. Where each device then has one task, what is left, the order of the
sum over tasks, is the same too.
"""
import os
import platform
import tempfile

import numpy as np
from matplotlib.figure import Figure

from benchmarks import formatting, network_shapes, plan, rounds
from mtl_jax.runs import xla

_NUMBERS = {'float64': 'float64', 'float32': 'float32', 'unfused': 'float32, no fused multiply-add'}
_FAR = 1e-5  # what `share_above` counts
_DIFFERENCES = {'largest_difference': 'largest difference to one',
                'rms_difference': 'root mean square', 'median_difference': 'median',
                'share_above': 'above 1e-5'}
_ASKED = ('network', 'width', 'image_size', 'classes', 'per_class', 'steps', 'meta_batch', 'way',
          'shot', 'query', 'inner_steps', 'inner_lr', 'outer_lr')
_NO_FMA = '--xla_cpu_max_isa=AVX'  # the newest instruction set of x86 without fused multiply-adds


def _settings(request):
  sizes = {'image_size': 32, 'width': None, 'devices': [1, 2, 4, 8], 'classes': 20, 'per_class': 20,
           'steps': 10, 'meta_batch': 8, 'way': 5, 'query': 3, 'inner_steps': 20}
  if request.smoke:
    sizes = {'image_size': 16, 'width': 4, 'devices': [1, 2], 'classes': 4, 'per_class': 5,
             'steps': 2, 'meta_batch': 2, 'way': 3, 'query': 2, 'inner_steps': 2}
  network_shapes.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], 'images': 'patterns under noise',
          'shot': 1, 'inner_lr': 0.01, 'outer_lr': 1e-3, **sizes}


def _measure(settings, bench):
  simulated = bench.platform == 'cpu'
  there = max(settings['devices']) if simulated else bench.about['jax']['devices']
  kinds = _kinds() if simulated else ('float32',)
  rows, notes = [], []
  with tempfile.TemporaryDirectory() as folder:
    for number in settings['devices']:
      if number > there:
        notes.append(f'{number} devices: this machine has {there}.')
        continue
      sides = {f'jax {kind}': _record(settings, bench, folder, number, kind, simulated)
               for kind in kinds}
      rows.append({'devices': number, 'sides': sides})
      rounds.log('scaling', {'devices': number}, sides)
  if simulated:
    notes.append('Devices are simulated on one CPU: equal results and communication mean '
                 'something, speed does not.')
  notes += rounds.skipped([row['sides'] for row in rows])
  return {'rows': rows, 'simulated': simulated, 'notes': notes}


def _kinds():
  """Returns the ways of computing; only x86 can go without fused multiply-adds."""
  on_x86 = platform.machine() in ('x86_64', 'AMD64')
  return [kind for kind in _NUMBERS if kind != 'unfused' or on_x86]


def _record(settings, bench, folder, number, kind, simulated):
  """Measures one number of devices; one device comes first and leaves what others compare with."""
  side = rounds.Side(bench, 'jax', 'scaling', 'float64' if kind == 'float64' else 'float32',
                     _environment(settings, kind) if simulated else None)
  one, path = (os.path.join(folder, f'{n}_{kind}.npz') for n in (1, number))
  difference = {}
  if side.prepare({'devices': number, **{name: settings[name] for name in _ASKED}},
                  warmup=0 if simulated else None):
    side.save(path)
    difference = _difference(one, path) if os.path.exists(one) else {}
  pairs = 0 if simulated else settings['pairs']
  record = rounds.in_turn({'jax': side}, pairs)['jax'] | side.setup | difference
  side.close()
  if 'median' in record:
    record['tasks_per_second'] = settings['steps'] * settings['meta_batch'] / record['median']
  return record


def _environment(settings, kind):
  """Returns the variables of a worker with simulated devices."""
  # One device is one of as many simulated ones: XLA has no fewer threads than devices, and how it
  # rounds depends on its threads.
  found = {'JAX_NUM_CPU_DEVICES': str(max(settings['devices']))}
  if kind == 'unfused':
    flags = os.environ.get('XLA_FLAGS', xla.cpu_flags())
    found['XLA_FLAGS'] = f'{flags} {_NO_FMA}'.strip()
  return found


def _difference(one, many):
  """Compares the parameters to those of one device: the `_DIFFERENCES`, of absolute values."""
  with np.load(many) as ours, np.load(one) as theirs:
    gaps = np.concatenate([np.abs(ours[name] - theirs[name]).ravel() for name in theirs.files])
  values = gaps.max(), np.sqrt(np.mean(gaps ** 2)), np.median(gaps), np.mean(gaps > _FAR)
  return dict(zip(_DIFFERENCES, map(float, values), strict=True))


def _tables(results):
  settings, simulated = results['settings'], results['simulated']
  header = ['devices', 'numbers', *_DIFFERENCES.values(), 'all-reduces per step',
            'other collectives', 'MB reduced per step', *([] if simulated else ['tasks per s'])]
  cells = [[str(row['devices']), _NUMBERS[name.removeprefix('jax ')], *_cells(record, simulated)]
           for row in results['rows'] for name, record in row['sides'].items()]
  title = (f'{settings["network"]}, {settings["image_size"]} pixels, {settings["steps"]} outer '
           f'steps of {settings["meta_batch"]} tasks, half of them hard: parameters, and what '
           'devices send each other')
  return [plan.Table(title, header, cells)]


def _cells(record, simulated):
  none = formatting.NONE
  cells = [_difference_text(name, record.get(name)) for name in _DIFFERENCES]
  cells += [str(record.get(name, none)) for name in ('all_reduces', 'other_collectives')]
  cells.append(f'{record["reduced_bytes"] / 1e6:.2f}' if 'reduced_bytes' in record else none)
  if not simulated:
    cells.append(formatting.number(record['tasks_per_second']) if 'median' in record else none)
  return cells


def _difference_text(name, value):
  if value is None:
    return formatting.NONE
  return f'{100 * value:.1f}%' if name == 'share_above' else f'{value:.1e}'


def _plot(results):
  """Draws differences to one device on the left, speed or communication on the right."""
  rows = results['rows']
  figure = Figure(figsize=(9, 3), layout='constrained')
  left, right = figure.subplots(1, 2)
  _plot_differences(left, rows)
  key, name, unit = (('reduced_bytes', 'MB reduced per step', 1e6) if results['simulated'] else
                     ('tasks_per_second', 'tasks per second', 1))
  found = [(row['devices'], row['sides']['jax float32'][key]) for row in rows
           if key in row['sides']['jax float32']]
  right.plot([x for x, _ in found], [y / unit for _, y in found], 'o-', color='tab:red')
  right.set_ylabel(name)
  right.set_ylim(bottom=0)
  for axes in (left, right):
    axes.set_xlabel('devices')
    axes.set_xticks([row['devices'] for row in rows])
    axes.grid(alpha=0.3)
  return figure


def _plot_differences(axes, rows):
  colors = {'float32': 'tab:orange', 'unfused': 'tab:red', 'float64': 'tab:blue'}
  for kind, color in colors.items():
    found = [(row['devices'], row['sides'].get(f'jax {kind}', {}).get('largest_difference'))
             for row in rows]
    found = [(number, gap) for number, gap in found if number > 1 and gap is not None]
    if found:
      axes.plot(*zip(*found, strict=True), 'o-', color=color, label=_NUMBERS[kind])
  axes.set_yscale('symlog', linthresh=1e-17)  # no difference at all is shown, at zero
  axes.axhline(_FAR, color='gray', linestyle=':')
  axes.set_ylabel('largest difference to one device')
  axes.legend(fontsize='small')


SUITE = plan.Suite(_settings, _measure, _tables, _plot)
