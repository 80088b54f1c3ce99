"""Feeds damaged files to every reader of files from strangers."""
import io
import json
import pickle
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtl_jax.data import division, image_files
from mtl_jax.untrusted import archives, numpy_pickles
from mtl_jax.weights import npy, pth, public_files
from tests.faults.damage import mutations, quiet
from tests.faults.tally import Tally
from tests.weights import pth_files


def samples() -> Iterator[tuple[str, bytes, Callable[[Path], Any]]]:
  """Yields (name of the file, its content, its reader) of a sound file of each kind."""
  draw = np.random.default_rng(0)
  pixels = draw.integers(0, 256, (40, 30, 3), dtype=np.uint8)
  for kind in ('png', 'jpeg', 'webp', 'bmp', 'gif', 'tiff'):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    yield f'x.{kind}', content.getvalue(), lambda path: image_files.read_image(path, 16)
  for protocol in (0, 2, 4):
    content = pickle.dumps({'data': pixels, 'labels': [1, 2], 'names': ['a', b'b']}, protocol)
    yield f'{protocol}.pkl', content, numpy_pickles.load
  content = io.BytesIO()
  np.savez(content, a=np.ones((3, 4), np.float32), b=np.zeros(2, np.int64))
  yield 'x.npz', content.getvalue(), npy.read
  yield 'x.safetensors', _safetensors(), public_files.read
  yield 'x.tar.gz', _tar({'a': b'x' * 500, 'b': b'y'}), lambda path: archives.read_members(
      path, {'a': 1000, 'b': 1000})
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('x/a.png', b'x' * 500)
  yield 'x.zip', content.getvalue(), lambda path: list(archives.read_pngs(path, 1000))
  split = {'train': ['a', 'b'], 'val': ['c'], 'test': ['d']}
  yield 'split.json', json.dumps(split).encode(), division.read_file
  with tempfile.TemporaryDirectory() as folder:
    for legacy in (False, True):
      path = pth_files.save(Path(folder), {'a': np.ones((3, 4), np.float32)}, legacy=legacy)
      yield f'{int(legacy)}.pth', path.read_bytes(), pth.read


def fuzz(folder: Path, cases: int, seed: int) -> list[Tally]:
  """Damages a file of each kind and reads it: one line, or whatever the reader makes of it.

  Args:
    folder: an empty one.
    cases: tries of each reader.
    seed: decides them.
  """
  tallies = []
  for name, content, read in samples():
    path, draw, tally = folder / name, random.Random(seed), Tally(f'reader of {name}')
    for what, damaged in mutations(content, cases, draw):
      path.write_bytes(damaged)
      with quiet():
        tally.read(what, lambda read=read, path=path: read(path), lambda _: True)
    tallies.append(tally)
  stray = [path.name for path in folder.iterdir()]
  tallies.append(Tally('files left beside them', len(tallies), 0, [
      name for name in stray if name not in {sample[0] for sample in samples()}]))
  return tallies


def _safetensors() -> bytes:
  import safetensors.numpy
  return safetensors.numpy.save({'a.weight': np.ones((3, 4), np.float32)})


def _tar(members: dict[str, bytes]) -> bytes:
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode='w:gz') as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return content.getvalue()
