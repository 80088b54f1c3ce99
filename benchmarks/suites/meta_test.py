"""Suite meta_test: scoring 600 and 10,000 tasks of a split, from images to accuracy.

On a CPU a PyTorch loop over 600 tasks takes half an hour, so that samples are measured and scaled unless `whole`: our
encoding by images, PyTorch's loop by tasks, and PyTorch's encoding of each image once by both.
"""
import os
import tempfile

import numpy as np
from matplotlib.figure import Figure

from benchmarks import inputs, networks, plan, report, rounds

_TORCH = ('per_task', 'encoded')


def _settings(request):
  sizes = {'image_size': 84, 'width': None, 'classes': 20, 'per_class': 600, 'num_tasks': [600, 10000],
           'sample_tasks': 4, 'sample_per_class': 16, 'way': 5, 'query': 15, 'inner_steps': 100}
  if request.smoke:  # with PyTorch at full width, which is the only one that its side has here
    sizes = {'image_size': 16, 'width': None if request.pytorch else 4, 'classes': 3, 'per_class': 6,
             'num_tasks': [4, 8], 'sample_tasks': 2, 'sample_per_class': 4, 'way': 3, 'query': 2, 'inner_steps': 2}
  networks.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], **sizes, 'shot': 1, 'inner_lr': 0.01,
          'whole': request.whole}


def _measure(settings, bench):
  with tempfile.TemporaryDirectory() as folder:
    found = _whole(settings, bench, folder) if settings['whole'] else _sampled(settings, bench, folder)
  rows = [{'num_tasks': number, 'sides': _sides(found, number), 'over': _over(found, number)}
          for number in settings['num_tasks']]
  for row in rows:
    report.say('meta_test', {'tasks': row['num_tasks']}, row['sides'])
  return {'rows': rows, 'measured': found,
          'notes': plan.without_pytorch(settings, _TORCH) + rounds.skipped([found]) + _scaling_notes(settings)}


def _asked(settings, path, num_tasks):
  names = ('network', 'way', 'shot', 'query', 'inner_steps', 'inner_lr')
  return {'inputs': path, 'num_tasks': num_tasks, **{name: settings[name] for name in names}}


def _split(settings, folder, per_class):
  return inputs.write(os.path.join(folder, f'split{per_class}.npz'),
                      inputs.weights(settings['network'], width=settings['width']),
                      inputs.images(classes=settings['classes'], per_class=per_class,
                                    image_size=settings['image_size']))


def _whole(settings, bench, folder):
  """Side and number of tasks -> record."""
  path, found = _split(settings, folder, settings['per_class']), {}
  modes = plan.torch_modes(settings, _TORCH)
  for number in settings['num_tasks']:
    sides = {'jax encoded': rounds.Side(bench, 'jax', 'meta_test', 'encoded')}
    sides |= {f'pytorch {mode}': rounds.Side(bench, 'pytorch', 'meta_test', mode) for mode in modes}
    for name, record in _all(sides, dict.fromkeys(sides, _asked(settings, path, number)), settings['pairs']).items():
      found[f'{name} {number}'] = record
  return found


