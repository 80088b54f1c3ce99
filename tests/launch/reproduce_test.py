"""Reproducing a published table: its rows, resuming, refusals with stand-ins for the phases; one real run."""
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from launch import meta_train as launcher
from launch.reproduction import budgets, figures, published, recipes, report, rows
from mtl_jax import learnable
from mtl_jax.phases.pretrain import PretrainConfig
from mtl_jax.runs import runs, tables, workdirs
from tests import tiny_runs
from tests.launch.ablation_test import PRESETS, ROWS
from tests.phases import toy_dataset, toy_pool

TINY = budgets.BUDGETS['smoke']._replace(num_tasks=6, network_loop_tasks=4)
ABLATION = rows.Request('ablation', 'tiny', TINY, 'toy', (1,), (0,))
SEEDS = (3, 4)
CURVES = ['--table=curves', '--budget=smoke', '--width=4', '--pretrain_steps=1', '--num_tasks=6', '--seed=3']


def dataset():
  """Enough images for 15 queries per class."""
  toy = toy_dataset()
  return toy._replace(**{split: toy_pool([17] * 6, seed) for seed, split in enumerate(('train', 'val', 'test'))})


class Stopped(Exception):
  pass


class Phases:
  """Stands in for `mtl_jax.runs`: settings as the real ones have them, accuracies of its own; `stop_at` stops it."""
  Validation = runs.Validation
  stop_at = None

  def pretrain_run(self, dataset, *, workdir, backbone, config, **_):
    return self._finish(workdir, {'backbone': backbone, 'config': config._asdict()})

  def meta_train_run(self, dataset, *, workdir, pretrained, config, validation, **_):
    assert validation.adapts == config.adapts
    return self._finish(workdir, {'pretrained': pretrained, 'config': config._asdict()})

  def meta_test_run(self, dataset, *, workdir, checkpoint, config, protocol, **_):
    workdirs.claim(workdir, {'checkpoint': checkpoint, 'config': config._asdict()})
    if workdirs.read_results(workdir) is None:
      random = np.random.default_rng(len(tiny_runs.contents(pathlib.Path(workdir).parents[2])))  # one of its own
      workdirs.write_array(workdir, 'accuracies.npy', random.uniform(size=config.num_tasks).astype(np.float32))
    return self._finish(workdir, {'checkpoint': checkpoint, 'config': config._asdict()})

  def _finish(self, workdir, settings):
    if self.stop_at and self.stop_at in workdir:
      raise Stopped
    workdirs.claim(workdir, settings)
    if workdirs.read_results(workdir) is None:
      workdirs.write_results(workdir, {'steps': 4, 'best_step': 2, 'validation_accuracy': 0.5, 'seed': 0,
                                       'seconds': 36})
    return workdirs.read_results(workdir)


def reproduce(request, workdir, stop_at=None):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rows, 'runs', Phases())
    patch.setattr(Phases, 'stop_at', stop_at)
    return rows.reproduce(request, dataset(), workdir=str(workdir), command='python -m launch.reproduce')


@pytest.fixture(scope='module')
def ablation(tmp_path_factory):
  """The ablation, stopped in its last row and started again: (work directory, its files as it was stopped)."""
  workdir = tmp_path_factory.mktemp('ablation') / 'run'
  with pytest.raises(Stopped):
    reproduce(ABLATION, workdir, stop_at='ss_all_ht')
  stopped = tiny_runs.contents(workdir)
  reproduce(ABLATION, workdir)
  return workdir, stopped


