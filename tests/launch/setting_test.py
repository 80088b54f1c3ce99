"""The table of the paper's setting: figures from known accuracies, refusals, a small table."""
import numpy as np
import pytest

from launch import command, reproduce
from launch.reproduction import budgets, setting, setting_rows, setting_table
from launch.reproduction.setting_rows import FACTORS, SETTINGS
from mtl_jax import runs
from mtl_jax.runs import array_files
from tests.launch.systems_test import TINY
from tests.phases import toy_dataset, toy_pool

ADDS = {'short': 0.01, 'raw': 0.02, 'batch': 0.04}  # to the gain of scale and shift


def done(seeds=(0, 1)):
  """Accuracies whose gains are sums of what the levels add; hard tasks gain one point more."""
  random = np.random.default_rng(0)
  for each in SETTINGS:
    gain = sum(ADDS.get(level, 0) for level in each)
    for seed in seeds:
      tasks = random.uniform(0.2, 0.8, 30)
      facts = {'seconds': 10.0, 'inner_lr': 0.1}
      for row, more in (('update_theta', 0), ('ss', gain), ('ss_ht', gain + 0.01)):
        yield each, row, 1, seed, tasks + more, facts


def test_effects_are_what_each_level_adds(tmp_path):
  found = setting_table.summarize(done())
  for effect in found['effects']:
    expected = {'pretraining': 0.01, 'features': 0.02, 'statistics': 0.04, 'all': 0.07}
    np.testing.assert_allclose([effect['effect']['difference'], *effect['effect']['by_seed']],
                               expected[effect['factor']], atol=1e-12)
    assert effect['effect']['ci95'] < 1e-12
  assert len(found['effects']) == 2 * 4 and len(found['cells']) == 8 * 3
  results = found | {'command_line': 'x', 'device': 'cpu', 'shots': [1], 'seconds': 3600.0,
                     'dataset': 'fc100', 'num_tasks': 30}
  setting_table.write(str(tmp_path), results)
  text = (tmp_path / 'table.md').read_text()
  assert '| short, raw, batch |' in text and '| +7.00 ± 0.00 (over seeds ± 0.00: +7.00' in text
  assert '| batch norm: statistics of the batch, over running ones | +4.00 ± 0.00' in text


def test_an_effect_is_paired_over_tasks_of_all_settings():
  """Noise that all settings share cancels; that of one of eight is averaged with three others."""
  cells = list(done(seeds=(0,)))
  noise = np.random.default_rng(1).normal(size=30)
  cells = [(each, row, shot, seed, values + noise * (each == SETTINGS[0]) * (row == 'ss'), facts)
           for each, row, shot, seed, values, facts in cells]
  [effect] = [found['effect'] for found in setting_table.summarize(cells)['effects']
              if (found['factor'], found['row']) == ('features', 'ss')]
  np.testing.assert_allclose(effect['difference'], 0.02 + noise.mean() / 4)
  np.testing.assert_allclose(effect['ci95'], 1.96 * (noise / 4).std() / 30 ** 0.5, rtol=0.03)


def test_the_first_levels_are_the_papers():
  assert setting_rows.PAPERS == ('short', 'raw', 'batch')
  assert setting_rows.OURS == ('preset', 'unit', 'running')
  assert len(set(SETTINGS)) == 8 and all(len(levels) == 2 for levels in FACTORS.values())
  flags = setting_rows.pretrain_flags(setting_rows.PAPERS, 'cpu', budgets.BUDGETS['cpu'])
  assert flags[-2:] == ('--steps=3000', '--validate_every=3000') and '--noflip' in flags


def test_a_given_pre_training_is_refused(tmp_path):
  values = command.parse(reproduce.COMMAND, [
      '--table=setting', '--budget=smoke', '--pretrained=p', f'--workdir={tmp_path / "w"}'])
  with pytest.raises(ValueError, match='--pretrained does not go with --table=setting'):
    reproduce.run(values)
  assert not (tmp_path / 'w').exists()


@pytest.mark.slow
def test_a_small_table(tmp_path):
  pools = {split: toy_pool([17] * 6, seed)
           for seed, split in enumerate(('train', 'val', 'test'))}
  request = setting.Request('tiny', TINY, (1,), (0,))

  def table():
    return setting.reproduce(request, toy_dataset()._replace(**pools),
                             workdir=str(tmp_path / 'w'), command='x', machine=runs.Machine())

  results = table()
  assert len(results['cells']) == 24 and len(results['effects']) == 8
  for cell in results['cells']:
    folder = tmp_path / 'w' / f'{"-".join(cell["setting"])}_1shot_seed0' / cell['row']
    accuracies = array_files.read(
        folder / ('' if cell['row'] == 'update_theta' else 'meta_test') / 'accuracies.npy')
    assert cell['accuracy'] == pytest.approx(accuracies.mean()) and len(accuracies) == 6
  assert table() == results
