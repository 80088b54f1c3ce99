"""The work directory of a run: its settings, its results, and the machine that it ran on.

`settings.json` is written when a run starts, and says whose the directory is: the same settings
resume, others are refused. `results.json` is written when the run is done. Each is replaced by one
rename, so a killed process leaves either the old file or the new one.
"""
import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import filelock
import jax

from mtl_jax.runs import differences, orbax_io
from mtl_jax.untrusted import checked_json

_SETTINGS, _RESULTS = 'settings.json', 'results.json'
_UNFINISHED = '.tmp'  # ending of a file until it is whole
_DATA = 'data'  # in settings: where images came from, which decides nothing beside their checksum


def claim(workdir: str | os.PathLike, settings: dict[str, Any],
          extends: Callable[[dict[str, Any], dict[str, Any]], bool] = lambda there, here: False,
          complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda there: there) -> None:
  """Makes `workdir` the directory of the run with these settings, or confirms that it is.

  Args:
    workdir: directory of the run; made, with its parents, where it is missing.
    settings: all that decides the outcome of the run, and `data`; values that JSON can hold.
    extends: (settings there, settings here) -> whether the run there may go on by those here, where
      they differ; its results are removed then, as it is no longer finished.
    complete: settings, perhaps of an earlier version -> the same with the defaults of those that it
      had not yet.

  Raises:
    ValueError: the directory belongs to a run with other settings, holds other files, is a file, or
      cannot hold checkpoints, because its path has one of `*?[`.
    OSError: it cannot be made or written.
  """
  workdir = os.fspath(workdir)
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ValueError(f'work directory {workdir} is a file: expected a directory; '
                     'choose another --workdir')
  orbax_io.check_path(workdir)
  try:
    os.makedirs(workdir, exist_ok=True)
    present = os.listdir(workdir)
  except OSError as error:
    raise OSError(f'work directory {workdir} cannot be made: {error.strerror}; '
                  'choose another --workdir') from error
  if _SETTINGS in present:
    # A round trip through JSON, as tuples come back as lists.
    there, here = complete(read_settings(workdir)), complete(json.loads(json.dumps(settings)))
    if not os.access(workdir, os.W_OK):
      raise OSError(f'work directory {workdir} is not writable: choose another --workdir')
    if extends(there, here):
      with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(workdir, _RESULTS))  # first: killed in between, it may be extended
      write_json(workdir, _SETTINGS, settings)
    else:
      _refuse(workdir, differences.find(there, here))
  elif set(present) - {_SETTINGS + _UNFINISHED}:  # which a killed process may have left
    raise ValueError(f'work directory {workdir} holds files but no {_SETTINGS}, so it is not that '
                     'of a run; choose an empty or new --workdir')
  else:
    write_json(workdir, _SETTINGS, settings)


