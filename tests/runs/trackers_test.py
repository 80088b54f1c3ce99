"""Trackers: what they are told, that a resumed run goes on with theirs, and that none ends a run.

The libraries are stood in for by modules of the same calls; `tests/check_trackers.py` has the real
ones.
"""
import logging
import sys
import types

import pytest

from launch import command, meta_test, meta_train, pretrain, quickstart
from mtl_jax import data, runs
from mtl_jax.configs import InnerLoop, MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.runs import finished, metrics, trackers, trainings, workdirs
from tests.phases import toy_dataset
from tests.runs import fake_trackers

SETTINGS = {'command': 'pretrain', 'seed': 3, 'config': {'lr': 0.1, 'inner': {'steps': 20}}}


@pytest.fixture
def calls(monkeypatch):
  """The calls of both libraries, which work."""
  monkeypatch.delenv('WANDB_PROJECT', raising=False)
  monkeypatch.delenv('MLFLOW_EXPERIMENT_NAME', raising=False)
  found = []
  fake_trackers.install(monkeypatch, fake_trackers.wandb(found), fake_trackers.mlflow(found))
  return found


def claimed(folder):
  workdirs.claim(folder, SETTINGS)
  return folder


def write(workdir, steps, *names, resume_step=0, phase='pretrain'):
  with metrics.MetricWriter(workdir, resume_step, phase, names) as writer:
    for step in steps:
      writer.write(step, {'loss': 1 / (step + 3)}, {'rate': 12.5})


def of(calls, name):
  return [arguments for called, arguments in calls if called == name]


def test_wandb_is_told_the_settings_and_every_step(tmp_path, calls):
  workdir = claimed(tmp_path / 'runs' / 'pre')
  write(workdir, [0, 4], 'wandb')
  [init] = of(calls, 'init')
  assert (init['project'], init['name'], init['job_type']) == ('mtl_jax', 'runs/pre', 'pretrain')
  assert (init['dir'], init['config'], init['id']) == (str(workdir), SETTINGS, None)
  assert init['settings'].finish_timeout > 0  # else a lost network would hold the run up for ever
  assert of(calls, 'log') == [{'data': {'loss': 1 / 3, 'rate': 12.5}, 'step': 0},
                              {'data': {'loss': 1 / 7, 'rate': 12.5}, 'step': 4}]
  assert calls[-1] == ('finish', {'exit_code': 0})
  assert not (workdir / 'tensorboard').exists()


def test_mlflow_is_told_the_settings_and_every_step(tmp_path, calls):
  workdir = claimed(tmp_path / 'runs' / 'pre')
  write(workdir, [0, 4], 'mlflow')
  assert of(calls, 'create_run') == [{'experiment_id': 'e', 'run_name': 'runs/pre'}]
  settings, first, second = of(calls, 'log_batch')
  assert settings['params'] == [('command', 'pretrain'), ('seed', '3'), ('config.lr', '0.1'),
                                ('config.inner.steps', '20')]
  assert first['metrics'] == [('loss', 1 / 3, 0), ('rate', 12.5, 0)]
  assert second['metrics'] == [('loss', 1 / 7, 4), ('rate', 12.5, 4)]
  assert calls[-1] == ('set_terminated', {'run_id': 'm0', 'status': 'FINISHED'})


def test_projects_have_the_names_that_the_libraries_variables_say(tmp_path, calls, monkeypatch):
  monkeypatch.setenv('WANDB_PROJECT', 'beetles')
  monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'flies')
  write(claimed(tmp_path / 'x'), [0], 'wandb', 'mlflow')
  assert of(calls, 'init')[0]['project'] == 'beetles'
  assert of(calls, 'create_experiment') == [{'name': 'flies'}]


def test_a_resumed_run_goes_on_with_its_runs(tmp_path, calls, monkeypatch):
  workdir = claimed(tmp_path / 'run')
  with pytest.raises(KeyboardInterrupt), metrics.MetricWriter(
      workdir, 0, 'pretrain', ('wandb', 'mlflow')) as writer:
    writer.write(2, {'loss': 1.0})
    raise KeyboardInterrupt
  assert calls[-2:] == [('set_terminated', {'run_id': 'm0', 'status': 'FAILED'}),
                        ('finish', {'exit_code': 1})]
  calls.clear()
  # W&B has the steps below 4 already, which an earlier process has uploaded.
  fake_trackers.install(monkeypatch, fake_trackers.wandb(calls, starting_step=4))
  write(workdir, [2, 4], 'wandb', 'mlflow', resume_step=1)
  assert of(calls, 'init')[0]['id'] == 'w0' and of(calls, 'init')[0]['resume'] == 'allow'
  assert [each['step'] for each in of(calls, 'log')] == [4]
  assert of(calls, 'update_run') == [{'run_id': 'm0', 'status': 'RUNNING'}]
  assert of(calls, 'create_run') == []
  assert {each['run_id'] for each in of(calls, 'log_batch')} == {'m0'}
  assert all(not each['params'] for each in of(calls, 'log_batch'))  # MLflow lets none be changed
  # Another phase in the same folder has a run of its own.
  write(workdir, [0], 'mlflow', phase='meta_test')
  assert len(of(calls, 'create_run')) == 1


