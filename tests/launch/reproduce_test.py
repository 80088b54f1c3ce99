"""Reproducing a published table: rows, resuming and refusals over stand-ins, and one real run."""
import json
import pathlib
import re

import numpy as np
import pytest
from absl import flags

from launch import command, meta_train, pretrain
from launch.flags import declared, method, network, presets, task
from launch.reproduction import budgets, curves, paper, presentation, rows, table_runs
from mtl_jax import configs, learnable, runs
from mtl_jax.configs import Learn, PretrainConfig
from mtl_jax.runs import array_files, tables, workdirs
from tests import tiny_runs
from tests.launch.ablation_test import ROWS
from tests.phases import toy_dataset, toy_pool

TINY = budgets.BUDGETS['smoke']._replace(num_tasks=6, network_loop_tasks=4)
ABLATION = rows.Request('ablation', 'tiny', TINY, 'toy', (1,), (0,))
SEEDS = (3, 4)
CURVES = ['--table=curves', '--budget=smoke', '--width=4', '--pretrain_steps=1', '--num_tasks=6',
          '--seed=3', '--num_seeds=2']


def dataset():
  """Draws enough images for 15 queries per class."""
  return toy_dataset()._replace(**{split: toy_pool([17] * 6, seed) for seed, split in
                                   enumerate(('train', 'val', 'test'))})


class Stopped(Exception):
  pass


class Phases:
  """Stands in for `mtl_jax.runs`: settings as the real ones have them, accuracies of its own.

  `stop_at` stops it in the work directory that has this in its name.
  """
  stop_at = None

  def pretrain_run(self, dataset, *, workdir, backbone, config, **_):
    return self._finish(workdir, {'backbone': backbone, 'config': configs.to_json(config)})

  def meta_train_run(self, dataset, *, workdir, pretrained, config, validation, **_):
    assert validation.inner.adapts == config.inner.adapts
    return self._finish(workdir, {'pretrained': pretrained, 'config': configs.to_json(config)})

  def meta_test_run(self, dataset, *, workdir, checkpoint, config, protocol, **_):
    settings = {'checkpoint': checkpoint, 'config': configs.to_json(config)}
    workdirs.claim(workdir, settings)
    if workdirs.read_results(workdir) is None:
      # Random numbers of its own: there are more files in the folder each time.
      files = tiny_runs.contents(pathlib.Path(workdir).parents[2])
      accuracies = np.random.default_rng(len(files)).uniform(size=config.num_tasks)
      array_files.write(workdir, 'accuracies.npy', accuracies.astype(np.float32))
    return self._finish(workdir, settings)

  def _finish(self, workdir, settings):
    if self.stop_at and self.stop_at in workdir:
      raise Stopped
    workdirs.claim(workdir, settings)
    if workdirs.read_results(workdir) is None:
      workdirs.write_results(workdir, {'steps': 4, 'best_step': 2, 'validation_accuracy': 0.5,
                                       'seed': 0, 'seconds': 36})
    return workdirs.read_results(workdir)


def reproduce(request, workdir, stop_at=None):
  with pytest.MonkeyPatch.context() as patch:
    for module in (rows, table_runs):
      patch.setattr(module, 'runs', Phases())
    patch.setattr(Phases, 'stop_at', stop_at)
    return rows.reproduce(request, dataset(), workdir=str(workdir), machine=runs.Machine(),
                          command='python -m launch.reproduce')


@pytest.fixture(scope='module')
def ablation(tmp_path_factory):
  """Runs the ablation, stopped in its last row and started again: its folder, and what was there.
  """
  workdir = tmp_path_factory.mktemp('ablation') / 'run'
  with pytest.raises(Stopped):
    reproduce(ABLATION, workdir, stop_at='ss_all_ht')
  stopped = tiny_runs.contents(workdir)
  reproduce(ABLATION, workdir)
  return workdir, stopped


