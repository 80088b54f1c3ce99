"""The table of a reproduction, in Markdown and on the terminal: ours beside the published figures.
"""
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl_jax.runs import paired, tables

from . import paper
from .summary import PROTOCOLS

_NONE = '–'
_SECONDS_PER_HOUR = 3600
_Table = tuple[list[str], list[list[str]]]  # header, rows


def markdown(results: Mapping[str, Any]) -> str:
  """Returns the content of `table.md`.

  Args:
    results: of the reproduction, as in its `results.json`.
  """
  lines = [f'# {results["table"]}, budget {results["budget"]}', '',
           f'`{results["command_line"]}`', '', _caption(results)]
  for shot in results['shots']:
    header, rows = _table(results, shot)
    lines += ['', f'## 5-way {shot}-shot', '', tables.markdown(header, rows), '',
              *_gain_lines(results, shot)]
    if 'curves' in results:
      lines += ['', f'![accuracy against meta-iterations](curves_{shot}shot.png)']
  return '\n'.join(lines) + '\n'


def show(results: Mapping[str, Any]) -> None:
  """Prints the tables, what rows gain over others, and how the figures came about.

  Args:
    results: of the reproduction, as in its `results.json`.
  """
  for shot in results['shots']:
    header, rows = _table(results, shot)
    tables.show_columns(f'{results["dataset"]}, 5-way {shot}-shot', header, rows)
    print('\n'.join(_gain_lines(results, shot)))
  print(_caption(results))


def published_dataset(results: Mapping[str, Any]) -> str:
  """Returns the data set whose published figures stand beside ours.

  Args:
    results: of the reproduction, as in its `results.json`.
  """
  names = (results['dataset'], results['table'])
  return next((name for name in names if name in paper.SHOTS), 'fc100')


def _table(results: Mapping[str, Any], shot: int) -> _Table:
  return (_ablation if results['table'] == 'ablation' else _main)(results, shot)


def _main(results: Mapping[str, Any], shot: int) -> _Table:
  column, rows = (published_dataset(results), shot), []
  for row in paper.MAIN:
    figure = row.figures[paper.COLUMNS.index(column)] if column in paper.COLUMNS else None
    rows.append([row.method, _published(figure), *_ours(results, row.preset, shot)])
  rows.append(['no meta-learning: update θ', _published(paper.figure('update_theta', *column)),
               *_ours(results, 'update_theta', shot)])
  return ['method', 'published', 'paper protocol', 'inductive', 'validation', 'best step',
          'hours'], rows


def _ours(results: Mapping[str, Any], preset: str | None, shot: int) -> list[str]:
  """The cells of a row of the main table."""
  if preset is None:
    return [_NONE] * 5
  row = results['rows'][preset][str(shot)]
  trained = row['meta_train']
  validation = (_in_percent(np.mean([run['validation_accuracy'] for run in trained]))
                if trained else _NONE)
  steps = ', '.join(f'{run["best_step"]}' for run in trained) or _NONE
  return [*(_with_interval(row[protocol]) for protocol in PROTOCOLS), validation, steps,
          _hours(row['seconds'])]


def _ablation(results: Mapping[str, Any], shot: int) -> _Table:
  dataset, rows = published_dataset(results), []
  for row in paper.ABLATION:
    pair = [f'{row.preset}', f'{row.preset}_ht']
    figures = [_published(paper.figure(name, dataset, shot)) for name in pair]
    # Without an outer loop hard tasks change nothing: the same run stands in both columns.
    names = [name if name in results['rows'] else pair[0] for name in pair]
    ours = [_with_interval(results['rows'][name][str(shot)][protocol])
            for protocol in PROTOCOLS for name in names]
    seconds = sum(results['rows'][name][str(shot)]['seconds'] for name in set(names))
    rows.append([row.method, *figures, *ours, _hours(seconds)])
  return ['row', 'published', 'with HT', 'paper protocol', 'with HT', 'inductive', 'with HT',
          'hours'], rows


def _gain_lines(results: Mapping[str, Any], shot: int) -> list[str]:
  """Compares rows, a line of a Markdown list for each comparison."""
  lines = []
  for gain in results['gains']:
    if gain['shot'] != shot or (results['table'] == 'ablation' and gain['protocol'] == 'paper'):
      continue  # the ablation has many; all of them are in results.json
    preset = gain['row'].removesuffix('_ht')
    name = next(row.method for row in paper.ABLATION if row.preset == preset)
    hard = ' with HT' if gain['row'] != preset else ''
    other = 'update θ' if gain['over'] == 'update_theta' else f'{name} without'
    lines.append(f'- {name}{hard} over {other}, {gain["protocol"]}: {paired.text(gain)}')
  return [*lines, *_rate_lines(results, shot)]


def _rate_lines(results: Mapping[str, Any], shot: int) -> list[str]:
  """Says at which inner rates rows were tested: each at its own, for each seed."""
  lines = []
  for protocol in PROTOCOLS:
    rates = {preset: of_shots[str(shot)][protocol].get('inner_lr', ())
             for preset, of_shots in results['rows'].items()}
    said = [f'{preset} {", ".join(f"{rate:g}" for rate in of_row)}'
            for preset, of_row in rates.items() if of_row]
    if said:
      lines.append(f'- inner rates, {protocol}, each the best on validation tasks: '
                   f'{"; ".join(said)}')
  return lines


def _caption(results: Mapping[str, Any]) -> str:
  rows = [row[str(shot)] for row in results['rows'].values() for shot in results['shots']]
  tasks = sorted({row[protocol]['num_tasks'] for row in rows for protocol in PROTOCOLS})
  pretraining = results['pretrain']
  seconds = pretraining['seconds'] + sum(row['seconds'] for row in rows)
  seeds = ', '.join(str(seed) for seed in results['seeds'])
  fewer = ' (the fewer where the inner loop adapts the network)' if len(tasks) > 1 else ''
  return (f'Accuracy in %, with its 95% interval over tasks; differences are over the same tasks. '
          f'Published: {published_dataset(results)}, ResNet-12 unless a row says otherwise, some '
          f'without intervals. Ours: {results["dataset"]}, {pretraining["backbone"]}, '
          f'seed{"s" if len(results["seeds"]) > 1 else ""} {seeds}, '
          f'{" or ".join(map(str, tasks))} test tasks per seed{fewer}; {_hours(seconds)} hours in '
          f'all, {_hours(pretraining["seconds"])} of them pre-training, on {results["device"]}, '
          f'jax {results["versions"]["jax"]}.')


def _published(figure: paper.Figure | None) -> str:
  if figure is None:
    return _NONE
  accuracy, interval = figure
  if interval is None:
    return f'{accuracy:.1f}'
  digits = 1 if round(interval, 1) == interval else 2
  return f'{accuracy:.{digits}f} ± {interval:.{digits}f}'


def _with_interval(tested: Mapping[str, float]) -> str:
  return f'{_in_percent(tested["accuracy"])} ± {_in_percent(tested["ci95"])}'


def _in_percent(share: Any) -> str:
  return f'{100 * share:.2f}'


def _hours(seconds: float) -> str:
  return f'{seconds / _SECONDS_PER_HOUR:.2f}'
