"""The table of a reproduction: ours under both protocols beside the published figures."""
import os

import numpy as np

from launch.reproduction import published
from mtl_jax.phases import meta_test
from mtl_jax.runs import tables

PROTOCOLS = ('paper', 'inductive')
_NONE = '–'


def summarize(done: list, workdir: str) -> dict:
  """Pools the accuracies of the seeds of each row, and compares rows task by task.

  Args:
    done: (job, its results) of each run.
    workdir: of the reproduction.

  Returns:
    `rows`: preset -> shot -> protocol -> {accuracy, ci95, num_tasks, by_seed}, with `meta_train` of each seed and
    `seconds` beside the protocols; `gains`: list of {shot, protocol, row, over, difference, ci95, by_seed}.
  """
  accuracies, rows = {}, {}
  for job, results in done:
    row = rows.setdefault(job.preset, {}).setdefault(str(job.shot), {'seconds': 0.0, 'meta_train': []})
    row['seconds'] += sum(result['seconds'] for result in results.values())
    if 'meta_train' in results:
      row['meta_train'].append({name: results['meta_train'][name] for name in
                                ('seed', 'steps', 'best_step', 'validation_accuracy', 'seconds')})
    for protocol in PROTOCOLS:
      values = np.load(os.path.join(workdir, job.folder, 'meta_test', protocol, 'accuracies.npy'))
      accuracies.setdefault((job.preset, job.shot, protocol), []).append(values)
  for (preset, shot, protocol), of_seeds in accuracies.items():
    accuracy, ci95 = meta_test.summarize(np.concatenate(of_seeds))
    rows[preset][str(shot)][protocol] = {
        'accuracy': accuracy, 'ci95': ci95, 'num_tasks': len(of_seeds[0]),
        'by_seed': [meta_test.summarize(values)[0] for values in of_seeds]}
  return {'rows': rows, 'gains': _gains(accuracies)}


def _gains(accuracies):
  """Differences between rows over the same tasks: hard tasks against none, and MTL against no meta-learning."""
  gains = []
  for preset, shot, protocol in accuracies:
    others = [preset.removesuffix('_ht')] if preset.endswith('_ht') else []
    others += ['update_theta'] if preset == 'ss_all_ht' else []
    for other in others:
      pairs = zip(accuracies[preset, shot, protocol], accuracies[other, shot, protocol], strict=True)
      differences = [np.asarray(ours, np.float64)[:len(theirs)] - theirs[:len(ours)] for ours, theirs in pairs]
      difference, ci95 = meta_test.summarize(np.concatenate(differences))
      gains.append({'shot': shot, 'protocol': protocol, 'row': preset, 'over': other, 'difference': difference,
                    'ci95': ci95, 'by_seed': [float(values.mean()) for values in differences]})
  return gains


def markdown(results: dict) -> str:
  """Writes the report.

  Args:
    results: of the reproduction, as in its `results.json`.

  Returns:
    The content of `table.md`.
  """
  lines = [f'# {results["table"]}, budget {results["budget"]}', '', f'`{results["command_line"]}`', '',
           _caption(results)]
  for shot in results['shots']:
    header, rows = _section(results, shot)
    lines += ['', f'## 5-way {shot}-shot', '', tables.markdown(header, rows), '', *_gain_lines(results, shot)]
    if 'curves' in results:
      lines += ['', f'![accuracy against meta-iterations](curves_{shot}shot.png)']
  return '\n'.join(lines) + '\n'


def show(results: dict) -> None:
  """Prints the report."""
  for shot in results['shots']:
    header, rows = _section(results, shot)
    tables.show_columns(f'{results["dataset"]}, 5-way {shot}-shot', header, rows)
    print('\n'.join(_gain_lines(results, shot)))
  print(_caption(results))


def published_dataset(results: dict) -> str:
  """Names the data set whose published figures stand beside ours."""
  return results['dataset'] if results['dataset'] in published.SHOTS else (
      results['table'] if results['table'] in published.SHOTS else 'fc100')


