"""Damages files: bits flipped, bytes cut out, doubled and put in, at random places.

These mutations are our own, and not drawn by hypothesis: each case writes a file, and its number
and seed alone decide it. What hypothesis adds, smaller cases of the same failure, would tell no
more than the place and kind of a single change do. `tests/data/division_test.py` and
`tests/weights/pth_hostile_test.py` draw structures by it.
"""
import contextlib
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging

import mtl_jax
from mtl_jax.data import cache, pools
from mtl_jax.runs import array_files, finished, metrics, models, workdirs
from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.exports import artefacts
from tests.faults.tally import Tally

_PUT_IN = (b'[' * 5000, b'\0' * 100, b'9' * 50, b'"', b'\xff\xfe', b'}', b'{', b'(', b'../', b'nan')


def mutations(content: bytes, number: int, draw: random.Random) -> Iterator[tuple[str, bytes]]:
  """Makes damaged copies of a file.

  Args:
    content: of the whole file.
    number: of copies.
    draw: decides them.

  Yields:
    (what was done, content).
  """
  for _ in range(number):
    place, kind = draw.randrange(max(1, len(content))), draw.randrange(5)
    if kind == 0 and content:
      flipped = bytes([content[place] ^ 1 << draw.randrange(8)])
      yield f'bit at {place}', content[:place] + flipped + content[place + 1:]
    elif kind == 1:
      yield f'cut off at {place}', content[:place]
    elif kind == 2:
      end = place + draw.choice([1, 4, 100])
      yield f'without {place} to {end}', content[:place] + content[end:]
    elif kind == 3:
      yield f'twice from {place} on', content[:place] + content[max(0, place - 8):]
    else:
      put = draw.choice(_PUT_IN)
      yield f'{put[:8]!r} at {place}', content[:place] + put + content[place:]


def of_workdir(number: int, seed: int) -> list[Tally]:
  """Damages each file of a finished meta-training, and reads what it belongs to.

  Args:
    number: of tries for each file.
    seed: decides them.
  """
  run = tiny_runs.meta_trained()
  # What is read of a run: the model, its settings and results, metrics, and checkpoints.
  readers = {
      'model.json': lambda: _leaves(finished.load(run)[1:3]),
      models.BACKBONE: lambda: _leaves(finished.load(run)[1:3]),
      models.META_PARAMS: lambda: _leaves(finished.load(run)[1:3]),
      'settings.json': lambda: workdirs.read_settings(run),
      'results.json': lambda: workdirs.read_results(run),
      'metrics.jsonl': lambda: metrics.read(run, 'meta_train')}
  tallies = [_damaged(run / name, read, number, seed) for name, read in readers.items()]
  return [*tallies, _of_checkpoints(run, number, seed)]


def of_artefacts(folder: Path, number: int, seed: int) -> list[Tally]:
  """Damages what leaves a run: accuracies of a test, a saved classifier, exported files.

  Args:
    folder: an empty one.
    number: of tries for each file.
    seed: decides them.
  """
  tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.meta_trained()}',
                     f'--workdir={folder / "test"}', '--nopage')
  photos, accuracies = artefacts.photos(5), folder / 'test' / 'accuracies.npy'

  def answers(load, path):
    loaded = load(path)
    return [np.asarray(loaded.predict_proba(photos)).tobytes(), repr(loaded)]

  readers = {
      accuracies: lambda: [array_files.read(accuracies).tobytes()],
      artefacts.saved(): lambda: answers(mtl_jax.load_classifier, artefacts.saved()),
      artefacts.exported('classifier'): lambda: answers(
          mtl_jax.load_export, artefacts.exported('classifier'))}
  return [_damaged(path, read, number, seed) for path, read in readers.items()]


def _damaged(path: Path, read, number: int, seed: int) -> Tally:
  content, whole, tally = path.read_bytes(), read(), Tally(f'damaged {path.name}')
  draw = random.Random(seed)

  def holds(found, expected):  # all that was written is there, whatever was put beside it
    return {name: found.get(name) for name in expected} == expected

  def sound(found):
    if isinstance(found, dict):
      return holds(found, whole)
    return found == whole or (isinstance(found, list) and isinstance(whole[0], dict) and all(
        any(holds(line, expected) for expected in whole) for line in found))

  try:
    for what, damaged in mutations(content, number, draw):
      path.write_bytes(damaged)
      tally.read(what, read, sound)
  finally:
    path.write_bytes(content)
  return tally


def _of_checkpoints(run: Path, number: int, seed: int) -> Tally:
  """Each try damages one file of the newest step; the step before must then be read."""
  tally, draw = Tally('damaged checkpoint'), random.Random(seed)
  folder = run / 'checkpoints'
  steps = Checkpoints(folder).steps()
  whole = {step: _step(folder, step) for step in steps}
  files = [path for path in sorted((folder / str(steps[-1])).rglob('*')) if path.is_file()]
  for path in files:
    content = path.read_bytes()
    try:
      for what, damaged in mutations(content, max(1, number // len(files)), draw):
        path.write_bytes(damaged)
        tally.read(f'{path.name}: {what}', lambda: _latest(folder),
                   lambda found: whole.get(found[0]) == found[1])
    finally:
      path.write_bytes(content)
  return tally


def _latest(folder: Path):
  from tests.runs.toy_states import load_tree
  with quiet():
    tree = load_tree(folder)
  return int(tree['step']), _leaves(tree)


def _step(folder: Path, step: int):
  from mtl_jax.runs import stored_step
  return _leaves(stored_step.read(str(folder), step, None))


def _leaves(tree) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def of_cache(folder: Path, number: int, seed: int) -> list[Tally]:
  """Damages each file of an entry of the cache; it must be built again, or be read as it was.

  Args:
    folder: an empty one.
    number: of tries for each file.
    seed: decides them.
  """
  random_images = np.random.default_rng(seed)
  classes = {split: [(f'{split}{n}', random_images.integers(0, 256, (3, 6, 6, 3), dtype=np.uint8))
                     for n in range(3)] for split in pools.SPLITS}

  def load():
    with quiet():
      found = cache.load_or_build('x', {}, lambda: pools.from_classes('x', classes, True), folder)
    return [_leaves(found.train), _leaves(found.val), _leaves(found.test), found.class_names]

  load()
  tallies = []
  for name in ('entry.json', 'train.npy', 'val.npy', 'test.npy'):
    [path] = folder.glob(f'x-*/{name}')
    tallies.append(_damaged(path, load, number, seed))
    tallies[-1].name = f'damaged {name} of the cache'
  return tallies


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Shows no warnings."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    logging.set_verbosity(before)
