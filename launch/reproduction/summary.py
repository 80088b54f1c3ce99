"""The figures of a reproduction: accuracies pooled over seeds, and rows compared task by task."""
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax.phases import meta_test
from mtl_jax.runs import array_files, paired

PROTOCOLS = ('paper', 'inductive')

_OF_TRAINING = ('seed', 'steps', 'best_step', 'validation_accuracy', 'seconds')
_BySeed = dict[tuple[str, int, str], list[np.ndarray]]  # preset, shot, protocol -> accuracies


def summarize(done: Sequence[tuple[Any, Mapping[str, Any]]], workdir: str) -> dict[str, Any]:
  """Pools the accuracies of the seeds of each row, and compares rows task by task.

  Args:
    done: (`rows.Job`, its results) of each run.
    workdir: of the reproduction.

  Returns:
    `rows`: preset -> shot -> protocol -> {accuracy, ci95, num_tasks, by_seed}, with `meta_train` of
    each seed and `seconds` beside the protocols, and `inner_lr` of each seed in those whose own
    rate was chosen; `gains`: list of {shot, protocol, row, over} and what `paired.compare` returns.
  """
  accuracies: _BySeed = {}
  chosen: dict[tuple[str, int, str], list[float]] = {}
  rows: dict[str, Any] = {}
  for job, results in done:
    row = rows.setdefault(job.preset, {}).setdefault(str(job.shot),
                                                     {'seconds': 0.0, 'meta_train': []})
    row['seconds'] += sum(result['seconds'] for result in results.values())
    if 'meta_train' in results:
      row['meta_train'].append({name: results['meta_train'][name] for name in _OF_TRAINING})
    for protocol in PROTOCOLS:
      path = os.path.join(workdir, job.folder, 'meta_test', protocol, 'accuracies.npy')
      accuracies.setdefault((job.preset, job.shot, protocol), []).append(array_files.read(path))
      if results[protocol].get('validated'):
        chosen.setdefault((job.preset, job.shot, protocol), []).append(
            results[protocol]['inner_lr'])
  for (preset, shot, protocol), of_seeds in accuracies.items():
    accuracy, ci95 = meta_test.summarize(np.concatenate(of_seeds))
    rows[preset][str(shot)][protocol] = {
        'accuracy': accuracy, 'ci95': ci95, 'num_tasks': len(of_seeds[0]),
        'by_seed': [meta_test.summarize(values)[0] for values in of_seeds],
        **({'inner_lr': rates} if (rates := chosen.get((preset, shot, protocol))) else {})}
  return {'rows': rows, 'gains': _gains(accuracies)}


def _gains(accuracies: _BySeed) -> list[dict[str, Any]]:
  """Differences over the same tasks: hard tasks against none, and MTL against no meta-learning."""
  gains = []
  for preset, shot, protocol in accuracies:
    for other in _compared_with(preset):
      # A row whose inner loop adapts the network has fewer tasks: the first ones of the others.
      found = paired.compare(accuracies[preset, shot, protocol], accuracies[other, shot, protocol])
      gains.append({'shot': shot, 'protocol': protocol, 'row': preset, 'over': other, **found})
  return gains


def _compared_with(preset: str) -> list[str]:
  others = [preset.removesuffix('_ht')] if preset.endswith('_ht') else []
  return others if preset.startswith('update') else [*others, 'update_theta']
