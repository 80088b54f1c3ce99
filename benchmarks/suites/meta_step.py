"""Suite meta_step: one outer step of meta-training, with Adam, of a whole network."""
import itertools
import os
import tempfile

from matplotlib.figure import Figure

from benchmarks import flops, inputs, networks, plan, report, rounds
from benchmarks.suites import peaks

TORCH = ('published', 'channels_last', 'batched', 'batched_channels_last', 'folded', 'func', 'compile',
         'compile_channels_last', 'compile_folded', 'tf32', 'bf16', 'compile_bf16', 'compile_folded_bf16',
         'cuda_graphs', 'cuda_graphs_folded')
_TASK = ('tasks', 'way', 'shot', 'query')


def _settings(request):
  task = {'tasks': request.tasks, 'way': 5, 'shot': 1, 'query': 15, 'inner_steps': 20}
  sizes, width = list(request.image_sizes), None
  if request.smoke:
    task, sizes, width = {'tasks': 2, 'way': 3, 'shot': 1, 'query': 2, 'inner_steps': 2}, [16], 4
  for network in request.networks:
    networks.layers(network, sizes[0])  # refuses what it does not know
  return {**request.common(), 'networks': list(request.networks), 'image_sizes': sizes, 'width': width, **task,
          'inner_lr': 0.01, 'outer_lr': 1e-3, 'order': 'second', 'norm_epsilon': 1e-5,
          'peak_sizes': {'cpu': 64, 'accelerator': 64} if request.smoke else {'cpu': 2048, 'accelerator': 8192}}


def step_request(settings: dict, network: str, path: str) -> dict:
  """Gives the settings of the measure `meta_step`.

  Args:
    settings: of a suite.
    network: its name.
    path: of the inputs file.

  Returns:
    What a worker gets.
  """
  names = ('width', 'inner_steps', 'inner_lr', 'outer_lr', 'order', 'norm_epsilon')
  return {'inputs': path, 'network': network, **{name: settings[name] for name in names}}


def _measure(settings, bench):
  modes = plan.torch_modes(settings, TORCH)
  found = peaks.measure(bench, settings['peak_sizes'])
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for network, size in itertools.product(settings['networks'], settings['image_sizes']):
      path = inputs.write(os.path.join(folder, 'inputs.npz'), inputs.weights(network, width=settings['width']),
                          inputs.tasks(image_size=size, **{name: settings[name] for name in _TASK}))
      row = {'network': network, 'image_size': size}
      records, over = _compare(bench, step_request(settings, network, path), settings['pairs'], modes)
      report.say('meta_step', row, records)
      rows.append(row | _figures(row, records, settings, found) | {'over': over})
  notes = plan.without_pytorch(settings, TORCH) + rounds.skipped([row['sides'] for row in rows]) + peaks.notes(found)
  return {'rows': rows, 'peaks': found, 'notes': notes + _loss_notes(rows)}


def _compare(bench, asked, pairs, modes):
  """Records of all sides; and PyTorch over ours, pair by pair: ours -> theirs -> quotients.

  Ours stay, while each mode of PyTorch comes and goes: a process of its own, so that its memory is its own.
  """
  modes_of_ours = ('float32', 'all_tasks') if bench.platform == 'cpu' else ('float32', 'bfloat16')
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
  found = rounds.in_turn(ours, 0 if any('turns' in record for record in records.values()) else pairs)
  for side in ours.values():
    side.close()
  return found | records, over


def _figures(row, records, settings, found):
  """What follows from the times: tasks per second, and the share of the peak of a matrix product."""
  count = flops.meta_step(row['network'], row['image_size'], width=settings['width'],
                          inner_steps=settings['inner_steps'], **{name: settings[name] for name in _TASK})
  for name, record in records.items():
    if 'median' in record:
      record['tasks_per_second'] = settings['tasks'] / record['median']
      record['share_of_peak'] = count.flops / record['median'] / peaks.of(name, found)
  torch = {name: record for name, record in records.items() if name.startswith('pytorch')}
  return {'sides': records, 'flops': count.flops, 'strongest': rounds.strongest(torch)}


def _loss_notes(rows):
  """Both sides start from the same numbers, so they must find the same loss."""
  gaps = []
  for row in rows:
    losses = [record['first_value'] for name, record in row['sides'].items() if 'first_value' in record]
    gaps += [(max(losses) - min(losses)) / abs(min(losses))] if len(losses) > 1 else []
  return [f'Losses of the first step differ between sides by at most {max(gaps):.1e} of their value.'] if gaps else []


def _tables(results):
  tables, settings = [], results['settings']
  for row in results['rows']:
    main = next(iter(row['sides']))  # ours, float32
    header = ['side', 's per step', 'tasks per s', 'share of peak', 'peak memory, MB', 'memory over ours']
    own = [name for name in row['over'] if row['over'][name]]
    header += [f'time over {name.removeprefix("jax ")}' for name in own]
    cells = []
    for name, record in row['sides'].items():
      if 'median' not in record:
        if record['skip'].startswith('>'):
          cells.append([name, record['skip'], *[report.NONE] * (len(header) - 2)])
        continue
      mark = ' (strongest)' if name == row['strongest'] else ''
      cells.append([name + mark, report.seconds(record), report.number(record['tasks_per_second']),
                    f'{100 * record["share_of_peak"]:.0f}%', *_memory(record, row['sides'][main]),
                    *(report.ratio(row['over'][other].get(name)) for other in own)])
    tables.append(plan.Table(
        f'{row["network"]}, {row["image_size"]} pixels: {settings["tasks"]} tasks of {settings["way"]}-way '
        f'{settings["shot"]}-shot with {settings["query"]} queries, {settings["inner_steps"]} inner steps, '
        f'{settings["order"]} order, {report.number(row["flops"] / 1e9)} GFLOP', header, cells))
  return tables


def _memory(record, ours):
  peak, own = record.get('peak_bytes'), ours.get('peak_bytes')
  return [report.NONE if peak is None else f'{peak / 1e6:,.0f}',
          report.NONE if not (peak and own) else report.number(peak / own)]


def _plot(results):
  """Seconds and peak memory, one row of panels per network and size."""
  rows = results['rows']
  bars = max(len(row['sides']) for row in rows)
  figure = Figure(figsize=(9, (0.3 * bars + 1.1) * len(rows)), layout='constrained')
  for panels, row in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
    report.bars(panels[0], row['sides'])
    report.bars(panels[1], row['sides'], scale=1e-6, key='peak_bytes')
    panels[0].set_title(f'{row["network"]}, {row["image_size"]} pixels', fontsize='medium')
    panels[0].set_xlabel('seconds per meta-step')
    panels[1].set_xlabel('peak memory, MB')
    panels[1].set_yticklabels([])
  return figure


SUITE = plan.Suite(_settings, _measure, _tables, _plot, TORCH)
