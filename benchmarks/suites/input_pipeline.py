"""Suite input: images per second into the step.

This library draws and augments them on the device; PyTorch has a DataLoader over image files.
"""
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import formatting, inputs, network_shapes, plan, plots, rounds
from benchmarks.suites.meta_step import step_request

_ENDINGS = ('png', 'jpg')
_TORCH = ('loader',)
_OURS = 'jax device'


def _settings(request):
  sizes = {'image_size': 84, 'width': None, 'classes': 64, 'per_class': 600, 'files_per_class': 40,
           'batches': 10, 'tasks': 4, 'way': 5, 'query': 15, 'inner_steps': 20}
  if request.smoke:
    sizes = {'image_size': 16, 'width': 4, 'classes': 3, 'per_class': 6, 'files_per_class': 4,
             'batches': 2, 'tasks': 2, 'way': 3, 'query': 2, 'inner_steps': 2}
  network_shapes.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], **sizes, 'shot': 1, 'workers': 2,
          'inner_lr': 0.01, 'outer_lr': 1e-3, 'order': 'second', 'norm_epsilon': 1e-5}


def _measure(settings, bench):
  pytorch = bool(plan.torch_modes(settings, _TORCH))
  with tempfile.TemporaryDirectory() as folder:
    records = _records(settings, bench, folder, pytorch)
    step = _step(settings, bench, folder)
  images = settings['tasks'] * settings['way'] * (settings['shot'] + settings['query'])
  for record in records.values():
    if 'median' in record:
      record['images_per_second'] = images * settings['batches'] / record['median']
      record['tasks_per_second'] = settings['tasks'] * settings['batches'] / record['median']
      # Below 1, a step on the device hides the input behind it.
      record['share_of_step'] = (record['median'] / settings['batches'] / step['median']
                                 if 'median' in step else None)
  rounds.log('input', {'batches': settings['batches']}, records)
  ours = records[_OURS]
  over = {name: rounds.ratios(record['turns'], ours['turns']) for name, record in records.items()
          if name != _OURS and 'median' in record and 'median' in ours}
  notes = [*plan.without_pytorch(settings, _TORCH),
           *rounds.skipped([records, {'the meta-step': step}]), *_notes(settings, step, pytorch)]
  return {'rows': [{'sides': records, 'over': over, 'step': step}], 'notes': notes}


def _records(settings, bench, folder, pytorch):
  """Measures the input of all sides: name -> record."""
  asked = {name: settings[name]
           for name in ('tasks', 'way', 'shot', 'query', 'image_size', 'batches')}
  pool = inputs.write(os.path.join(folder, 'pool.npz'), inputs.images(
      classes=settings['classes'], per_class=settings['per_class'],
      image_size=settings['image_size']))
  sides = {_OURS: rounds.Side(bench, 'jax', 'input', 'device')}
  sides[_OURS].prepare(asked | {'inputs': pool})
  for ending in _ENDINGS if pytorch else ():
    files = inputs.image_folder(
        os.path.join(folder, ending), ending=ending, classes=settings['classes'],
        per_class=settings['files_per_class'], image_size=settings['image_size'])
    side = sides[f'pytorch loader {ending}'] = rounds.Side(bench, 'pytorch', 'input', 'loader')
    side.prepare(asked | {'folder': files, 'workers': settings['workers']})
  records = rounds.in_turn(sides, settings['pairs'])
  for side in sides.values():
    side.close()
  return records


def _step(settings, bench, folder):
  """Measures this library's meta-step on as many tasks: a record."""
  names = ('tasks', 'way', 'shot', 'query', 'image_size')
  path = inputs.write(os.path.join(folder, 'step.npz'),
                      inputs.weights(settings['network'], width=settings['width']),
                      inputs.tasks(**{name: settings[name] for name in names}))
  side = rounds.Side(bench, 'jax', 'meta_step', 'float32')
  side.prepare(step_request(settings, settings['network'], path))
  record = rounds.in_turn({'step': side}, settings['pairs'])['step']
  side.close()
  return record


def _notes(settings, step, pytorch):
  images, files = (settings['classes'] * settings[name]
                   for name in ('per_class', 'files_per_class'))
  notes = [f'The library draws from {images:,} images in the memory of its device.']
  if 'median' in step:
    notes.append(f'A step: that of {settings["network"]} on {settings["tasks"]} tasks by the '
                 f'library, {formatting.seconds(step)} s (measured {len(step["turns"])} times).')
  if pytorch:
    notes.append(f'PyTorch: DataLoader with {settings["workers"]} processes and PIL, over '
                 f'{files:,} files, which the system holds in memory.')
  return notes


def _tables(results):
  row, settings = results['rows'][0], results['settings']
  cells = []
  for name, record in row['sides'].items():
    if 'median' in record:
      share = record['share_of_step']
      cells.append([name, formatting.number(record['tasks_per_second']),
                    formatting.number(record['images_per_second']),
                    formatting.number(1e3 * record['median'] / settings['batches']),
                    formatting.NONE if share is None else f'{formatting.number(100 * share)}%',
                    formatting.ratio(row['over'].get(name))])
  title = (f'{settings["tasks"]} tasks of {settings["way"]}-way {settings["shot"]}-shot with '
           f'{settings["query"]} queries, {settings["image_size"]} pixels, cropped, flipped and '
           'normalised')
  header = ['side', 'tasks per s', 'images per s', 'ms per meta-batch', 'share of a step',
            'time over ours']
  return [plan.Table(title, header, cells)]


def _plot(results):
  """Draws images per second."""
  figure = Figure(figsize=(6, 2), layout='constrained')
  axes = figure.subplots()
  plots.bars(axes, results['rows'][0]['sides'], key='images_per_second', log=True)
  axes.set_xlabel('images per second')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
