"""Two rows compared task by task, with the interval of their mean difference."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from mtl_jax.phases import meta_test
from mtl_jax.types import Array

_UPPER = 0.975  # of the 95% interval


def compare(ours: Sequence[Array], theirs: Sequence[Array]) -> dict[str, Any]:
  """Compares the accuracies of two rows over the same tasks of the same seeds.

      d_si = ours_si - theirs_si for seed s and task i;  difference = mean of all d_si
      ci95 = 1.96 std(d) / sqrt(tasks of all seeds)
      seeds_ci95 = t std(mean_i d_si) / sqrt(S), t the 97.5% point of Student's t with S - 1 degrees

  Args:
    ours: of each seed, [tasks]; where they differ in number, the first ones are compared.
    theirs: of each seed, [tasks].

  Returns:
    `difference`; `ci95`, over tasks; `by_seed`; of several seeds also `seeds_ci95`, over seeds.

  >>> found = compare([np.array([0.5, 0.7])], [np.array([0.4, 0.6])])
  >>> round(found['difference'], 3), round(found['ci95'], 3)
  (0.1, 0.0)
  """
  differences = [np.asarray(a, np.float64)[:len(b)] - np.asarray(b, np.float64)[:len(a)]
                 for a, b in zip(ours, theirs, strict=True)]
  difference, ci95 = meta_test.summarize(np.concatenate(differences))
  by_seed = [float(values.mean()) for values in differences]
  found = {'difference': difference, 'ci95': ci95, 'by_seed': by_seed}
  if len(by_seed) > 1:
    t = float(special.stdtrit(len(by_seed) - 1, _UPPER))
    found['seeds_ci95'] = t * float(np.std(by_seed, ddof=1)) / len(by_seed) ** 0.5
  return found


def text(found: Mapping[str, Any]) -> str:
  """Writes a comparison in percent: its interval over tasks, then that over seeds, and each seed.

  Args:
    found: as `compare` returns it.

  >>> text({'difference': 0.0123, 'ci95': 0.001, 'by_seed': [0.0123]})
  '+1.23 ± 0.10'
  >>> text({'difference': 0.01, 'ci95': 0.001, 'by_seed': [0.0, 0.02], 'seeds_ci95': 0.127})
  '+1.00 ± 0.10 (over seeds ± 12.70: +0.00, +2.00)'
  """
  said = f'{100 * found["difference"]:+.2f} ± {100 * found["ci95"]:.2f}'
  if len(found['by_seed']) < 2:
    return said
  seeds = ', '.join(f'{100 * value:+.2f}' for value in found['by_seed'])
  over = f'over seeds ± {100 * found["seeds_ci95"]:.2f}: ' if 'seeds_ci95' in found else ''
  return f'{said} ({over}{seeds})'
