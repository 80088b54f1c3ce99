"""Each preset of the ablation through all three phases: what it changes, and what it leaves alone.
"""
import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import command, meta_train
from launch.flags import method, presets, task
from mtl_jax import backbones, learnable, runs
from mtl_jax.configs import TEST_LOOP, MetaTestConfig, PretrainConfig
from mtl_jax.runs import finished, meta_training
from mtl_jax.types import Score
from tests.phases import SIZE, toy_dataset

ROWS = {'update_network': 'update[Θ;θ]', 'update_theta': 'update θ', 'ft_theta': 'FT θ',
        'ft_last_block': 'FT[Θ4;θ]', 'ft_all': 'FT[Θ;θ]', 'ss_last_block': 'SS[Θ4;θ]',
        'ss_all': 'SS[Θ;θ]'}
NETWORK = 'tiny_of_the_ablation'
TINY = ['--way=3', '--shot=1', '--query=3', '--steps=4', '--meta_batch=1',
        '--num_ordinary_tasks=2', '--num_hard_tasks=2', '--inner_steps=2', '--inner_lr=0.1',
        '--test_inner_steps=3', '--validation_tasks=4', '--validate_every=4', '--workdir=-',
        '--pretrained=-']
VALIDATION = runs.Validation(every=4, num_tasks=4, way=3,
                             inner=dataclasses.replace(TEST_LOOP, steps=3, lr=0.1))


class TinyNet(nn.Module):
  """Two blocks that compile in a moment: a 1x1 convolution, batch norm, tanh."""
  width: int = 3

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = x[:, ::4, ::4]
    for i in (1, 2):
      x = _Block(self.width, name=f'block{i}')(x, batch_stats_mode)
    return x.mean(1).reshape(len(x), -1)


class _Block(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x, batch_stats_mode):
    x = nn.Conv(self.width, (1, 1), name='conv')(x)
    return jnp.tanh(nn.BatchNorm(batch_stats_mode == 'running', momentum=0.9, name='bn')(x))


def make_tiny(image_shape):
  return backbones.from_linen(TinyNet(), image_shape, last_block='block2')


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  backbones.register(NETWORK, make_tiny)
  workdir = str(tmp_path_factory.mktemp('pre'))
  config = PretrainConfig(steps=2, batch_size=4, steps_per_call=2, crop_padding=2)
  runs.pretrain_run(toy_dataset(), backbone={'name': NETWORK}, config=config,
                    validation=VALIDATION, seed=0, workdir=workdir)
  return workdir


def settings_of(preset):
  """(MetaTrainConfig, Validation) of a preset, at tiny size."""
  values = command.parse(meta_train.COMMAND, [f'--preset=ablation/{preset}', *TINY])
  config = method.meta_train_config(values, toy_dataset())
  return config, task.validation(values, config.inner)


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def changed(tree, other):
  tree, other = leaves(tree), leaves(other)
  assert tree.keys() == other.keys()
  return {path for path in tree if np.any(tree[path] != other[path])}


@functools.cache
def expected_changes(row):
  """Leaves of the network that differ after meta-training."""
  blocks = {'FT[Θ4;θ]': (2,), 'FT[Θ;θ]': (1, 2), 'SS[Θ4;θ]': (2,), 'SS[Θ;θ]': (1, 2)}.get(row, ())
  return {f'params/block{i}/conv/{leaf}' for i in blocks for leaf in ('kernel', 'bias')}


def test_there_is_a_preset_for_each_row_with_and_without_hard_tasks():
  found = [name for name in presets.names() if name.startswith('ablation/')]
  assert set(found) == {f'ablation/{name}{end}' for name in ROWS for end in ('', '_ht')}
  assert len(found) == 14


@pytest.mark.parametrize('name, hard', [
    pytest.param(name, hard, id=f'{name}-{"HT" if hard else "no HT"}', marks=(
        pytest.mark.slow if (hard and name != 'ss_all') or 'last_block' in name else ()))
    for name in ROWS for hard in (False, True)])
def test_all_three_phases(name, hard, pretrained, tmp_path):
  row, dataset = ROWS[name], toy_dataset()
  config, validation = settings_of(name + ('_ht' if hard else ''))
  assert bool(config.num_hard_tasks) == hard and validation.inner.adapts == config.inner.adapts
  workdir = str(tmp_path / 'meta')
  # Validation keeps the best state; that of the last step is wanted here.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(meta_training, 'make_scorer', lambda *_: lambda *state: Score(next(scores)))
    scores = iter(np.linspace(0, 1, 20))
    trained = runs.meta_train_run(dataset, pretrained=pretrained, config=config,
                                  validation=validation, seed=0, workdir=workdir)
  none = config.learn.learn == 'none'
  assert trained['steps'] == trained['best_step'] == (0 if none else 4)

  shape = (SIZE, SIZE, 3)
  before, after = finished.load(pretrained, shape), finished.load(workdir, shape)
  assert changed(before.backbone_vars, after.backbone_vars) == set()  # Θ is frozen
  network = learnable.network(after.backbone_vars, after.meta_params)
  assert changed(network, before.backbone_vars) == expected_changes(row)
  theta = after.meta_params.base_learner
  assert np.any(theta.kernel) != none and np.any(theta.bias) != none
  with open(f'{workdir}/metrics.jsonl', encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  assert any('hard_loss' in line for line in lines) == (hard and not none)

  test_config = MetaTestConfig(
      num_tasks=4, way=3, query=3, inner=dataclasses.replace(
          TEST_LOOP, lr=config.inner.lr, steps=3, adapts=config.inner.adapts))
  tested = runs.meta_test_run(dataset, checkpoint=workdir, config=test_config, split='test',
                              protocol='inductive', seed=0, workdir=str(tmp_path / 'test'),
                              tuned=row == 'update θ')
  assert tested['method'] == (row if none else f'{row}, {"HT " if hard else ""}meta-batch')
  baseline = tested['baselines']['update_theta']['accuracy']
  assert 0 <= tested['accuracy'] <= 1 and 0 <= baseline <= 1
  if row == 'update θ':
    assert tested['accuracy'] == baseline
