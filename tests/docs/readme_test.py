"""The example of the README runs as printed, and the README names no file that is not there."""
import pathlib
import re

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_library_example_gives_finite_gradients_for_all_three_arguments():
  example = re.search(r'```python\n(.*?)```', README, re.DOTALL).group(1)
  names = {}
  exec(example, names)
  for_phi, for_theta, for_inner_lr = names['gradients']
  assert jax.tree.structure(for_phi) == jax.tree.structure(names['phi'])
  assert for_theta.kernel.shape == (256, 5)
  leaves = jax.tree.leaves(names['gradients'])
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert float(for_inner_lr) != 0 and max(float(abs(leaf).max()) for leaf in leaves) > 0


def test_files_that_the_readme_names_are_there():
  named = re.findall(r'`((?:mtl_jax|launch|benchmarks|docs)/[\w./]*)`', README)
  assert len(named) >= 6
  assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_figure_is_left_open():
  assert re.findall(r'\b(?:QUICKSTART_[A-Z]+|RESULTS)\b', README) == []
