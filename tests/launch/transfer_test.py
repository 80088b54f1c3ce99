"""The transfer table: its figures from known accuracies, and a whole one in smoke size."""
import json

import numpy as np
import pytest

from launch import command, reproduce
from launch.reproduction import transfer, transfer_rows, transfer_table
from launch.reproduction.transfer import Place
from mtl_jax import runs
from mtl_jax.runs import inner_rates
from mtl_jax.types import Dataset, ImagePool, Normalization
from tests import tiny_runs


def done(seeds=2, parts=('all',)):
  """Accuracies that make every gain known: 0.1 for SS, 0.02 more for HT."""
  random = np.random.default_rng(0)
  for seed in range(seeds):
    tasks = random.uniform(0.2, 0.8, 50)
    for row, gain in (('update_theta', 0), ('ss_channel', 0.1), ('ss_channel_ht', 0.12)):
      for part in parts if row != 'update_theta' else ('all',):
        facts = {'seconds': 10.0, 'size': 0 if not gain else 12_345, 'inner_lr': 0.1,
                 'public': True, 'data': 'letters', 'base_classes': 8 if part != 'all' else 32}
        yield Place('imagenet', 'omniglot', 1, seed), row, part, tasks + gain, facts


def test_gains_are_paired_over_tasks():
  cells = {cell['row']: cell for cell in transfer_table.summarize(done())}
  assert 'gain' not in cells['update_theta']
  for name, row, difference in (('gain', 'ss_channel', 0.1), ('gain', 'ss_channel_ht', 0.12),
                                ('ht_gain', 'ss_channel_ht', 0.02)):
    gain = cells[row][name]
    np.testing.assert_allclose([gain['difference'], *gain['by_seed']], [difference] * 3)
    assert gain['ci95'] < 1e-12  # though accuracies differ widely between tasks
  assert cells['ss_channel']['ci95'] > 0.02


def test_the_table_and_the_figure_of_classes(tmp_path):
  results = {'cells': transfer_table.summarize(done(parts=('fold:1/4', 'all'))),
             'command_line': 'x', 'device': 'cpu', 'seconds': 3600.0}
  transfer_table.write(str(tmp_path), results)
  text = (tmp_path / 'table.md').read_text()
  assert '## letters, imagenet, 5-way 1-shot' in text
  assert '| SS[Θ;θ] per channel, HT |' in text
  assert '+12.00 ± 0.00 (over seeds ± 0.00: +12.00, +12.00)' in text
  assert text.count('| SS[Θ;θ] per channel, HT |') == 2  # of all base classes, and of a quarter
  assert '## letters, imagenet, 5-way 1-shot, 8 base classes' in text
  assert '12,345' in text and '![accuracy against' in text
  assert {path.name for path in tmp_path.iterdir()} == {'table.md', 'classes.png', 'classes.svg'}


def test_classes_that_imagenet_has_are_said():
  cells = transfer_table.summarize(
      (place._replace(target='cifar_fs'), *rest) for place, *rest in done())
  [(title, _)] = transfer_table.sections({'cells': cells})
  assert 'most of its classes are in ImageNet' in title
  of_a_run = [{**cell, 'facts': [facts | {'public': False} for facts in cell['facts']]}
              for cell in cells]  # whose network was pre-trained here
  [(title, _)] = transfer_table.sections({'cells': of_a_run})
  assert 'ImageNet:' not in title and 'classes' not in title


@pytest.mark.parametrize('arguments, says', [
    (['--targets=moon'], 'expected --targets among'), (['--rows=ss'], 'expected --rows among'),
    (['--width=4'], '--width does not go with --table=transfer'), (['--shots=0'], '--shots')])
def test_refused(arguments, says):
  values = command.parse(reproduce.COMMAND, ['--table=transfer', '--budget=smoke', '--workdir=w',
                                             *arguments])
  with pytest.raises(ValueError, match=says):
    reproduce.transfer_budget(values)


def test_other_tables_refuse_its_flags():
  values = command.parse(reproduce.COMMAND, ['--table=fc100', '--budget=cpu', '--workdir=w',
                                             '--targets=glyphs'])
  with pytest.raises(ValueError, match='--targets goes with --table=transfer, not with fc100'):
    reproduce.request_of(values)