@pytest.fixture(scope='module')
def drawn_curves(tmp_path_factory):
  """Runs the real thing, of two seeds: (work directory, results, what it printed)."""
  workdir = tmp_path_factory.mktemp('curves') / 'run'
  result = launch(*CURVES, '--meta_steps=1', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  return workdir, json.loads((workdir / 'results.json').read_text()), result.stdout


def launch(*arguments):
  return tiny_runs.start('launch.reproduce', *arguments, timeout=1200)


def markdown_table(workdir):
  """Reads the cells of the first table of table.md, header first."""
  lines = (workdir / 'table.md').read_text(encoding='utf-8').splitlines()
  cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines
           if line.startswith('|')]
  assert set(cells[1]) <= {'---', '---:'}
  assert {len(row) for row in cells} == {len(cells[0])}
  return [cells[0], *cells[2:]]


def as_printed(path):
  """Returns what the table has for the accuracies that one meta-test wrote."""
  values = np.load(path / 'accuracies.npy').astype(np.float64)
  return f'{100 * values.mean():.2f} ± {196 * values.std() / len(values)**0.5:.2f}'


def test_the_ablation_has_the_rows_of_the_paper_with_the_figures_of_their_runs(ablation):
  workdir, _ = ablation
  header, *lines = markdown_table(workdir)
  assert header == ['row', 'published', 'with HT', 'paper protocol', 'with HT', 'inductive',
                    'with HT', 'hours']
  assert [row[0] for row in lines] == list(ROWS.values())
  for preset, cells in zip(ROWS, lines, strict=True):
    # A row without an outer loop knows no hard tasks: one run, shown twice.
    hard = preset if preset.startswith('update') else f'{preset}_ht'
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
    inner = tested['config']['inner']
    if preset.startswith('update'):
      assert tested['checkpoint'] == str(workdir / 'pretrain')
      assert learnable.row_name(Learn('none'), inner['adapts'], False) == row
    else:
      assert tested['checkpoint'] == str(workdir / name)
      trained = json.loads((workdir / name / 'settings.json').read_text())['config']
      learn = configs.from_json(Learn, trained['learn'])
      found = learnable.row_name(learn, trained['inner']['adapts'], trained['num_hard_tasks'] > 0)
      assert found == f'{row}, {"HT " if hard else ""}meta-batch'
      assert inner['adapts'] == trained['inner']['adapts']
    assert tested['config']['num_tasks'] == (6 if inner['adapts'] == 'head' else 4)
    assert (tested['config']['query'], tested['config']['flip_support']) == (1, True)
    assert inner['batch_stats_mode'] == 'batch'


def test_a_stopped_reproduction_runs_only_what_was_not_finished(ablation):
  workdir, stopped = ablation
  after = tiny_runs.contents(workdir)
  assert stopped.pop('spent.json') != after.pop('spent.json')  # the time of both
  assert stopped.items() <= after.items()
  new = {path.split('/')[0] for path in after.keys() - stopped.keys()}
  assert new == {'ss_all_ht_1shot_seed0', 'results.json', 'table.md'}


def test_a_finished_reproduction_changes_nothing(ablation):
  workdir, _ = ablation
  before = tiny_runs.contents(workdir)
  results = reproduce(ABLATION, workdir)
  assert tiny_runs.contents(workdir) == before
  assert presentation.markdown(results) == (workdir / 'table.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(('changes', 'says'), [
    ({'seeds': (1,)}, r'seeds: \[0\] there, \[1\] here'),
    ({'table': 'curves'}, 'table: "ablation" there, "curves" here'),
    ({'budget': TINY._replace(num_tasks=9)}, 'num_tasks: 6 there, 9 here'),
    ({'budget': TINY._replace(pretrain=('--steps=5',))},
     'pretrain: "--steps=600 .*" there, "--steps=5" here'),
])
def test_other_settings_are_refused_and_nothing_is_written_over(ablation, changes, says):
  workdir, _ = ablation
  before = tiny_runs.contents(workdir)
  with pytest.raises(ValueError, match=says):
    reproduce(ABLATION._replace(**changes), workdir)
  assert tiny_runs.contents(workdir) == before