def _section(results, shot):
  if results['table'] == 'ablation':
    return _ablation(results, shot)
  of, rows = published.COLUMNS, []
  column = (published_dataset(results), shot)
  for row in published.MAIN:
    figure = row.figures[of.index(column)] if column in of else None
    rows.append([row.method, _published(figure), *_ours(results, row.preset, shot)])
  figure = published.figure('update_theta', *column)
  rows.append(['no meta-learning: update θ', _published(figure), *_ours(results, 'update_theta', shot)])
  return ['method', 'published', 'paper protocol', 'inductive', 'validation', 'best step', 'hours'], rows


def _ours(results, preset, shot):
  """The cells of a row of the main table."""
  if preset is None:
    return [_NONE] * 5
  row = results['rows'][preset][str(shot)]
  trained = row['meta_train']
  validation = f'{100 * np.mean([run["validation_accuracy"] for run in trained]):.2f}' if trained else _NONE
  steps = ', '.join(f'{run["best_step"]}' for run in trained) or _NONE
  return [*(_percent(row[protocol]) for protocol in PROTOCOLS), validation, steps, f'{row["seconds"] / 3600:.2f}']


def _ablation(results, shot):
  column, rows = published_dataset(results), []
  for row in published.ABLATION:
    pair = [row.preset, f'{row.preset}_ht']
    figures = [_published(published.figure(name, column, shot)) for name in pair]
    # Without an outer loop hard tasks change nothing: the same run stands in both columns.
    names = [name if name in results['rows'] else row.preset for name in pair]
    ours = [_percent(results['rows'][name][str(shot)][protocol]) for protocol in PROTOCOLS for name in names]
    seconds = sum(results['rows'][name][str(shot)]['seconds'] for name in set(names))
    rows.append([row.method, *figures, *ours, f'{seconds / 3600:.2f}'])
  return ['row', 'published', 'with HT', 'paper protocol', 'with HT', 'inductive', 'with HT', 'hours'], rows


def _gain_lines(results, shot):
  """One line per comparison, a Markdown list."""
  lines = []
  for gain in results['gains']:
    if gain['shot'] != shot or (results['table'] == 'ablation' and gain['protocol'] == 'paper'):
      continue  # the ablation has many; all of them are in results.json
    name = gain['row'].removesuffix('_ht')
    name = next(row.method for row in published.ABLATION if row.preset == name)
    other = 'update θ' if gain['over'] == 'update_theta' else f'{name} without'
    by_seed = ', '.join(f'{100 * value:+.2f}' for value in gain['by_seed'])
    lines.append(f'- {name} with HT over {other}, {gain["protocol"]}: {100 * gain["difference"]:+.2f} ± '
                 f'{100 * gain["ci95"]:.2f}' + (f' (by seed {by_seed})' if len(gain['by_seed']) > 1 else ''))
  return lines


def _caption(results):
  tasks = sorted({row[str(shot)][protocol]['num_tasks'] for row in results['rows'].values() for shot in results['shots']
                  for protocol in PROTOCOLS})
  seeds = ', '.join(str(seed) for seed in results['seeds'])
  hours = (results['pretrain']['seconds'] +
           sum(row[str(shot)]['seconds'] for row in results['rows'].values() for shot in results['shots'])) / 3600
  return (f'Accuracy in %, with its 95% interval over tasks; differences are over the same tasks. Published: '
          f'{published_dataset(results)}, ResNet-12 unless a row says otherwise, some without intervals. Ours: '
          f'{results["dataset"]}, {results["pretrain"]["backbone"]}, seed{"s" if len(results["seeds"]) > 1 else ""} '
          f'{seeds}, {" or ".join(str(number) for number in tasks)} test tasks per seed'
          f'{" (the fewer where the inner loop adapts the network)" if len(tasks) > 1 else ""}; {hours:.2f} hours in '
          f'all, {results["pretrain"]["seconds"] / 3600:.2f} of them pre-training, on {results["device"]}, jax '
          f'{results["versions"]["jax"]}.')


def _published(figure):
  if figure is None:
    return _NONE
  accuracy, interval = figure
  if interval is None:
    return f'{accuracy:.1f}'
  digits = 1 if round(interval, 1) == interval else 2
  return f'{accuracy:.{digits}f} ± {interval:.{digits}f}'


def _percent(tested):
  return f'{100 * tested["accuracy"]:.2f} ± {100 * tested["ci95"]:.2f}'