def read_settings(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the settings that `claim` wrote.

  Args:
    workdir: directory of a run.

  Raises:
    FileNotFoundError: there is no such directory.
    ValueError: it is not the directory of a run, or its settings are damaged.
  """
  workdir = os.fspath(workdir)
  if not os.path.exists(workdir):
    raise FileNotFoundError(f'work directory {workdir} does not exist: expected that of an earlier '
                            'run')
  settings = read_json(workdir, _SETTINGS)
  if settings is None:
    raise ValueError(f'{workdir} is not the work directory of a run: expected {_SETTINGS} in it, '
                     'found none')
  return settings


def begun_settings(workdir: str | os.PathLike) -> dict[str, Any]:
  """Returns the settings of the run that has begun in a directory; {} where none has.

  Args:
    workdir: any path.

  Raises:
    ValueError: the settings there are damaged.
  """
  return read_json(os.fspath(workdir), _SETTINGS) or {}


def check_known(workdir: str | os.PathLike, known: dict[str, Any]) -> None:
  """Refuses settings that the run which has begun in a directory does not have.

  Args:
    workdir: any path.
    known: as many settings as are known yet; values that JSON can hold.

  Raises:
    ValueError: one of them is another there, or the settings there are damaged.
  """
  here = json.loads(json.dumps(known))
  _refuse(os.fspath(workdir), differences.find_shared(begun_settings(workdir), here))


def write_results(workdir: str | os.PathLike, results: dict[str, Any]) -> None:
  """Writes `results` to `<workdir>/results.json`, over earlier ones.

  Args:
    workdir: directory of the run.
    results: values that JSON can hold.

  Raises:
    OSError: the file cannot be written; an earlier one stays.
  """
  write_json(os.fspath(workdir), _RESULTS, results)


def read_results(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """Returns what `write_results` wrote, or None where the run has none yet.

  Args:
    workdir: directory of a run.

  Raises:
    ValueError: the file is damaged.
  """
  return read_json(os.fspath(workdir), _RESULTS)


def write_file(workdir: str | os.PathLike, name: str, content: bytes) -> None:
  """Writes `<workdir>/<name>`, over an earlier one, so that it is never half-written.

  Args:
    workdir: directory of the run.
    name: of the file.
    content: all of it.

  Raises:
    OSError: the file cannot be written; an earlier one stays.
  """
  path = os.path.join(os.fspath(workdir), name)
  unfinished = path + _UNFINISHED
  try:
    with contextlib.suppress(FileNotFoundError):
      os.remove(unfinished)  # of a killed process; or a link that somebody put there
    with open(unfinished, 'xb') as file:  # never through a link
      file.write(content)
      file.flush()
      os.fsync(file.fileno())  # else the rename may reach the disk before the content
    os.replace(unfinished, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      os.remove(unfinished)
    raise OSError(f'could not write {path}: {error.strerror}') from error


class Held(NamedTuple):
  """A work directory that this process works on."""
  path: str
  identity: tuple[int, int]  # device and inode of the directory

  def check(self) -> None:
    """Sees to it that the directory is still there.

    Raises:
      OSError: it was moved, removed or replaced: what is written would be a part of nothing.
    """
    if _identity(self.path) != self.identity:
      raise OSError(f'work directory {self.path} was moved, removed or replaced while the run went '
                    'on; put it back and start the same command again to resume, or choose another '
                    '--workdir')


@contextlib.contextmanager
def in_use(workdir: str | os.PathLike) -> Iterator[Held]:
  """Keeps every other process out of a run while this one works on it.

  The lock is the operating system's, so that of a killed process is gone.

  Args:
    workdir: directory of the run.

  Raises:
    OSError: another process works on it.
  """
  workdir = os.fspath(workdir)
  lock = filelock.FileLock(os.path.join(workdir, '.lock'))
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout as error:
    raise OSError(f'work directory {workdir} is in use by another process: wait for its end, or '
                  'choose another --workdir') from error
  try:
    yield Held(workdir, _identity(workdir) or (0, 0))
  finally:
    lock.release()


def _identity(folder: str) -> tuple[int, int] | None:
  try:
    found = os.stat(folder)
  except OSError:
    return None
  return found.st_dev, found.st_ino


def describe_machine() -> dict[str, Any]:
  """Returns what a run ran on.

  Returns:
    `device` (such as 'cpu, 8 cores' or '2 x NVIDIA H100') and `versions` (package -> version).
  """
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    # Of all cores, those that this process may use; not every system can tell.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    device = f'cpu, {allowed} core{"s" if allowed != 1 else ""}'
  else:
    device = f'{len(devices)} x {devices[0].device_kind}'
  versions = {'python': platform.python_version()}
  for package in ('mtl_jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # mtl_jax from a clone
      versions[package] = importlib.metadata.version(package)
  return {'device': device, 'versions': versions}


def _refuse(workdir: str, found: list[differences.Difference]) -> None:
  """Raises ValueError that names what differs; other places of the same data do not count."""
  if any(not each.name.startswith(f'{_DATA}.') and each.name != _DATA for each in found):
    raise ValueError(f'work directory {workdir} belongs to a run with other settings: '
                     f'{differences.summarize(found)}; choose another --workdir')


def write_json(workdir: str | os.PathLike, name: str, content: dict[str, Any]) -> None:
  """Writes an object as `<workdir>/<name>`, with its checksum, over an earlier one.

  Args:
    workdir: directory of the run.
    name: of the file.
    content: values that JSON can hold.

  Raises:
    OSError: the file cannot be written; an earlier one stays.
  """
  write_file(workdir, name, checked_json.dump(content))


def read_json(workdir: str | os.PathLike, name: str) -> dict[str, Any] | None:
  """Returns the object in `<workdir>/<name>`; None where there is no file.

  Args:
    workdir: directory of the run.
    name: of the file.

  Raises:
    ValueError: the file is damaged.
    OSError: it cannot be read.
  """
  path = os.path.join(os.fspath(workdir), name)
  try:
    with open(path, 'rb') as file:
      return checked_json.load(file.read(), path)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise OSError(f'could not read {path}: {error.strerror}') from error