@pytest.mark.parametrize('broken', ['init', 'log', 'finish', 'get_experiment_by_name', 'create_run',
                                    'log_batch', 'set_terminated'])
def test_a_tracker_that_fails_is_one_warning_and_no_more(tmp_path, monkeypatch, caplog, broken):
  whole, other, calls = claimed(tmp_path / 'whole'), claimed(tmp_path / 'other'), []
  write(whole, range(5), 'none')
  fake_trackers.install(monkeypatch, fake_trackers.wandb(calls, broken={broken}),
                        fake_trackers.mlflow(calls, broken={broken}))
  with caplog.at_level(logging.WARNING, logger='absl'):
    write(other, range(5), 'tensorboard', 'wandb', 'mlflow')
  [warning] = caplog.messages
  assert warning.startswith('--tracker=') and 'Broken: no network' in warning
  assert len(of(calls, broken)) == 1
  assert (other / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
  assert len(list((other / 'tensorboard' / 'pretrain').iterdir())) == 1


def test_none_leaves_the_lines_alone(tmp_path):
  write(claimed(tmp_path), range(3), 'none')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.jsonl', 'settings.json']


def test_all_phases_tell_their_trackers(tmp_path, calls, monkeypatch):
  machine, images = runs.Machine(trackers=('wandb', 'mlflow')), toy_dataset()
  pre, test, inner = tmp_path / 'pre', tmp_path / 'test', InnerLoop(steps=2)
  validation = runs.Validation(every=2, num_tasks=2, way=2, inner=inner)
  runs.pretrain_run(images, backbone={'name': 'conv4', 'width': 4}, seed=0, workdir=pre,
                    config=PretrainConfig(steps=2, batch_size=4, steps_per_call=2),
                    validation=validation, machine=machine)
  runs.meta_test_run(images, checkpoint=pre, split='test', protocol='inductive', seed=0,
                     config=MetaTestConfig(num_tasks=2, way=2, query=2, inner=inner), workdir=test,
                     machine=machine)
  assert [each['job_type'] for each in of(calls, 'init')] == ['pretrain', 'meta_test']
  assert [each['status'] for each in of(calls, 'set_terminated')] == ['FINISHED'] * 2
  lines = [len((folder / 'metrics.jsonl').read_text().splitlines()) for folder in (pre, test)]
  assert len(of(calls, 'log')) == sum(lines) and not (pre / 'tensorboard').exists()
  assert of(calls, 'init')[1]['config']['checkpoint']['command'] == 'pretrain'

  def run(*_, trackers, **__):
    raise KeyError(trackers)

  # Meta-training hands them to the same loop; that it would compile takes long.
  monkeypatch.setattr(trainings, 'run', run)
  with pytest.raises(KeyError, match=r"\('wandb', 'mlflow'\)"):
    runs.meta_train_run(images, pretrained=pre, seed=0, workdir=tmp_path / 'mtl',
                        config=MetaTrainConfig(way=2, query=2), validation=validation,
                        machine=machine)


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
@pytest.mark.parametrize('found, arguments', [
    (pretrain, []), (meta_train, ['--pretrained=no/run']), (meta_test, ['--checkpoint=no/run']),
    (quickstart, [])], ids=['pretrain', 'meta_train', 'meta_test', 'quickstart'])
def test_a_package_that_is_missing_stops_a_command_first(tmp_path, monkeypatch, name, found,
                                                         arguments):
  def reached(*_, **__):
    pytest.fail('expected nothing to be read')

  monkeypatch.setattr(data, 'load', reached)
  monkeypatch.setattr(finished, 'trained_settings', reached)
  values = command.parse(found.COMMAND, [f'--workdir={tmp_path / "run"}', *arguments,
                                         f'--tracker=tensorboard,{name}'])
  # None in place of a module makes its import fail; a folder of that name is no package either.
  for module in (None, types.ModuleType(name)):
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ValueError, match=rf"--tracker={name} needs .*pip install "
                                         rf"'mtl_jax\[{name}\]'$"):
      found.run(values)
  assert not (tmp_path / 'run').exists()


def test_a_missing_package_is_refused_in_python_too(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ValueError, match='pip install'):
    runs.pretrain_run(toy_dataset(), backbone={'name': 'conv4'}, config=PretrainConfig(),
                      validation=runs.Validation(), seed=0, workdir=tmp_path / 'run',
                      machine=runs.Machine(trackers=('wandb',)))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('names, says', [
    (['tensorbord'], "expected --tracker among tensorboard, wandb, mlflow, or none, got 'tensorb"),
    (['none', 'tensorboard'], 'expected --tracker=none alone')])
def test_unknown_names_are_refused(names, says):
  with pytest.raises(ValueError, match=says):
    trackers.check(names)
