"""Suite meta_step: one outer step of meta-training, with Adam, of a whole network."""
import itertools
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import flops, formatting, inputs, network_shapes, plan, plots, rounds
from benchmarks.suites import peaks

# The modes of pytorch/modes.py, which this process can't import without PyTorch.
TORCH = ('published', 'channels_last', 'batched', 'batched_channels_last', 'folded', 'func',
         'compile', 'compile_channels_last', 'compile_folded', 'tf32', 'bf16', 'compile_bf16',
         'compile_folded_bf16', 'cuda_graphs', 'cuda_graphs_folded')
_TASK = ('tasks', 'way', 'shot', 'query')


def _settings(request):
  task = {'tasks': request.tasks, 'way': 5, 'shot': 1, 'query': 15, 'inner_steps': 20}
  sizes, width, peak_sizes = list(request.image_sizes), None, {'cpu': 2048, 'accelerator': 8192}
  if request.smoke:
    task = {'tasks': 2, 'way': 3, 'shot': 1, 'query': 2, 'inner_steps': 2}
    sizes, width, peak_sizes = [16], 4, {'cpu': 64, 'accelerator': 64}
  for network in request.networks:
    network_shapes.layers(network, sizes[0])  # refuses what it does not know
  return {**request.common(), 'networks': list(request.networks), 'image_sizes': sizes,
          'width': width, **task, 'inner_lr': 0.01, 'outer_lr': 1e-3, 'order': 'second',
          'norm_epsilon': 1e-5, 'peak_sizes': peak_sizes}


def step_request(settings: dict, network: str, path: str) -> dict:
  """Returns the settings of the measure `meta_step`.

  Args:
    settings: of a suite.
    network: its name.
    path: of the inputs file.

  Returns:
    The settings that a worker gets.
  """
  names = ('width', 'inner_steps', 'inner_lr', 'outer_lr', 'order', 'norm_epsilon')
  return {'inputs': path, 'network': network, **{name: settings[name] for name in names}}


def _measure(settings, bench):
  modes = plan.torch_modes(settings, TORCH)
  found = peaks.measure(bench, settings['peak_sizes'])
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for network, size in itertools.product(settings['networks'], settings['image_sizes']):
      path = inputs.write(
          os.path.join(folder, 'inputs.npz'), inputs.weights(network, width=settings['width']),
          inputs.tasks(image_size=size, **{name: settings[name] for name in _TASK}))
      row = {'network': network, 'image_size': size}
      asked = step_request(settings, network, path)
      records, over = _compare(bench, asked, settings['pairs'], modes)
      rounds.log('meta_step', row, records)
      rows.append(row | _figures(row, records, settings, found) | {'over': over})
  notes = [*plan.without_pytorch(settings, TORCH), *rounds.skipped([row['sides'] for row in rows]),
           *peaks.notes(found), *_loss_notes(rows)]
  return {'rows': rows, 'peaks': found, 'notes': notes}


def _compare(bench, asked, pairs, modes):
  """Returns the records of all sides, and ours -> theirs -> quotients of times, turn by turn.

  Ours stay, while each mode of PyTorch comes and goes: a process of its own, so that its memory is
  its own.
  """
  modes_of_ours = ('float32', 'all_tasks' if bench.platform == 'cpu' else 'bfloat16')
  ours = {f'jax {mode}': rounds.Side(bench, 'jax', 'meta_step', mode) for mode in modes_of_ours}
  records, over = {}, {name: {} for name in ours}
  for side in ours.values():
    side.prepare(asked)
  for mode in modes:
    other, name = rounds.Side(bench, 'pytorch', 'meta_step', mode), f'pytorch {mode}'
    if other.prepare(asked):
      found = rounds.in_turn(ours | {name: other}, pairs)
      records[name] = found.pop(name)
      for own, record in found.items():
        turns = record.get('turns', [])[-pairs:]
        if 'median' in records[name] and len(turns) == pairs:
          over[own][name] = rounds.ratios(records[name]['turns'], turns)
    else:
      records[name] = other.record
    other.close()
  # Where PyTorch had a turn, ours had theirs beside it.
  pytorch_ran = any('turns' in record for record in records.values())
  found = rounds.in_turn(ours, 0 if pytorch_ran else pairs)
  for side in ours.values():
    side.close()
  return found | records, over


