"""The table of systems: its figures from known accuracies, its refusals, and a small one."""
import numpy as np
import pytest

from launch import command, meta_train, reproduce
from launch.flags import declared, method
from launch.reproduction import budgets, system_rows, systems, systems_table
from mtl_jax import runs
from tests.phases import toy_dataset, toy_pool

_TRAINING = ('--steps=2', '--meta_batch=1', '--num_ordinary_tasks=2', '--query=2',
             '--validate_every=2', '--validation_tasks=4', '--crop_padding=0', '--width=4')
TINY = budgets.BUDGETS['smoke']._replace(
    pretrain=('--steps=2', '--batch_size=4', '--steps_per_call=2', '--validate_every=2',
              '--validation_tasks=4', '--width=4', '--crop_padding=0'),
    one_shot=_TRAINING[:-1], network_loop=(), num_tasks=6, network_loop_tasks=4)


def done():
  """Accuracies that make every gain known; MAML has fewer tasks, the first ones of the others."""
  random = np.random.default_rng(0)
  for seed in (0, 1):
    tasks = random.uniform(0.2, 0.8, 50)
    for name, gain, number in (('update_theta', 0, 50), ('maml', 0.1, 20), ('cosine', -0.05, 50)):
      facts = {'seconds': 10.0, 'inner_lr': 0.1, 'start': 'random', 'num_tasks': number}
      yield name, 1, seed, tasks[:number] + gain, facts


def test_gains_are_paired_and_published_figures_stand_beside(tmp_path):
  cells = {cell['system']: cell for cell in systems_table.summarize(done())}
  for name, difference in (('maml', 0.1), ('cosine', -0.05)):
    gain = cells[name]['gain']
    np.testing.assert_allclose([gain['difference'], *gain['by_seed']], [difference] * 3)
    assert gain['ci95'] < 1e-12
  assert 'gain' not in cells['update_theta']
  results = {'cells': list(cells.values()), 'command_line': 'x', 'device': 'cpu', 'shots': [1],
             'seconds': 3600.0, 'dataset': 'fc100'}
  systems_table.write(str(tmp_path), results)
  text = (tmp_path / 'table.md').read_text()
  assert '| MAML | random weights | 38.1, 4CONV |' in text
  assert '+10.00 ± 0.00 (over seeds ± 0.00: +10.00, +10.00)' in text
  assert '(20 or 50 for each seed)' in text
  [(_, rows)] = systems_table.sections(results | {'dataset': 'mini_imagenet'})
  assert ['LEO', '–', '61.8, WRN-28-10', '–', '–', '–', '–'] in rows


@pytest.mark.parametrize('name', system_rows.SYSTEMS)
def test_every_row_is_a_setting_that_makes_sense(name):
  flags = (*TINY.one_shot, '--nohard_tasks', *system_rows.SYSTEMS[name].flags)
  values = declared.parse(meta_train.FLAGS, flags, require=False)
  config = method.meta_train_config(values, toy_dataset())
  assert bool(config.num_hard_tasks) == ('HT' in system_rows.SYSTEMS[name].method)


@pytest.mark.parametrize('arguments, says', [
    (['--rows=ss,moon'], 'expected --rows among'),
    (['--pretrained=p'], '--pretrained does not go with --table=systems'),
    (['--targets=glyphs'], '--targets goes with --table=transfer, not with systems')])
def test_refused(tmp_path, arguments, says):
  values = command.parse(reproduce.COMMAND, ['--table=systems', '--budget=smoke', *arguments,
                                             f'--workdir={tmp_path / "w"}'])
  with pytest.raises(ValueError, match=says):
    reproduce.run(values)
  assert not (tmp_path / 'w').exists()


@pytest.mark.slow
def test_a_small_table_from_both_starts(tmp_path):
  pools = {split: toy_pool([17] * 6, seed)
           for seed, split in enumerate(('train', 'val', 'test'))}
  dataset = toy_dataset()._replace(**pools)
  rows = ('update_theta', 'cosine', 'prototypes', 'reptile', 'implicit_maml')
  request = systems.Request('tiny', TINY, rows, (1,), (0,))

  def table():
    return systems.reproduce(request, dataset, workdir=str(tmp_path / 'w'), command='x',
                             machine=runs.Machine())

  results = table()
  cells = {cell['system']: cell for cell in results['cells']}
  assert set(cells) == set(request.rows)
  for name, cell in cells.items():
    accuracies = np.load(tmp_path / 'w' / f'{name}_1shot_seed0/meta_test/accuracies.npy')
    assert cell['accuracy'] == pytest.approx(accuracies.astype(np.float64).mean())
    assert len(accuracies) == (4 if name in system_rows.ADAPTS_NETWORK else 6)
  assert (tmp_path / 'w' / 'random' / 'model.json').exists()
  assert table() == results