@pytest.fixture(scope='module')
def curves(tmp_path_factory):
  """The real thing, from the command line, of two seeds: (work directory, results, what it printed)."""
  workdir = tmp_path_factory.mktemp('curves') / 'run'
  result = launch(*CURVES, '--num_seeds=2', '--meta_steps=1', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  return workdir, json.loads((workdir / 'results.json').read_text()), result.stdout


def launch(*arguments):
  return subprocess.run([sys.executable, '-m', 'launch.reproduce', *arguments], cwd=tiny_runs.ROOT,
                        env=tiny_runs.environment(), capture_output=True, text=True, timeout=1200)


def markdown_table(workdir):
  """The cells of the first table of table.md, header first."""
  lines = [line for line in (workdir / 'table.md').read_text(encoding='utf-8').splitlines() if line.startswith('|')]
  cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
  assert set(cells[1]) <= {'---', '---:'}
  assert {len(row) for row in cells} == {len(cells[0])}
  return [cells[0], *cells[2:]]


def as_printed(path):
  """What the table has for the accuracies that one meta-test wrote."""
  values = np.load(path / 'accuracies.npy').astype(np.float64)
  return f'{100 * values.mean():.2f} ± {196 * values.std() / len(values)**0.5:.2f}'


def test_the_ablation_has_the_rows_of_the_paper_with_the_figures_of_their_runs(ablation):
  workdir, _ = ablation
  header, *lines = markdown_table(workdir)
  assert header == ['row', 'published', 'with HT', 'paper protocol', 'with HT', 'inductive', 'with HT', 'hours']
  assert [row[0] for row in lines] == list(ROWS.values())
  for preset, cells in zip(ROWS, lines, strict=True):
    hard = preset if preset.startswith('update') else f'{preset}_ht'  # these know no hard tasks: one run, shown twice
    expected = [as_printed(workdir / f'{name}_1shot_seed0' / 'meta_test' / protocol)
                for protocol in ('paper', 'inductive') for name in (preset, hard)]
    assert cells[3:7] == expected
  assert lines[6][1:3] == ['43.6 ± 1.8', '45.1 ± 1.8'] and lines[0][1:3] == ['38.4', '–']


def test_each_row_has_the_settings_of_the_method_that_it_is_named_after(ablation):
  workdir, _ = ablation
  folders = sorted(path.name for path in workdir.glob('*_seed0'))
  assert len(folders) == 12
  for name in folders:
    preset = name.removesuffix('_1shot_seed0')
    row, hard = ROWS[preset.removesuffix('_ht')], preset.endswith('_ht')
    tested = json.loads((workdir / name / 'meta_test' / 'paper' / 'settings.json').read_text())
    adapts = tested['config']['adapts']
    if preset.startswith('update'):
      assert tested['checkpoint'] == str(workdir / 'pretrain')
      assert learnable.row_name('none', 'all', adapts, False) == row
    else:
      assert tested['checkpoint'] == str(workdir / name)
      trained = json.loads((workdir / name / 'settings.json').read_text())['config']
      assert learnable.row_name(trained['learn'], trained['scope'], trained['adapts'], trained['hard_tasks'] > 0) == (
          f'{row}, {"HT " if hard else ""}meta-batch')
      assert adapts == trained['adapts']
    assert tested['config']['num_tasks'] == (6 if adapts == 'head' else 4)
    assert (tested['config']['query'], tested['config']['flip_support']) == (1, True)


def test_a_stopped_reproduction_runs_only_what_was_not_finished(ablation):
  workdir, stopped = ablation
  after = tiny_runs.contents(workdir)
  assert stopped.items() <= after.items()
  new = {path.split('/')[0] for path in after.keys() - stopped.keys()}
  assert new == {'ss_all_ht_1shot_seed0', 'results.json', 'table.md'}


def test_a_finished_reproduction_changes_nothing(ablation):
  workdir, _ = ablation
  before = tiny_runs.contents(workdir)
  results = reproduce(ABLATION, workdir)
  assert tiny_runs.contents(workdir) == before
  assert report.markdown(results) == (workdir / 'table.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(('changes', 'says'), [
    ({'seeds': (1,)}, r'seeds is \[0\] there and \[1\] here'),
    ({'table': 'curves'}, 'table is "ablation" there and "curves" here'),
    ({'budget': TINY._replace(num_tasks=9)}, 'num_tasks is 6 there and 9 here'),
    ({'budget': TINY._replace(pretrain=('--steps=5',))}, 'pretrain is .* here'),
])
def test_other_settings_are_refused_and_nothing_is_written_over(ablation, changes, says):
  workdir, _ = ablation
  before = tiny_runs.contents(workdir)
  with pytest.raises(ValueError, match=says):
    reproduce(ABLATION._replace(**changes), workdir)
  assert tiny_runs.contents(workdir) == before


