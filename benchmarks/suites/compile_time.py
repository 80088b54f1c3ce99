"""Suite compile: seconds until the first result, without and with the cache of compiled programs.

Each measurement has a fresh process; cold, its cache is an empty folder, and warm it is the one
that was just filled. The time of a steady call is taken off.
"""
import itertools
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import formatting, inputs, network_shapes, plan, plots, rounds
from benchmarks.suites.meta_step import step_request

_MODES = {'inner_loop': ('jax dual', 'jax scan', 'jax unrolled', 'pytorch compile'),
          'meta_step': ('jax float32', 'pytorch compile')}
_TORCH = ('compile',)
_TITLES = {'inner_loop': 'value and gradient of the inner loop', 'meta_step': 'meta-step'}
_ENDS = ('cold', 'warm')

# Where each side keeps compiled programs, below a folder of the measurement.
_CACHE_FOLDERS = {'jax': {'JAX_COMPILATION_CACHE_DIR': 'xla'},
                  'pytorch': {'TORCHINDUCTOR_CACHE_DIR': 'inductor'}}
# What makes it keep them, also those that compile quickly.
_CACHE_SWITCHES = {'jax': {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'},
                   'pytorch': {'TORCHINDUCTOR_FX_GRAPH_CACHE': '1',
                               'TORCHINDUCTOR_AUTOGRAD_CACHE': '1'}}


def _settings(request):
  sizes = {'steps': [5, 10, 50, 100, 200], 'image_size': 32, 'width': None, 'tasks': 2, 'way': 5,
           'query': 15, 'dim': 640}
  if request.smoke:
    sizes = {'steps': [2, 3], 'image_size': 16, 'width': 4, 'tasks': 1, 'way': 3, 'query': 2,
             'dim': 8}
  network_shapes.layers(request.networks[0], sizes['image_size'])  # refuses what it does not know
  return {**request.common(), 'network': request.networks[0], **sizes, 'shot': 1,
          'inner_lr': 0.01, 'outer_lr': 1e-3, 'order': 'second', 'norm_epsilon': 1e-5}


def _measure(settings, bench):
  rows, too_long = {}, {}
  with tempfile.TemporaryDirectory() as folder:
    paths = _inputs(settings, folder)
    for turn, steps, measure in itertools.product(range(settings['pairs']), settings['steps'],
                                                  _MODES):
      for name in _names(settings, measure):
        row = rows.setdefault((measure, name, steps), {
            'measure': measure, 'steps': steps, 'name': name, 'sides': {'cold': {}, 'warm': {}}})
        # What took too long once is not tried again, nor with more steps.
        if too_long.get((measure, name), steps + 1) <= steps:
          row['sides'] = {end: found if 'skip' in found else {'skip': f'> {settings["limit"]} s'}
                          for end, found in row['sides'].items()}
          continue
        side, mode = name.split()
        asked = _asked(settings, measure, paths[measure], steps)
        _cold_and_warm(bench, side, measure, mode, asked, row['sides'])
        if row['sides']['cold'].get('skip', '').startswith('>'):
          too_long[measure, name] = steps
        rounds.log(f'compile, round {turn + 1}', {'of': measure, 'by': name, 'steps': steps},
                   row['sides'])
  rows = list(rows.values())
  notes = plan.without_pytorch(settings, _TORCH) + _skips(rows) + _growth(rows, settings['steps'])
  return {'rows': rows, 'notes': notes}


def _names(settings, measure):
  """Returns the sides of a measure, those of PyTorch only where it is asked for."""
  return [name for name in _MODES[measure]
          if name.startswith('jax') or plan.torch_modes(settings, (name.split()[1],))]


def _skips(rows):
  """Returns the notes on missing figures, one for each reason of a row."""
  return rounds.skipped([
      {f'{row["name"]}, {row["measure"]}': {'skip': why} for why in
       {record['skip'] for record in row['sides'].values() if 'skip' in record}} for row in rows])


def _inputs(settings, folder):
  """Writes the inputs of both measures: measure -> path."""
  shape = {name: settings[name] for name in ('tasks', 'way', 'shot', 'query')}
  features = inputs.features(
      tasks=settings['tasks'], way=settings['way'], support=settings['way'] * settings['shot'],
      query=settings['way'] * settings['query'], dim=settings['dim'])
  return {'inner_loop': inputs.write(os.path.join(folder, 'features.npz'), features),
          'meta_step': inputs.write(
              os.path.join(folder, 'tasks.npz'),
              inputs.weights(settings['network'], width=settings['width']),
              inputs.tasks(image_size=settings['image_size'], **shape))}


def _asked(settings, measure, path, steps):
  if measure == 'meta_step':
    return step_request(settings | {'inner_steps': steps}, settings['network'], path)
  return {'inputs': path, 'inner_steps': steps, 'inner_lr': settings['inner_lr'],
          'order': settings['order']}


def _cold_and_warm(bench, side, measure, mode, asked, records):
  """Adds a cold and a warm measurement to `records`: seconds of a first call less a steady one."""
  with tempfile.TemporaryDirectory() as folder:
    environment = {name: os.path.join(folder, place)
                   for name, place in _CACHE_FOLDERS[side].items()} | _CACHE_SWITCHES[side]
    for end in _ENDS:  # the cold one fills the cache of the warm one
      one = rounds.Side(bench, side, measure, mode, environment)
      one.prepare(asked, warmup=1)
      found = rounds.in_turn({end: one}, 1)[end]
      one.close()
      if 'median' not in found:
        records[end] = {'skip': found['skip']}
        if end == 'cold':
          records['warm'] = records['cold']
        return
      turns = records[end].get('turns', []) + [max(0.0, found['first'] - found['median'])]
      starts = records[end].get('starts', []) + [one.start_seconds]
      setups = records[end].get('setups', []) + [one.setup['seconds']]
      records[end] = {'turns': turns, 'starts': starts, 'setups': setups, **rounds.spread(turns)}


def _growth(rows, steps):
  """Returns how much longer the most steps take than 10 of them, or than the fewest, in lines."""
  least, most, lines = 10 if 10 in steps else steps[0], steps[-1], []
  found = {(row['measure'], row['name'], row['steps']): row['sides']['cold'] for row in rows}
  for measure, names in _MODES.items():
    for name in names:
      few, many = (found.get((measure, name, number), {}) for number in (least, most))
      if few.get('median') and many.get('median') and most != least:
        quotient = formatting.number(many['median'] / few['median'])
        lines.append(f'{_TITLES[measure]}, {name}: cold, {most} steps over {least}: {quotient}')
  return lines


def _tables(results):
  tables, steps = [], results['settings']['steps']
  for measure, title in _TITLES.items():
    rows = {(row['name'], row['steps']): row['sides'] for row in results['rows']
            if row['measure'] == measure}
    columns = list(itertools.product(dict.fromkeys(name for name, _ in rows), _ENDS))
    header = ['inner steps', *(f'{name} {end}, s' for name, end in columns)]
    cells = [[str(number), *(formatting.seconds(rows[name, number][end]) for name, end in columns)]
             for number in steps]
    for label, key in (('before: start of the process, s', 'starts'),
                       ('before: setting up, s', 'setups')):
      cells.append([label, *(_over_steps(rows, name, end, key, steps) for name, end in columns)])
    title = f'Seconds until the first result of the {title}, less a steady call'
    tables.append(plan.Table(title, header, cells))
  return tables


def _over_steps(rows, name, end, key, steps):
  found = [seconds for number in steps for seconds in rows[name, number][end].get(key, [])]
  return formatting.seconds(rounds.spread(found)) if found else formatting.NONE


def _plot(results):
  """Draws seconds against inner steps, one panel per measure, cold in full and warm dashed."""
  figure = Figure(figsize=(9, 3.8), layout='constrained')
  panels = figure.subplots(1, 2, squeeze=False)
  steps = results['settings']['steps']
  for axes, (measure, title) in zip(panels[0], _TITLES.items(), strict=True):
    for name in _MODES[measure]:
      rows = sorted((row for row in results['rows']
                     if (row['measure'], row['name']) == (measure, name)),
                    key=lambda row: row['steps'])
      for end, style in zip(_ENDS, ('-', '--'), strict=True):
        plots.line(axes, name, [(row['steps'], row['sides'][end]) for row in rows],
                   linestyle=style, legend=f'{name}, {end}')
    axes.set_title(title, fontsize='medium')
    axes.set_xscale('log')
    axes.set_xticks(steps, [str(number) for number in steps])
    axes.minorticks_off()
  plots.label(figure, panels, 'inner steps', 'seconds to compile')
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, _TORCH)
