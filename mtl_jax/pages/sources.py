"""What a page can be made of: trainings, meta-tests and classifiers, as they lie on disk."""
import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtl_jax.classifiers import Classifier, networks
from mtl_jax.runs import array_files, finished, metrics, summaries, workdirs

_SETTINGS, _MODEL = 'settings.json', 'model.json'


class Training(NamedTuple):
  """A pre-training, a meta-training or an import, finished or not."""
  name: str
  folder: str
  settings: dict[str, Any]
  model: dict[str, Any] | None  # None where it is not finished
  state: str                    # in words
  metrics: list[dict[str, Any]]


class Test(NamedTuple):
  """A meta-test, finished or not."""
  name: str
  folder: str
  settings: dict[str, Any]
  results: dict[str, Any] | None  # None where it is not finished
  accuracies: np.ndarray | None   # [tasks], in [0, 1]
  checkpoint: str | None          # folder of the run that it tested, where that was found


class Photos(NamedTuple):
  """A classifier of photos."""
  name: str
  path: str | None  # None where it was never saved
  classifier: Classifier


class Sources(NamedTuple):
  """All that a page shows."""
  trainings: list[Training]
  tests: list[Test]
  classifiers: list[Photos]


def find(paths: Sequence[str | os.PathLike]) -> Sources:
  """Reads runs and classifiers; a training brings its meta-tests, a quickstart all its runs.

  Args:
    paths: work directories, and classifiers that were saved (.mtl).

  Raises:
    FileNotFoundError: there is no such run or file.
    ValueError: none was named, or one is not a run of ours or is damaged.
  """
  given = [os.fspath(path) for path in paths]
  if not given:
    raise ValueError('expected a run, or a classifier that was saved (.mtl), got none')
  saved = [path for path in given if path.endswith('.mtl') and not os.path.isdir(path)]
  folders = list(dict.fromkeys(
      os.path.abspath(folder) for path in given if path not in saved
      for folder in _runs_in(path)))
  names = _names([*folders, *map(os.path.abspath, saved)])
  commands = {folder: _command(folder) for folder in folders}
  trainings = [_training(folder, names[folder]) for folder in folders
               if commands[folder] != 'meta_test']
  tests = [_test(folder, names[folder], folders) for folder in folders
           if commands[folder] == 'meta_test']
  return Sources(trainings, tests, [
      Photos(names[os.path.abspath(path)], path, networks.load_classifier(path))
      for path in saved])


def _runs_in(path: str) -> list[str]:
  """The folders of runs that a path stands for."""
  command = _command(path)
  if command in (*finished.CONFIGS, None):  # None: finished.read_run says what is wrong
    return [path, *_below(os.path.join(path, 'meta_test'))]
  if command == 'meta_test':
    return [path]
  found = _below(path)
  if not found:
    raise ValueError(f'expected {path} to hold a run, got {command!r} without one')
  return [run for folder in found for run in _runs_in(folder)]


def _command(folder: str) -> str | None:
  if os.path.isfile(os.path.join(folder, _MODEL)):
    return finished.read_run(folder)[0]['command']
  return workdirs.read_settings(folder).get('command')


def _below(folder: str) -> list[str]:
  if not os.path.isdir(folder):
    return []
  places = (os.path.join(folder, name) for name in sorted(os.listdir(folder)))
  return [place for place in places if os.path.isfile(os.path.join(place, _SETTINGS))]


def _names(places: Sequence[str]) -> dict[str, str]:
  """Names places by what tells them apart."""
  parents = {os.path.dirname(place) for place in places}
  common = os.path.commonpath(list(parents)) if parents else ''
  return {place: os.path.relpath(place, common) for place in places}


def _training(folder: str, name: str) -> Training:
  settings, model = finished.read_run(folder)
  facts = dict(summaries.of_run(folder))
  lines = []
  with contextlib.suppress(FileNotFoundError):  # an import has none
    lines = metrics.read(folder, settings['command'], running=model is None)
  return Training(name, folder, settings, model, facts['state'], lines)


def _test(folder: str, name: str, others: Sequence[str]) -> Test:
  settings, results = workdirs.read_settings(folder), workdirs.read_results(folder)
  accuracies = None
  path = os.path.join(folder, 'accuracies.npy')
  if results is not None and os.path.isfile(path):
    accuracies = array_files.read(path)
  return Test(name, folder, settings, results, accuracies,
              _checkpoint(folder, settings, others))


def _checkpoint(folder: str, settings: Mapping[str, Any], others: Sequence[str]) -> str | None:
  """Looks for the run that was tested: the folder that holds the test, else a run of the page."""
  if 'checkpoint' not in settings:  # of an earlier version
    return None
  wanted = _identity(settings['checkpoint'])
  for place in (os.path.dirname(os.path.dirname(folder)), *others):
    if os.path.isfile(os.path.join(place, _MODEL)):
      if _identity(finished.read_run(place)[0]) == wanted:
        return place
  return None


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Settings of a run without what a meta-test may change of them."""
  kept = {name: value for name, value in settings.items()
          if name not in ('readout', 'image_shape', 'data', 'dataset')}
  kept['backbone'] = {name: value for name, value in settings['backbone'].items()
                      if name != 'compute_dtype'}
  return kept
