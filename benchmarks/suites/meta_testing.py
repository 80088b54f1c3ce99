"""Suite meta_test: scoring 600 and 10,000 tasks of a split, from images to accuracy.

On a CPU a PyTorch loop over 600 tasks takes half an hour, so that samples are measured and scaled
unless `whole`: our encoding by images, PyTorch's loop by tasks, and PyTorch's encoding of each
image once by both.
"""
import os
import tempfile

import numpy as np
from matplotlib.figure import Figure

from benchmarks import formatting, inputs, network_shapes, plan, plots, rounds

_TORCH = ('per_task', 'encoded')
_OURS = 'jax encoded'


def _settings(request):
  sizes = {'image_size': 84, 'width': None, 'classes': 20, 'per_class': 600,
           'num_tasks': [600, 10000], 'sample_tasks': 4, 'sample_per_class': 16, 'way': 5,
           'query': 15, 'inner_steps': 100}
  if request.smoke:  # with PyTorch at full width, which is the only one that its side has here
    sizes = {'image_size': 16, 'width': None if request.pytorch else 4, 'classes': 3,
             'per_class': 6, 'num_tasks': [4, 8], 'sample_tasks': 2, 'sample_per_class': 4,
             'way': 3, 'query': 2, 'inner_steps': 2}
  network_shapes.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], **sizes, 'shot': 1,
          'inner_lr': 0.01, 'whole': request.whole}


def _measure(settings, bench):
  with tempfile.TemporaryDirectory() as folder:
    measure = _whole if settings['whole'] else _sampled
    found = measure(settings, bench, folder)
  rows = [{'num_tasks': number, 'sides': _sides(found, number), 'over': _over(found, number)}
          for number in settings['num_tasks']]
  for row in rows:
    rounds.log('meta_test', {'tasks': row['num_tasks']}, row['sides'])
  notes = [*plan.without_pytorch(settings, _TORCH), *rounds.skipped([found]),
           *_scaling_notes(settings)]
  return {'rows': rows, 'measured': found, 'notes': notes}


def _asked(settings, path, num_tasks):
  names = ('network', 'way', 'shot', 'query', 'inner_steps', 'inner_lr')
  return {'inputs': path, 'num_tasks': num_tasks, **{name: settings[name] for name in names}}


def _split(settings, folder, per_class):
  """Writes weights and the images of a split with so many images of each class: path."""
  return inputs.write(
      os.path.join(folder, f'split{per_class}.npz'),
      inputs.weights(settings['network'], width=settings['width']),
      inputs.images(classes=settings['classes'], per_class=per_class,
                    image_size=settings['image_size']))


def _whole(settings, bench, folder):
  """Measures everything in full: side and number of tasks -> record."""
  path, found = _split(settings, folder, settings['per_class']), {}
  modes = plan.torch_modes(settings, _TORCH)
  for number in settings['num_tasks']:
    sides = {_OURS: rounds.Side(bench, 'jax', 'meta_test', 'encoded')}
    sides |= {f'pytorch {mode}': rounds.Side(bench, 'pytorch', 'meta_test', mode)
              for mode in modes}
    asked = dict.fromkeys(sides, _asked(settings, path, number))
    for name, record in _all(sides, asked, settings['pairs']).items():
      found[f'{name} {number}'] = record
  return found


def _sampled(settings, bench, folder):
  """Measures samples: part, or side and number of tasks -> record."""
  few, small = settings['sample_tasks'], settings['num_tasks'][0]
  sample = _split(settings, folder, settings['sample_per_class'])
  # The least images that tasks can be drawn from: their time goes into the tasks.
  least = _split(settings | {'classes': settings['way']}, folder,
                 settings['shot'] + settings['query'])
  width = settings['width'] or network_shapes.WIDTHS[settings['network']]
  features = inputs.write(os.path.join(folder, 'features.npz'), inputs.split_features(
      classes=settings['classes'], per_class=settings['per_class'],
      dim=network_shapes.FEATURES[settings['network']] * width))
  # Name -> mode, inputs, number of tasks.
  parts = {'jax encode': ('encode', sample, few)}
  parts |= {f'jax tasks {number}': ('tasks', features, number)
            for number in settings['num_tasks']}
  modes = plan.torch_modes(settings, _TORCH)
  if 'per_task' in modes:
    parts['pytorch per_task'] = ('per_task', sample, few)
  if 'encoded' in modes:
    parts['pytorch encoded, images'] = ('encoded', sample, few)
    parts['pytorch encoded, tasks'] = ('encoded', least, small)
  sides = {name: rounds.Side(bench, name.split()[0], 'meta_test', mode)
           for name, (mode, _, _) in parts.items()}
  asked = {name: _asked(settings, path, number) for name, (_, path, number) in parts.items()}
  records = _all(sides, asked, settings['pairs'])
  return records | _scaled(records, settings)