def _figures(row, records, settings, found):
  """Derives tasks per second, and the share of the peak of a matrix product, from the times."""
  count = flops.meta_step(
      row['network'], row['image_size'], width=settings['width'],
      inner_steps=settings['inner_steps'], **{name: settings[name] for name in _TASK})
  for name, record in records.items():
    if 'median' in record:
      record['tasks_per_second'] = settings['tasks'] / record['median']
      record['share_of_peak'] = count.flops / record['median'] / peaks.of(name, found)
  torch = {name: record for name, record in records.items() if name.startswith('pytorch')}
  return {'sides': records, 'flops': count.flops, 'strongest': rounds.strongest(torch)}


def _loss_notes(rows):
  """Compares the first losses: both sides start from the same numbers, so they must agree."""
  gaps = []
  for row in rows:
    losses = [record['first_value'] for record in row['sides'].values() if 'first_value' in record]
    gaps += [(max(losses) - min(losses)) / abs(min(losses))] if len(losses) > 1 else []
  return [f'Losses of the first step differ between sides by at most {max(gaps):.1e} of their '
          'value.'] if gaps else []


def _tables(results):
  return [_table(row, results['settings']) for row in results['rows']]


def _table(row, settings):
  """Formats the sides of one network and size; those that failed are notes, but for the slow."""
  ours = next(iter(row['sides']))  # float32
  compared = [name for name in row['over'] if row['over'][name]]
  header = ['side', 's per step', 'tasks per s', 'share of peak', 'peak memory, MB',
            'memory over ours', *(f'time over {name.removeprefix("jax ")}' for name in compared)]
  cells = []
  for name, record in row['sides'].items():
    if 'median' in record:
      mark = ' (strongest)' if name == row['strongest'] else ''
      cells.append([
          name + mark, formatting.seconds(record), formatting.number(record['tasks_per_second']),
          f'{100 * record["share_of_peak"]:.0f}%', *_memory(record, row['sides'][ours]),
          *(formatting.ratio(row['over'][other].get(name)) for other in compared)])
    elif record['skip'].startswith('>'):
      cells.append([name, record['skip'], *[formatting.NONE] * (len(header) - 2)])
  title = (f'{row["network"]}, {row["image_size"]} pixels: {settings["tasks"]} tasks of '
           f'{settings["way"]}-way {settings["shot"]}-shot with {settings["query"]} queries, '
           f'{settings["inner_steps"]} inner steps, {settings["order"]} order, '
           f'{formatting.number(row["flops"] / 1e9)} GFLOP')
  return plan.Table(title, header, cells)


def _memory(record, ours):
  """Returns the cells of the peak memory, and of its quotient to ours."""
  peak, own = record.get('peak_bytes'), ours.get('peak_bytes')
  return [formatting.NONE if peak is None else f'{peak / 1e6:,.0f}',
          formatting.NONE if not (peak and own) else formatting.number(peak / own)]


def _plot(results):
  """Draws seconds and peak memory, one row of panels per network and size."""
  rows = results['rows']
  bars = max(len(row['sides']) for row in rows)
  figure = Figure(figsize=(9, (0.3 * bars + 1.1) * len(rows)), layout='constrained')
  for panels, row in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
    plots.bars(panels[0], row['sides'])
    plots.bars(panels[1], row['sides'], scale=1e-6, key='peak_bytes')
    panels[0].set_title(f'{row["network"]}, {row["image_size"]} pixels', fontsize='medium')
    panels[0].set_xlabel('seconds per meta-step')
    panels[1].set_xlabel('peak memory, MB')
    panels[1].set_yticklabels([])
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, TORCH)
