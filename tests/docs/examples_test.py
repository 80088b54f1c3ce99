"""Each file of examples/ runs as it stands, and does what it says."""
import functools
import pathlib
import runpy

import jax
import numpy as np
import pytest

from mtl_jax import inner_loop

EXAMPLES = pathlib.Path(__file__).parents[2] / 'examples'


@functools.cache
def names_of(example):
  """The names that an example leaves behind; it runs once in this process."""
  before = dict(inner_loop.LOOPS)
  try:
    return runpy.run_path(str(EXAMPLES / f'{example}.py'))
  finally:
    inner_loop.LOOPS.clear()
    inner_loop.LOOPS.update(before)


def largest(tree):
  return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_few_shot_gradients_are_finite_and_not_zero():
  names = names_of('few_shot_in_30_lines')
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names['gradients']))
  assert all(largest(gradient) > 0 for gradient in names['gradients'])
  assert 1.5 < float(names['loss']) < 1.7  # log 5 is 1.61: an untrained network


def test_the_few_shot_example_has_thirty_lines_of_code():
  text = (EXAMPLES / 'few_shot_in_30_lines.py').read_text(encoding='utf-8')
  code = [line for line in text.split('"""')[2].splitlines() if line.strip()]
  assert len(code) <= 30


@pytest.mark.parametrize('example', ['own_backbone', 'own_inner_loop'])
def test_a_cycle_with_parts_of_ones_own_changes_scale_and_shift(example):
  names = names_of(example)
  assert all(np.isfinite(value) for value in names['metrics'].values())
  assert int(names['state'].step) == 3
  phi = names['state'].meta_params.scale_shift
  start = jax.tree.leaves(names['meta_train'].init(
      names['backbone'], names['frozen'], names['config']).meta_params.scale_shift)
  moved = [np.any(a != b) for a, b in zip(jax.tree.leaves(phi), start, strict=True)]
  assert sum(moved) > len(moved) / 2


def test_scale_and_shift_act_on_the_dense_layers_of_the_transformer():
  phi = names_of('own_backbone')['state'].meta_params.scale_shift
  assert set(phi['block1']) == {'query', 'key', 'value', 'out', 'up', 'down'}
  assert phi['block1']['up']['scale'].shape == (32, 64)


@pytest.mark.parametrize('gradient', ['rate_gradients', 'theta_gradient', 'implicit'])
def test_hypergradients_are_finite_and_not_zero(gradient):
  found = names_of('hypergradients')[gradient]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
  assert largest(found) > 0


def test_a_step_down_each_hypergradient_lowers_the_loss():
  names = names_of('hypergradients')
  before = float(names['before'])
  assert all(float(after) < before for after in (*names['after_rates'], names['after_theta']))
  assert float(names['after_implicit']) < float(names['at_minimum'])
