"""What a finished run has learned, as files that are a model by themselves.

`backbone.safetensors` holds Θ, `meta_params.safetensors` Φ_S and θ, `model.json` says all about
them, with the SHA-256 of both, and `README.md` says it to people. `model.json` is written last: a
directory without it holds no finished model.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_jax.runs import model_cards, tensor_files, workdirs
from mtl_jax.types import Tree

FILE, CARD = 'model.json', 'README.md'
BACKBONE, META_PARAMS = 'backbone.safetensors', 'meta_params.safetensors'
VERSION = 1  # of the format

_RESULTS = ('steps', 'best_step', 'validation_accuracy', 'validation_ci95')
_VERSIONS = ('mtl_jax', 'jax', 'flax', 'numpy')
_PARTS = {'settings': dict, 'results': dict, 'versions': dict, 'files': dict}


def write(workdir: str | os.PathLike, settings: Mapping[str, Any], trees: Mapping[str, Tree],
          results: Mapping[str, Any], classes: Sequence[str] | None = None) -> None:
  """Writes a finished model; killed on the way, it leaves none, or an earlier one.

  Args:
    workdir: directory of the run.
    settings: of the run, with what it was trained by.
    trees: BACKBONE, and after meta-training META_PARAMS -> tree of arrays.
    results: of the run; what does not depend on the clock is kept.
    classes: names of the base classes; None where they are not known.

  Raises:
    ValueError: a leaf is not an array of finite numbers.
    OSError: a file cannot be written.
  """
  folder = os.fspath(workdir)
  files = {}
  for name, tree in trees.items():
    path = os.path.join(folder, name)
    files[name] = {'sha256': tensor_files.write(path, tree), 'bytes': os.path.getsize(path)}
  versions = results['versions']
  model = {'format': VERSION, 'settings': dict(settings),
           'classes': None if not classes else list(classes),
           'results': {name: results[name] for name in _RESULTS if name in results},
           'versions': {name: versions[name] for name in _VERSIONS if name in versions},
           'files': files}
  workdirs.write_file(folder, CARD, model_cards.text(model).encode())
  workdirs.write_json(folder, FILE, model)


def read(workdir: str | os.PathLike) -> dict[str, Any] | None:
  """Reads what is said about a model; None where there is none.

  Args:
    workdir: directory of a run, or one with the files of a model alone.

  Returns:
    `settings` of the run, `classes` (names of the base classes, or None), `results`, `versions`,
    and `files`: name -> `sha256` and `bytes`.

  Raises:
    ValueError: it is damaged, or of a later format.
  """
  folder = os.fspath(workdir)
  model = workdirs.read_json(folder, FILE)
  if model is None:
    return None
  path = os.path.join(folder, FILE)
  if model.get('format') != VERSION:
    raise ValueError(f'{path} has format {model.get("format")}: expected {VERSION}; install the '
                     'version of mtl_jax that wrote it, or a later one')
  wrong = [name for name, kind in _PARTS.items() if not isinstance(model.get(name), kind)]
  wrong += [name for name, entry in (model['files'] if not wrong else {}).items()
            if not isinstance(entry, dict) or not isinstance(entry.get('sha256'), str)]
  if wrong:
    raise ValueError(f'{path} is damaged: expected {wrong[0]} in it, found none; restore it')
  return model


def read_tree(workdir: str | os.PathLike, name: str, like: Any = None) -> Tree:
  """Reads one of the trees of a finished model, and compares it with its checksum.

  Args:
    workdir: as in `read`.
    name: BACKBONE or META_PARAMS.
    like: as in `tensor_files.read`.

  Raises:
    FileNotFoundError: there is no finished model, or not this file.
    ValueError: it is damaged, or not like `like`.
  """
  folder = os.fspath(workdir)
  model = read(folder)
  if model is None:
    raise FileNotFoundError(f'expected a finished model in {folder}, found no {FILE}')
  entry = model['files'].get(name)
  if entry is None:
    raise ValueError(f'{os.path.join(folder, FILE)} is damaged: it does not list {name}')
  return tensor_files.read(os.path.join(folder, name), like, entry['sha256'])


def refuse_earlier_format(workdir: str | os.PathLike) -> None:
  """Refuses a finished run of a version that kept its trees as folders.

  Args:
    workdir: of a run with results, and without a model.

  Raises:
    ValueError: always; it says what to do.
  """
  folder = os.fspath(workdir)
  what = ('keeps its model in the format of an earlier version, as folders'
          if os.path.isdir(os.path.join(folder, 'backbone')) else f'has lost its {FILE}')
  raise ValueError(f'the run in {folder} {what}: remove its results.json and start the same '
                   'command again; it writes the model anew, without training')