def test_curves_are_those_of_the_metrics(curves):
  workdir, results, _ = curves
  assert (workdir / 'curves_1shot.png').read_bytes().startswith(b'\x89PNG\r\n')
  assert '<svg' in (workdir / 'curves_1shot.svg').read_text(encoding='utf-8')
  drawn = results['curves']['1']
  for preset in ('ss_all', 'ss_all_ht'):
    for index, seed in enumerate(SEEDS):
      lines = map(json.loads, (workdir / f'{preset}_1shot_seed{seed}' / 'metrics.jsonl').read_text().splitlines())
      validated = [(line['step'], line['validation_accuracy']) for line in lines if 'validation_accuracy' in line]
      assert validated == list(zip(drawn[preset]['steps'], drawn[preset]['validation_accuracy'][index], strict=True))
      assert [step for step, _ in validated] == ([0, 10] if preset == 'ss_all' else [0, 15])  # whole cycles
  axes = figures.plot(drawn, 'title').axes[0]
  assert [text.get_text() for text in axes.get_legend().get_texts()] == ['meta-batch', 'HT meta-batch']
  for line, curve in zip(axes.lines, drawn.values(), strict=True):
    np.testing.assert_array_equal(line.get_xdata(), curve['steps'])
    np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(curve['validation_accuracy'], axis=0), rtol=1e-12)
  assert len(axes.collections) == 2  # a band for each


def test_seeds_are_pooled_and_rows_compared_task_by_task(curves):
  workdir, results, _ = curves

  def accuracies(preset):
    return [np.load(workdir / f'{preset}_1shot_seed{seed}' / 'meta_test' / 'inductive' / 'accuracies.npy')
            for seed in SEEDS]

  row = results['rows']['ss_all_ht']['1']['inductive']
  assert row['accuracy'] == pytest.approx(np.mean(accuracies('ss_all_ht'))) and row['num_tasks'] == 6
  assert row['by_seed'] == pytest.approx([np.mean(values) for values in accuracies('ss_all_ht')])
  gains = {(gain['protocol'], gain['over']): gain for gain in results['gains']}
  assert gains.keys() == {(p, over) for p in ('paper', 'inductive') for over in ('ss_all', 'update_theta')}
  difference = np.concatenate(accuracies('ss_all_ht')) - np.concatenate(accuracies('update_theta'))
  gain = gains['inductive', 'update_theta']
  assert gain['difference'] == pytest.approx(difference.mean(), abs=1e-7)
  assert gain['ci95'] == pytest.approx(1.96 * difference.std() / 12**0.5, abs=1e-6)


def test_the_main_table_lists_what_was_only_published(curves):
  workdir, results, stdout = curves
  header, *lines = markdown_table(workdir)
  assert header[:4] == ['method', 'published', 'paper protocol', 'inductive']
  assert [row[0] for row in lines] == [row.method for row in published.MAIN] + ['no meta-learning: update θ']
  assert lines[0][1:] == ['38.1 ± 1.7', *['–'] * 5]
  assert all(re.fullmatch(r'\d+\.\d\d ± \d+\.\d\d', cell) for row in lines[-3:] for cell in row[2:4])
  assert 'curves_1shot.png' in (workdir / 'table.md').read_text(encoding='utf-8')
  assert 'MTL, HT meta-batch: SS[Θ;θ]' in stdout and '45.1 ± 1.8' in stdout
  assert results.keys() >= {'command', 'seconds', 'device', 'versions', 'seed'}
  assert (results['dataset'], results['seeds']) == ('glyphs', list(SEEDS))