@pytest.mark.slow
def test_curves_are_those_of_the_metrics(drawn_curves):
  workdir, results, _ = drawn_curves
  assert (workdir / 'curves_1shot.png').read_bytes().startswith(b'\x89PNG\r\n')
  assert '<svg' in (workdir / 'curves_1shot.svg').read_text(encoding='utf-8')
  drawn = results['curves']['1']
  for preset in ('ss_all', 'ss_all_ht'):
    for index, seed in enumerate(SEEDS):
      metrics = (workdir / f'{preset}_1shot_seed{seed}' / 'metrics.jsonl').read_text()
      lines = map(json.loads, metrics.splitlines())
      validated = [(line['step'], line['validation_accuracy']) for line in lines
                   if 'validation_accuracy' in line]
      assert validated == list(zip(drawn[preset]['steps'],
                                   drawn[preset]['validation_accuracy'][index], strict=True))
      # Whole cycles.
      assert [step for step, _ in validated] == ([0, 10] if preset == 'ss_all' else [0, 15])
  axes = curves.plot(drawn, 'title').axes[0]
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert labels == ['meta-batch', 'HT meta-batch']
  for line, curve in zip(axes.lines, drawn.values(), strict=True):
    np.testing.assert_array_equal(line.get_xdata(), curve['steps'])
    np.testing.assert_allclose(line.get_ydata(),
                               100 * np.mean(curve['validation_accuracy'], axis=0), rtol=1e-12)
  assert len(axes.collections) == 2  # a band for each


@pytest.mark.slow
def test_seeds_are_pooled_and_rows_compared_task_by_task(drawn_curves):
  workdir, results, _ = drawn_curves

  def accuracies(preset):
    folders = [workdir / f'{preset}_1shot_seed{seed}' / 'meta_test' for seed in SEEDS]
    return [np.load(folder / 'inductive' / 'accuracies.npy') for folder in folders]

  row = results['rows']['ss_all_ht']['1']['inductive']
  assert row['accuracy'] == pytest.approx(np.mean(accuracies('ss_all_ht')))
  assert row['num_tasks'] == 6
  assert row['by_seed'] == pytest.approx([np.mean(values) for values in accuracies('ss_all_ht')])
  gains = {(gain['protocol'], gain['over']): gain for gain in results['gains']}
  assert gains.keys() == {(protocol, over) for protocol in ('paper', 'inductive')
                          for over in ('ss_all', 'update_theta')}
  ours, others = (np.concatenate(accuracies(name)) for name in ('ss_all_ht', 'update_theta'))
  difference = ours - others
  gain = gains['inductive', 'update_theta']
  assert gain['difference'] == pytest.approx(difference.mean(), abs=1e-7)
  assert gain['ci95'] == pytest.approx(1.96 * difference.std() / 12**0.5, abs=1e-6)


@pytest.mark.slow
def test_the_main_table_lists_what_was_only_published(drawn_curves):
  workdir, results, stdout = drawn_curves
  header, *lines = markdown_table(workdir)
  assert header[:4] == ['method', 'published', 'paper protocol', 'inductive']
  methods = [row.method for row in paper.MAIN]
  assert [row[0] for row in lines] == [*methods, 'no meta-learning: update θ']
  assert lines[0][1:] == ['38.1 ± 1.7', *['–'] * 5]
  assert all(re.fullmatch(r'\d+\.\d\d ± \d+\.\d\d', cell) for row in lines[-3:]
             for cell in row[2:4])
  assert 'curves_1shot.png' in (workdir / 'table.md').read_text(encoding='utf-8')
  assert 'MTL, HT meta-batch: SS[Θ;θ]' in stdout and '45.1 ± 1.8' in stdout
  assert results.keys() >= {'command', 'seconds', 'device', 'versions', 'seed'}
  assert (results['dataset'], results['seeds']) == ('glyphs', list(SEEDS))