def _sampled(settings, bench, folder):
  """Part, or side and number of tasks -> record."""
  few, small = settings['sample_tasks'], settings['num_tasks'][0]
  sample = _split(settings, folder, settings['sample_per_class'])
  # The least images that tasks can be drawn from: their time goes into the tasks.
  least = _split(settings | {'classes': settings['way']}, folder, settings['shot'] + settings['query'])
  dim = networks.FEATURES[settings['network']] * (settings['width'] or networks.WIDTHS[settings['network']])
  features = inputs.write(os.path.join(folder, 'features.npz'), inputs.split_features(
      classes=settings['classes'], per_class=settings['per_class'], dim=dim))
  parts = {'jax encode': ('encode', sample, few)}
  parts |= {f'jax tasks {number}': ('tasks', features, number) for number in settings['num_tasks']}
  modes = plan.torch_modes(settings, _TORCH)
  parts |= {'pytorch per_task': ('per_task', sample, few)} if 'per_task' in modes else {}
  if 'encoded' in modes:
    parts |= {'pytorch encoded, images': ('encoded', sample, few), 'pytorch encoded, tasks': ('encoded', least, small)}
  sides = {name: rounds.Side(bench, name.split()[0], 'meta_test', mode) for name, (mode, _, _) in parts.items()}
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
  """The times of whole evaluations, round by round, from those of their parts."""
  images, sample = (settings['classes'] * settings[name] for name in ('per_class', 'sample_per_class'))
  turns = {name: np.array(record['turns']) for name, record in records.items() if 'median' in record}
  least = settings['way'] * (settings['shot'] + settings['query'])
  whole = {}
  for number in settings['num_tasks']:
    if {'jax encode', f'jax tasks {number}'} <= set(turns):
      whole[f'jax encoded {number}'] = turns['jax encode'] * images / sample + turns[f'jax tasks {number}']
    if 'pytorch per_task' in turns:
      whole[f'pytorch per_task {number}'] = turns['pytorch per_task'] * number / settings['sample_tasks']
    if {'pytorch encoded, images', 'pytorch encoded, tasks'} <= set(turns):
      # sample * a + few * b and least * a + many * b are known: per image a, per task b.
      known = np.array([[sample, settings['sample_tasks']], [least, settings['num_tasks'][0]]])
      a, b = np.linalg.solve(known, [turns['pytorch encoded, images'], turns['pytorch encoded, tasks']])
      whole[f'pytorch encoded {number}'] = images * a + number * b
  return {name: {'turns': values.tolist(), **rounds.spread(values.tolist())} for name, values in whole.items()}


def _sides(found, number):
  """Name of the side -> its record for a number of tasks."""
  names = ('jax encoded', *(f'pytorch {mode}' for mode in _TORCH))
  return {name: found[f'{name} {number}'] for name in names if f'{name} {number}' in found}


def _over(found, number):
  sides = _sides(found, number)
  ours = sides.get('jax encoded', {})
  return {name: rounds.ratios(record['turns'], ours['turns']) for name, record in sides.items()
          if name != 'jax encoded' and 'median' in record and 'median' in ours}


def _scaling_notes(settings):
  if settings['whole']:
    return ['Nothing is scaled. First calls, which compile, are apart.']
  sample, images = (settings['classes'] * settings[name] for name in ('sample_per_class', 'per_class'))
  tasks = ' and '.join(f'{number:,}' for number in settings['num_tasks'])
  notes = [f'Scaled: the library encodes {sample} images in each round, counted {images / sample:g}-fold for the '
           f'{images:,} of the split; its tasks ({tasks}) run in full.']
  modes = plan.torch_modes(settings, _TORCH)
  if 'per_task' in modes:
    notes.append(f'Scaled: PyTorch per_task runs {settings["sample_tasks"]} tasks in each round.')
  if 'encoded' in modes:
    least = settings['way'] * (settings['shot'] + settings['query'])
    notes.append(f'Scaled: PyTorch encoded runs {sample} images with {settings["sample_tasks"]} tasks, and {least} '
                 f'images with {settings["num_tasks"][0]} tasks, in each round; these give its time per image and per '
                 'task.')
  return [*notes, '--whole runs everything in full. First calls, which compile, are apart.']


def _tables(results):
  settings, rows = results['settings'], results['rows']
  names = list(rows[0]['sides'])
  others = [name for name in names if name != 'jax encoded']
  header = ['tasks', *(f'{name}, s' for name in names), *(f'{name} over ours' for name in others)]
  cells = []
  for row in rows:
    cells.append([f'{row["num_tasks"]:,}', *(report.seconds(row['sides'].get(name)) for name in names),
                  *(report.ratio(row['over'].get(name)) for name in others)])
  return [plan.Table(
      f'{settings["network"]}, {settings["image_size"]} pixels, {settings["classes"] * settings["per_class"]:,} images '
      f'of {settings["classes"]} classes; {settings["way"]}-way {settings["shot"]}-shot, {settings["query"]} queries, '
      f'{settings["inner_steps"]} inner steps', header, cells)]


def _plot(results):
  rows = results['rows']
  figure = Figure(figsize=(4.5 * len(rows), 2.2), layout='constrained')
  for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
    report.bars(axes, row['sides'], log=True)
    axes.set_xlabel('seconds')
    axes.set_title(f'{row["num_tasks"]:,} tasks', fontsize='medium')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
