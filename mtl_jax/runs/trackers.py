"""Where the metrics of a run go beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

Each is a `Writer`. A run that is resumed goes on with the run of the tracker that it began, whose
id `trackers.json` keeps in the work directory. Nothing here decides a figure.
"""
import importlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from absl import logging

from mtl_jax.runs import workdirs
from mtl_jax.runs.event_files import EventFile

NONE = 'none'
DEFAULT = ('tensorboard',)
FILE = 'trackers.json'
_PROJECT = 'mtl_jax'
_FINISH_SECONDS = 60  # for what is left to upload; W&B itself would wait for ever
_MOST_CHARACTERS = 200  # of an error


class Writer(Protocol):
  """What `metrics.MetricWriter` hands the numbers of a run to."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the numbers of one step, by name; a step may come in several parts."""

  def close(self, finished: bool) -> None:
    """Ends; `finished` is False where the run was stopped or has failed."""


class Run(NamedTuple):
  """What a tracker is told of a run."""
  name: str
  phase: str
  workdir: str
  settings: Mapping[str, Any]
  kept_id: str | None  # of the tracker's run that a resumed run goes on with


class WandB:
  """A run of Weights & Biases; where it goes is for W&B's own variables to say, such as WANDB_MODE.

  Args:
    run: it is told of.
  """

  def __init__(self, run: Run):
    wandb = importlib.import_module('wandb')
    # What the run prints stays as it is: output is looked after in `launch.terminal`.
    settings = wandb.Settings(console='off', finish_timeout=_FINISH_SECONDS)
    self._run = wandb.init(
        project=os.environ.get('WANDB_PROJECT', _PROJECT), name=run.name, job_type=run.phase,
        dir=run.workdir, config=dict(run.settings), id=run.kept_id, resume='allow',
        reinit='create_new', settings=settings)
    self.id: str = self._run.id

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs some numbers of a step; steps that an earlier process has uploaded are there already."""
    if step >= self._run.starting_step:
      self._run.log(dict(values), step=step)

  def close(self, finished: bool) -> None:
    """Waits until all is uploaded, for a minute at most; what is left can be synced later."""
    self._run.finish(exit_code=0 if finished else 1)


class MLflow:
  """A run of MLflow; where it goes is for MLFLOW_TRACKING_URI to say.

  Args:
    run: it is told of.
  """

  def __init__(self, run: Run):
    mlflow = importlib.import_module('mlflow')
    self._client, self._entities = mlflow.MlflowClient(), mlflow.entities
    if run.kept_id is not None:
      self.id: str = run.kept_id
      self._client.update_run(self.id, 'RUNNING')
      return
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
    found = self._client.get_experiment_by_name(name)
    experiment = self._client.create_experiment(name) if found is None else found.experiment_id
    self.id = self._client.create_run(experiment, run_name=run.name).info.run_id
    self._client.log_batch(self.id, params=[
        self._entities.Param(key, str(value)) for key, value in _flat(run.settings)])

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Logs some numbers of a step."""
    now = round(1000 * time.time())
    self._client.log_batch(self.id, metrics=[
        self._entities.Metric(name, value, now, step) for name, value in values.items()])

  def close(self, finished: bool) -> None:
    """Says how the run has ended."""
    self._client.set_terminated(self.id, 'FINISHED' if finished else 'FAILED')


_TRACKERS = {'wandb': WandB, 'mlflow': MLflow}  # name, also that of the module and of the extra
NAMES = (*DEFAULT, *_TRACKERS)


def check(names: Sequence[str]) -> None:
  """Refuses trackers that could not be written to, before anything is computed.

  Args:
    names: of NAMES, or 'none' alone.

  Raises:
    ValueError: an unknown name, or a package that is not installed.
  """
  for name in names:
    if name not in (*NAMES, NONE):
      raise ValueError(f'expected --tracker among {", ".join(NAMES)}, or {NONE}, got {name!r}')
  if NONE in names and set(names) != {NONE}:
    raise ValueError(f'expected --tracker={NONE} alone, got {",".join(names)!r}')
  for name in (name for name in _TRACKERS if name in names):
    try:
      found = importlib.import_module(name)
    except ImportError as error:
      raise _missing(name, f': {error}') from error
    if getattr(found, '__file__', None) is None:  # a folder of that name, as W&B makes them
      raise _missing(name)


def _missing(name: str, why: str = '') -> ValueError:
  return ValueError(f"--tracker={name} needs a package that is not installed{why}; "
                    f"pip install 'mtl_jax[{name}]'")


def start(names: Sequence[str], workdir: str | os.PathLike, phase: str | None,
          resume_step: int) -> list[Writer]:
  """Begins to write, or goes on where an earlier process of the run was.

  Args:
    names: as `check` takes them.
    workdir: directory of the run; its settings are logged.
    phase: of the run; None for none.
    resume_step: step that the run goes on from.

  Raises:
    OSError: TensorBoard's events cannot be written. Of the others a warning is logged.
  """
  # One folder per phase, as TensorBoard purges all curves of a folder together.
  folder = os.path.join(workdir, 'tensorboard', phase or '')
  writers: list[Writer] = [EventFile(folder, resume_step)] if DEFAULT[0] in names else []
  return writers + [_Forgiven(name, workdir, phase or '') for name in _TRACKERS if name in names]


class _Forgiven:
  """A tracker whose first error is a warning, and its end: the run goes on without it.

  Args:
    name: of the tracker.
    workdir: as in `start`.
    phase: as in `start`.
  """

  def __init__(self, name: str, workdir: str | os.PathLike, phase: str):
    self._name, self._writer = name, None
    self._try(lambda: self._start(os.path.abspath(workdir), phase))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes, if nothing has failed so far."""
    if (writer := self._writer) is not None:
      self._try(lambda: writer.write(step, values))

  def close(self, finished: bool) -> None:
    """Closes, if nothing has failed so far."""
    if (writer := self._writer) is not None:
      self._try(lambda: writer.close(finished))

  def _start(self, workdir: str, phase: str) -> None:
    ids, key = workdirs.read_json(workdir, FILE) or {}, f'{self._name}/{phase}'
    name = '/'.join(pathlib.Path(workdir).parts[-2:])
    self._writer = writer = _TRACKERS[self._name](
        Run(name, phase, workdir, workdirs.begun_settings(workdir), ids.get(key)))
    if ids.get(key) != writer.id:
      workdirs.write_json(workdir, FILE, ids | {key: writer.id})

  def _try(self, work: Callable[[], None]) -> None:
    try:
      work()
    except Exception as error:  # whatever it is: the run is worth more
      self._writer = None
      text = ' '.join(str(error).split())[:_MOST_CHARACTERS]
      logging.warning('--tracker=%s has failed, and the run goes on without it: %s: %s',
                      self._name, type(error).__name__, text)


def _flat(settings: Mapping[str, Any], within: str = '') -> Iterator[tuple[str, Any]]:
  """Names nested settings with dots, as `differences` does."""
  for name, value in settings.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{within}{name}.')
    else:
      yield f'{within}{name}', value