def test_published_figures():
  assert all(len(row.figures) == len(paper.COLUMNS) for row in (*paper.MAIN, *paper.ABLATION))
  assert paper.figure('ss_all_ht', 'fc100', 10) == (63.4, 0.8)
  assert paper.figure('update_network', 'mini_imagenet', 5) == (64.6, None)
  assert paper.figure('ft_theta_ht', 'fc100', 1) is paper.figure('ss_all', 'fc100', 2) is None


OF_META_TRAINING = [name for name in presets.names()
                    if name.startswith('ablation/') or 'fc100_conv4_' in name and 'shot' in name]


@pytest.mark.parametrize('name', OF_META_TRAINING)
def test_a_preset_is_read_as_the_command_reads_it(name):
  said = command.parse(meta_train.COMMAND, [f'--preset={name}', '--workdir=-', '--pretrained=-'])
  read = declared.parse(meta_train.FLAGS, presets.read(name), require=False)
  config = method.meta_train_config(said, toy_dataset())
  assert method.meta_train_config(read, toy_dataset()) == config
  assert task.validation(read, config.inner) == task.validation(said, config.inner)


def test_a_preset_of_pretraining_is_read():
  values = declared.parse(pretrain.FLAGS, presets.read('fc100_conv4_pretrain'), require=False)
  assert network.backbone_options(values) == {'name': 'conv4', 'width': None,
                                              'compute_dtype': 'float32'}
  assert network.readout_options(values) == {'norm': 'l2', 'mirror': True}
  assert task.validation(values, method.inner(values)) == runs.Validation(every=1500, shot=5)
  assert network.pretrain_config(values, toy_dataset()) == PretrainConfig(
      steps=15000, color=0.3, crop_padding=2)


def test_every_budget_reads():
  for budget in budgets.BUDGETS.values():
    for table in rows.TABLES:
      request = rows.Request(table, '-', budget, 'mini_imagenet', (1, 5), (0,))
      for job in rows.jobs(request):
        config = method.meta_train_config(rows.flags_of(job, request), toy_dataset())
        assert config.shot == job.shot
    values = declared.parse(pretrain.FLAGS, budget.pretrain, require=False)
    assert network.pretrain_config(values, toy_dataset()).steps >= 600


def test_a_budget_with_a_flag_that_no_phase_has_is_refused(tmp_path):
  budget = TINY._replace(pretrain=('--stepz=3',))
  with pytest.raises(flags.UnrecognizedFlagError, match="'stepz'"):
    reproduce(ABLATION._replace(budget=budget), tmp_path / 'run')


def test_markdown_escapes_what_would_end_a_cell():
  assert tables.markdown(['a', 'b'], [['x|y', '1']]).splitlines() == [
      '| a | b |', '|---|---:|', r'| x\|y | 1 |']


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--shots=1,0'], "--shots to be different numbers of at least 1, such as 1,5, got '1,0'"),
    (['--pretrained=nowhere'], 'work directory nowhere does not exist'),
    (['--pretrained=nowhere', '--width=3'], '--width do not go with --pretrained'),
    (['--validate_every=3'], 'reproduce has no --validate_every: the budget decides'),
    (['--dataset=imagenet'], "unknown data set 'imagenet'"),
    (['--budget=huge'], 'one of smoke, cpu, full'),
])
def test_bad_flags_fail_before_data_is_read(arguments, says, tmp_path):
  result = launch('--table=fc100', '--budget=cpu', f'--workdir={tmp_path / "run"}', *arguments)
  assert result.returncode in (1, 2) and result.stderr.startswith('error: ')
  assert says in result.stderr and len(result.stderr.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_other_settings_on_the_command_line_are_refused_in_one_line(drawn_curves):
  workdir, *_ = drawn_curves
  before = tiny_runs.contents(workdir)
  refused = launch(*CURVES, '--meta_steps=2', f'--workdir={workdir}')
  assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
  assert 'belongs to a run with other settings' in refused.stderr
  assert tiny_runs.contents(workdir) == before
