"""Compares exported `.onnx` files, run by onnxruntime, with the `.bin` of the same network.

    python -m tests.check_onnx [NETWORK PHOTOS]

It needs the extra `onnx`, and prints the largest difference of probabilities over three numbers of
photos and two of classes: of the tiny runs that tests share, and of a network that is named, over
a folder with a folder of photos for each class. It is no test of pytest, as jax2onnx brings many
packages.
"""
import itertools
import pathlib
import sys
import tempfile
import time

import numpy as np

import mtl_jax
from mtl_jax import exports
from tests import tiny_runs
from tests.exports import artefacts

# Of the tiny networks. The head of photos multiplies the rounding of features, here of a network
# that has hardly been trained.
_MOST = {'inner loop': 1e-6, 'softmax': 1e-5}


def main(*networks: str) -> None:
  """Exports, compares and prints."""
  encoder = mtl_jax.load(tiny_runs.pretrained()).encoder
  for kind in ('pretrained', 'meta_trained', 'fixed', 'adapts'):
    found, expected = (mtl_jax.load_export(artefacts.exported(kind, ending))
                       for ending in ('.onnx', '.bin'))
    for numbers in artefacts.NUMBERS:
      # A file of a fixed number of classes takes that number or fewer.
      task = _task(encoder, tiny_runs.shared() / 'data' / 'test', *numbers)
      _check(_show(kind, found, expected, *task), expected)
  photos = artefacts.photos(7)
  onnx, jax = (mtl_jax.load_export(artefacts.exported('classifier', ending))
               for ending in ('.onnx', '.bin'))
  difference = np.abs(onnx.predict_proba(photos) - jax.predict_proba(photos)).max()
  print(f'classifier, 7 photos: {difference:.1e}')
  _check(difference, jax)
  _refusals()
  for network, photos in zip(networks[::2], networks[1::2], strict=True):
    _compare(network, pathlib.Path(photos))


def _show(name, found, expected, support, labels, query):
  shares = [file.predict_proba(query, file.adapt(support, labels)) for file in (found, expected)]
  difference = float(np.abs(shares[0] - shares[1]).max())
  print(f'{name}, {len(support)} photos, {labels.max() + 1} classes, {len(query)} new: '
        f'{difference:.1e}')
  return difference


def _check(difference, exported):
  most = _MOST[exported.about['head']]
  if not difference <= most:
    raise SystemExit(f'expected a difference of at most {most}')


def _refusals():
  path = artefacts.exported('fixed', '.onnx')
  try:
    mtl_jax.load_export(path).adapt(artefacts.photos(4), np.arange(4))
  except ValueError as error:
    print(f'refused: {error}')
  else:
    raise SystemExit('expected a fourth class to be refused')
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1  # of a weight
  damaged = path.with_name('damaged.onnx')
  damaged.write_bytes(content)
  try:
    mtl_jax.load_export(damaged)
  except ValueError as error:
    print(f'refused: {error}')
  else:
    raise SystemExit('expected a damaged file to be refused')
  onnx_adapts = dict(exports.describe(path))
  assert onnx_adapts == dict(exports.describe(artefacts.exported('fixed', '.bin')))
  assert '3, of any names' in onnx_adapts['classes'], onnx_adapts


def _compare(network, photos):
  with tempfile.TemporaryDirectory() as folder:
    paths = [pathlib.Path(folder) / f'x{ending}' for ending in ('.onnx', '.bin')]
    for path in paths:
      mtl_jax.load(network).export(path)
      print(f'{network}{path.suffix}: {path.stat().st_size / 1e6:.1f} MB')
    files = [mtl_jax.load_export(path) for path in paths]
    for numbers in (*artefacts.NUMBERS, (25, 5, 5)):
      task = _task(mtl_jax.load(network).encoder, photos, *numbers)
      _show(network, *files, *task)
    _times(files, *task)


def _task(encoder, folder, number, way, queries):
  """(support images, labels, query images) of photos in a folder for each class."""
  places = [sorted(place.iterdir()) for place in sorted(folder.iterdir())][:way]
  in_turn = [path for row in itertools.zip_longest(*places) for path in row if path]
  images, _, _ = encoder.read(in_turn[:number + queries])
  return images[:number], np.arange(number) % way, images[number:]


def _times(files, support, labels, query):
  for name, file in zip(('onnxruntime', 'jax'), files, strict=True):
    for _ in range(3):  # jax compiles in the first one
      began = time.perf_counter()
      classifier = file.adapt(support, labels)
      adapted = time.perf_counter()
      file.predict_proba(query[:1], classifier)
      predicted = time.perf_counter()
    print(f'{name}: {len(support)} photos {adapted - began:.2f} s, one prediction '
          f'{predicted - adapted:.3f} s')


if __name__ == '__main__':
  tiny_runs.shared()
  main(*sys.argv[1:])
