"""Modules with the calls of W&B and MLflow that `runs.trackers` makes, which are written down.

`tests/check_trackers.py` compares their signatures with those of the real libraries.
"""
import itertools
import sys
import types


class Broken(Exception):
  """What the fakes raise where the network is said to be gone."""


def wandb(calls, *, starting_step=0, broken=()):
  """Returns a module like `wandb`.

  Args:
    calls: list that calls are written down in, as (name, arguments).
    starting_step: of a run that goes on.
    broken: names of calls that fail.
  """
  ids = (f'w{number}' for number in itertools.count())

  def note(name, /, **arguments):
    calls.append((name, arguments))
    if name in broken:
      raise Broken('no network')

  class Settings:
    def __init__(self, *, console, finish_timeout):
      self.console, self.finish_timeout = console, finish_timeout

  class Run:
    def __init__(self, given):
      self.id, self.starting_step = given or next(ids), starting_step

    def log(self, data, step):
      note('log', data=data, step=step)

    def finish(self, exit_code):
      note('finish', exit_code=exit_code)

  def init(*, project, name, job_type, dir, config, id, resume, reinit, settings):
    note('init', project=project, name=name, job_type=job_type, dir=dir, config=config, id=id,
         resume=resume, reinit=reinit, settings=settings)
    return Run(id)

  return _module('wandb', init=init, Settings=Settings, Run=Run)


def mlflow(calls, *, broken=()):
  """Returns a module like `mlflow`; the arguments are those of `wandb`."""
  ids = (f'm{number}' for number in itertools.count())

  def note(name, /, **arguments):
    calls.append((name, arguments))
    if name in broken:
      raise Broken('no network')

  class MlflowClient:
    def get_experiment_by_name(self, name):
      note('get_experiment_by_name', name=name)
      made = [arguments for call, arguments in calls if call == 'create_experiment']
      return types.SimpleNamespace(experiment_id='e') if made else None

    def create_experiment(self, name):
      note('create_experiment', name=name)
      return 'e'

    def create_run(self, experiment_id, run_name):
      note('create_run', experiment_id=experiment_id, run_name=run_name)
      return types.SimpleNamespace(info=types.SimpleNamespace(run_id=next(ids)))

    def update_run(self, run_id, status):
      note('update_run', run_id=run_id, status=status)

    def log_batch(self, run_id, metrics=(), params=()):
      note('log_batch', run_id=run_id, metrics=list(metrics), params=list(params))

    def set_terminated(self, run_id, status):
      note('set_terminated', run_id=run_id, status=status)

  def metric(key, value, timestamp, step):
    assert isinstance(timestamp, int)
    return key, value, step

  entities = types.SimpleNamespace(Metric=metric, Param=lambda key, value: (key, value))
  return _module('mlflow', MlflowClient=MlflowClient, entities=entities)


def install(monkeypatch, *modules):
  """Installs modules where an import finds them, whether they are there or not.

  Args:
    monkeypatch: of pytest; it takes them away again.
    *modules: of `wandb` or `mlflow`.
  """
  for module in modules:
    monkeypatch.setitem(sys.modules, module.__name__, module)


def _module(name, **content):
  module = types.ModuleType(name)
  module.__file__ = f'{name}.py'
  module.__dict__.update(content)
  return module