def _all(sides, asked, pairs):
  for name, side in sides.items():
    side.prepare(asked[name])
  records = rounds.in_turn(sides, pairs)
  for side in sides.values():
    side.close()
  return records


def _scaled(records, settings):
  """Computes the times of whole evaluations, round by round, from those of their parts."""
  images, sample = (settings['classes'] * settings[name]
                    for name in ('per_class', 'sample_per_class'))
  turns = {name: np.array(record['turns']) for name, record in records.items()
           if 'median' in record}
  whole = {}
  for number in settings['num_tasks']:
    if {'jax encode', f'jax tasks {number}'} <= set(turns):
      encode = turns['jax encode'] * images / sample
      whole[f'{_OURS} {number}'] = encode + turns[f'jax tasks {number}']
    if 'pytorch per_task' in turns:
      share = number / settings['sample_tasks']
      whole[f'pytorch per_task {number}'] = turns['pytorch per_task'] * share
    if {'pytorch encoded, images', 'pytorch encoded, tasks'} <= set(turns):
      per_image, per_task = _torch_rates(turns, settings, sample)
      whole[f'pytorch encoded {number}'] = images * per_image + number * per_task
  return {name: {'turns': values.tolist(), **rounds.spread(values.tolist())}
          for name, values in whole.items()}


def _torch_rates(turns, settings, sample):
  """Solves for PyTorch's seconds per image and per task, in each round.

  Known are the times of two sums: sample * a + few * b and least * a + many * b.
  """
  least = settings['way'] * (settings['shot'] + settings['query'])
  numbers = np.array([[sample, settings['sample_tasks']], [least, settings['num_tasks'][0]]])
  return np.linalg.solve(numbers, [turns['pytorch encoded, images'],
                                   turns['pytorch encoded, tasks']])


def _sides(found, number):
  """Returns name of the side -> its record for a number of tasks."""
  names = (_OURS, *(f'pytorch {mode}' for mode in _TORCH))
  return {name: found[f'{name} {number}'] for name in names if f'{name} {number}' in found}


def _over(found, number):
  sides = _sides(found, number)
  ours = sides.get(_OURS, {})
  return {name: rounds.ratios(record['turns'], ours['turns']) for name, record in sides.items()
          if name != _OURS and 'median' in record and 'median' in ours}


def _scaling_notes(settings):
  if settings['whole']:
    return ['Nothing is scaled. First calls, which compile, are apart.']
  sample, images = (settings['classes'] * settings[name]
                    for name in ('sample_per_class', 'per_class'))
  tasks = ' and '.join(f'{number:,}' for number in settings['num_tasks'])
  notes = [f'Scaled: the library encodes {sample} images in each round, counted '
           f'{images / sample:g}-fold for the {images:,} of the split; its tasks ({tasks}) run in '
           'full.']
  modes, few = plan.torch_modes(settings, _TORCH), settings['sample_tasks']
  if 'per_task' in modes:
    notes.append(f'Scaled: PyTorch per_task runs {few} tasks in each round.')
  if 'encoded' in modes:
    least = settings['way'] * (settings['shot'] + settings['query'])
    notes.append(f'Scaled: PyTorch encoded runs {sample} images with {few} tasks, and {least} '
                 f'images with {settings["num_tasks"][0]} tasks, in each round; these give its '
                 'time per image and per task.')
  return [*notes, '--whole runs everything in full. First calls, which compile, are apart.']


def _tables(results):
  settings, rows = results['settings'], results['rows']
  names = list(rows[0]['sides'])
  others = [name for name in names if name != _OURS]
  header = ['tasks', *(f'{name}, s' for name in names), *(f'{name} over ours' for name in others)]
  cells = [[f'{row["num_tasks"]:,}',
            *(formatting.seconds(row['sides'].get(name)) for name in names),
            *(formatting.ratio(row['over'].get(name)) for name in others)] for row in rows]
  images = settings['classes'] * settings['per_class']
  title = (f'{settings["network"]}, {settings["image_size"]} pixels, {images:,} images of '
           f'{settings["classes"]} classes; {settings["way"]}-way {settings["shot"]}-shot, '
           f'{settings["query"]} queries, {settings["inner_steps"]} inner steps')
  return [plan.Table(title, header, cells)]


def _plot(results):
  """Draws seconds, one panel per number of tasks."""
  rows = results['rows']
  figure = Figure(figsize=(4.5 * len(rows), 2.2), layout='constrained')
  for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
    plots.bars(axes, row['sides'], log=True)
    axes.set_xlabel('seconds')
    axes.set_title(f'{row["num_tasks"]:,} tasks', fontsize='medium')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