def test_published_figures():
  assert all(len(row.figures) == len(published.COLUMNS) for row in (*published.MAIN, *published.ABLATION))
  assert published.figure('ss_all_ht', 'fc100', 10) == (63.4, 0.8)
  assert published.figure('update_network', 'mini_imagenet', 5) == (64.6, None)
  assert published.figure('ft_theta_ht', 'fc100', 1) is published.figure('ss_all', 'fc100', 2) is None


@pytest.mark.parametrize('path', [*sorted(PRESETS.glob('*.flags')),
                                  *sorted(PRESETS.parent.glob('fc100_conv4_*shot.flags'))], ids=lambda path: path.stem)
def test_a_preset_is_read_as_the_launcher_reads_it(path):
  flags.FLAGS.unparse_flags()
  flags.FLAGS(['meta_train', f'--flagfile={path}', '--workdir=-', '--pretrained=-'])
  config = launcher.config(toy_dataset())
  values = recipes.parse(recipes.preset(str(path.relative_to(PRESETS.parent).with_suffix(''))))
  assert recipes.meta_train(values, toy_dataset()) == config
  assert recipes.validation(values).like(config) == launcher.options.validation(config.inner_lr).like(config)


def test_a_preset_of_pretraining_is_read():
  values = recipes.parse(recipes.preset('fc100_conv4_pretrain'))
  assert recipes.backbone(values) == {'name': 'conv4', 'width': None, 'compute_dtype': 'float32'}
  assert recipes.readout(values) == {'norm': 'l2', 'mirror': True}
  assert recipes.validation(values) == runs.Validation(every=1500, shot=5)
  assert recipes.pretrain(values, toy_dataset()) == PretrainConfig(steps=15000, color=0.3, crop_padding=2)


def test_every_budget_reads():
  for budget in budgets.BUDGETS.values():
    for table in rows.TABLES:
      request = rows.Request(table, '-', budget, 'mini_imagenet', (1, 5), (0,))
      values = [rows.flags_of(job, request) for job in rows.jobs(request)]
      assert all(recipes.meta_train(v, toy_dataset()).shot == int(v['shot']) for v in values)
    assert recipes.pretrain(recipes.parse(budget.pretrain), toy_dataset()).steps >= 600
  with pytest.raises(ValueError, match="expected a flag of pre-training or meta-training, got '--stepz=3'"):
    recipes.parse(('--stepz=3',))


def test_markdown_escapes_what_would_end_a_cell():
  assert tables.markdown(['a', 'b'], [['x|y', '1']]).splitlines() == ['| a | b |', '|---|---:|', r'| x\|y | 1 |']


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--shots=1,0'], "--shots to be different numbers of at least 1, such as 1,5, got '1,0'"),
    (['--validate_every=3'], 'reproduce has no --validate_every: the budget decides'),
    (['--dataset=imagenet'], "unknown data set 'imagenet'"),
    (['--budget=huge'], 'smoke|cpu|full'),
])
def test_bad_flags_fail_before_data_is_read(arguments, says, tmp_path):
  result = launch('--table=fc100', '--budget=cpu', f'--workdir={tmp_path / "run"}', *arguments)
  assert result.returncode in (1, 2) and result.stderr.startswith('error: ') and says in result.stderr
  assert len(result.stderr.splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_other_settings_on_the_command_line_are_refused_in_one_line(curves):
  workdir, *_ = curves
  before = tiny_runs.contents(workdir)
  refused = launch(*CURVES, '--num_seeds=2', '--meta_steps=2', f'--workdir={workdir}')
  assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
  assert 'belongs to a run with other settings' in refused.stderr
  assert tiny_runs.contents(workdir) == before