def test_film_is_validated_by_the_loop_that_is_tested():
  from launch import meta_train
  from launch.flags import declared, method, task
  values = declared.parse(meta_train.FLAGS, transfer_rows.flags_of('film'), require=False)
  inner = task.validation(values, method.inner(values)).inner
  assert (inner.adapts, inner.steps) == ('film', method.inner(values).steps)


def test_each_row_is_a_meta_training():
  from launch import meta_train
  from launch.flags import declared, method
  for budget in transfer_rows.BUDGETS.values():
    for row in budget.rows:
      values = declared.parse(meta_train.FLAGS, [*budget.meta_train, *transfer_rows.flags_of(row)],
                              require=False)
      assert method.learn(values, 'efficientnet_lite0').learn in ('none', 'head', 'ss', 'affine',
                                                                  'ft')
      assert values.hard_tasks == row.endswith('_ht')


def dataset(size):
  """Twelve classes a split; each has a colour, so that there is something to learn."""
  random, splits = np.random.default_rng(0), {}
  for split in ('train', 'val', 'test'):
    colors = random.integers(0, 256, (12, 1, 1, 1, 3))
    images = np.clip(colors + random.normal(0, 30, (12, 20, size, size, 3)), 0, 255)
    splits[split] = ImagePool(images.reshape(-1, size, size, 3).astype(np.uint8),
                              np.arange(12, dtype=np.int32) * 20,
                              np.full(12, 20, np.int32))
  names = {split: tuple(f'{split}{i}' for i in range(12)) for split in splits}
  return Dataset('colors', **splits, class_names=names, flip=True).normalized_by(
      Normalization.of([0.5] * 3, [0.3] * 3))


@pytest.mark.slow
def test_a_whole_table_from_a_run_and_from_scratch_resumes(tmp_path):
  budget = transfer_rows.Budget(
      (str(tiny_runs.pretrained()), 'scratch'), ('glyphs',),
      ('update_theta', 'ss_channel', 'ss_channel_ht'), (1,), 1, 16,
      ('--query=3', '--steps=2', '--num_ordinary_tasks=2', '--num_hard_tasks=2', '--inner_steps=2',
       '--validation_tasks=4', '--validate_every=2', '--crop_padding=0'),
      ('--width=4', '--steps=4', '--batch_size=8', '--steps_per_call=2', '--validation_tasks=4'),
      6, ('fold:1/8', 'all'))

  def run():
    return transfer.reproduce(budget, lambda target, size, channels: dataset(size or 16),
                              workdir=str(tmp_path), command='x', first_seed=3,
                              machine=runs.Machine())

  results = run()
  rows = [(cell['row'], cell['part']) for cell in results['cells']]
  assert rows == [('update_theta', 'all'), ('ss_channel', 'all'), ('ss_channel_ht', 'all'),
                  ('update_theta', 'all')]  # an eighth of twelve classes is too few; scratch
  for cell in results['cells']:
    [accuracy], [facts] = cell['by_seed'], cell['facts']
    assert 0 <= accuracy <= 1 and facts['inner_lr'] in inner_rates.RATES
    assert (facts['size'] > 0) == (cell['row'] != 'update_theta')
    if cell['row'] != 'update_theta':
      assert facts['base_classes'] == 12
      assert list(facts['curve']) == [0, 2] and facts['images_per_step'] == 2 * 5 * (1 + 3)
  assert (tmp_path / 'curves.png').stat().st_size > 1000
  text = (tmp_path / 'table.md').read_text()
  assert '](curves.png)' in text
  assert f'{dataset(16).name}, 4CONV pre-trained on it, 5-way 1-shot' in text
  assert json.loads(json.dumps(results)) == run()


@pytest.mark.parametrize('name, flags', [
    ('ss_channel', ['--nohard_tasks']), ('ss_channel_ht', ['--hard_tasks']),
    ('ss_channel_ht4x12', ['--hard_tasks', '--num_ordinary_tasks=4', '--num_hard_tasks=12']),
    ('ss_channel_ht_equal', ['--hard_tasks', '--failure_weights=equal'])])
def test_a_row_says_its_hard_tasks(name, flags):
  assert transfer_rows.flags_of(name) == (*transfer_rows.flags_of('ss_channel')[:-1], *flags)
