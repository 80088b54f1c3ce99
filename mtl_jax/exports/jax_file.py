"""A `.bin`: programs of `jax.export` and arrays in one file, to be read with jax alone.

The file is an `.npz`, a zip without compression, so `numpy.load` reads it: arrays by name, and the
programs `encode`, `adapt` and `predict` as bytes. Each program runs on CPU, CUDA and TPU, for any
number of photos and classes. Nothing in it is Python's code.
"""
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mtl_jax.exports import about as about_file
from mtl_jax.exports.program import Program
from mtl_jax.untrusted import regular, unpickler, zips
from mtl_jax.weights import npy

PLATFORMS = ('cpu', 'cuda', 'tpu')
CLASSIFIER = 'classifier'  # the member that holds what stands at the start
_KIND, _HOLDS = 'file of mtl export', 'programs of jax.export and arrays'
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of all members, which need no time of day


class Content(NamedTuple):
  """What a `.bin` holds."""
  about: dict[str, Any]
  programs: dict[str, Callable[..., jax.Array]]  # name -> function
  weights: dict[str, np.ndarray]
  classifier: np.ndarray | None


def encode(program: Program) -> bytes:
  """Returns the content of the file of a program.

  Args:
    program: made with `backbones.conv_by_platform`.
  """
  members = {about_file.KEY: json.dumps(program.about).encode()}
  for name, function, shapes in _functions(program):
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
    members[name] = bytes(exported.serialize())
  arrays = dict(program.weights)
  if program.classifier is not None:
    arrays[CLASSIFIER] = program.classifier
  members |= {f'{name}.npy': _npy(array) for name, array in arrays.items()}
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as file:
    for name, member in members.items():
      file.writestr(zipfile.ZipInfo(name, _EPOCH), member)
  return content.getvalue()


def _functions(program):
  """(name, function, shapes of its arguments) of all that is exported; numbers are symbols."""
  photos, classes = export.symbolic_shape('photos, classes')
  way = program.about['num_classes'] or classes
  dim = program.about['feature_dim']

  def shaped(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)

  weights = {name: shaped(array.dtype, *array.shape) for name, array in program.weights.items()}
  images = shaped(jnp.uint8, photos, *program.about['image_shape'])
  features = shaped(jnp.float32, photos, dim)
  classifier = shaped(jnp.float32, dim + 1, way)
  yield 'encode', program.encode, (weights, images)
  if program.adapt is not None:
    yield 'adapt', program.adapt, (classifier, features, shaped(jnp.int32, photos))
  yield 'predict', program.predict, (classifier, features)


def _npy(array):
  content = io.BytesIO()
  np.save(content, array, allow_pickle=False)
  return content.getvalue()


def decode(path: str) -> Content:
  """Reads a file.

  Args:
    path: of a `.bin`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, of another version, or of a later jax.
  """
  members = _members(path)  # a zip has a checksum of each
  about = about_file.parse(path, members.get(about_file.KEY))
  with unpickler.refusals(path, _KIND, _HOLDS):
    arrays = {name.removesuffix('.npy'): npy.plain_array(content, name)
              for name, content in members.items() if name.endswith('.npy')}
  programs = {name: _program(path, members[name]) for name in ('encode', 'adapt', 'predict')
              if name in members}
  weights = {name: array for name, array in arrays.items() if name.startswith('network/')}
  return Content(about, programs, weights, arrays.get(CLASSIFIER))


def _program(path, content):
  try:
    return jax.jit(export.deserialize(bytearray(content)).call)
  except ValueError as error:
    raise ValueError(f'{path}: jax {jax.__version__} cannot read its programs ({error}): export it '
                     'again with this version') from error


def read_about(path: str) -> dict[str, Any]:
  """Reads what a file says of itself.

  Args:
    path: of a `.bin`.

  Raises:
    FileNotFoundError, ValueError: as `decode`.
  """
  return about_file.parse(path, _members(path).get(about_file.KEY))


def _members(path):
  """Name -> bytes of each member; none is compressed, so together they are within its size."""
  regular.check(path)
  with unpickler.refusals(path, _KIND, _HOLDS), zipfile.ZipFile(path) as archive:
    entries = zips.entries(archive, most=os.path.getsize(path), deflated=False)
    return {name: zips.content(archive, info) for name, info in entries.items()}
