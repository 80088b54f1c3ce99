"""An `.onnx`: one graph that adapts inside, or classifies; jax2onnx makes it of the same functions.

    support [n], labels [n], query [m], classifier -> adapted, probabilities     adapts
    images [n] -> probabilities                                                  classifies

The classifier that comes out may go in again with no support photos, for new queries.
"""
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from mtl_jax.exports import about as about_file
from mtl_jax.exports.program import Program

_DIGEST = b'mtl_jax_digest'
_METADATA_PROPS = 14  # number of that field in a ModelProto
_MISSING = "pip install 'mtl_jax[onnx]' brings it"
INPUTS = {'adapts': ['support', 'labels', 'query', 'classifier'], 'classifies': ['images']}
OUTPUTS = {'adapts': ['adapted', 'probabilities'], 'classifies': ['probabilities']}


def check_installed(package: str) -> None:
  """Refuses to go on where a package is missing.

  Args:
    package: 'jax2onnx', which writes, or 'onnxruntime', which runs.

  Raises:
    ValueError: it is not installed.
  """
  if importlib.util.find_spec(package) is None:
    raise ValueError(f'.onnx needs {package}, which is not installed: {_MISSING}')


def encode(program: Program) -> bytes:
  """Returns the content of the file of a program.

  Args:
    program: made with `jax.lax.conv_general_dilated`, of which runtimes have fast forms.

  Raises:
    ValueError: jax2onnx is not installed.
  """
  check_installed('jax2onnx')
  onnx: Any = importlib.import_module('onnx')
  kind = program.about['kind']
  function, shapes = (_adapting if kind == 'adapts' else _classifying)(program)
  model = _convert(function, shapes, kind)
  if kind == 'adapts' and program.classifier is not None:
    # An input that has a value may be left out: θ, where the loop starts.
    model.graph.initializer.append(onnx.numpy_helper.from_array(program.classifier, 'classifier'))
  about = model.metadata_props.add()
  about.key, about.value = about_file.KEY, json.dumps(program.about)
  content = model.SerializeToString()
  return content + _digest_of(content)


def _digest_of(content: bytes) -> bytes:
  """One more property, as protobuf has it: what stands behind a message is merged into it."""
  value = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
  entry = bytes([10, len(_DIGEST)]) + _DIGEST + bytes([18, len(value)]) + value  # key, value
  return bytes([_METADATA_PROPS << 3 | 2, len(entry)]) + entry


def _check(path: str) -> None:
  """Refuses a file whose content is not what its digest says, where it ends with one."""
  with open(path, 'rb') as file:
    content = file.read()
  end = content.rfind(_digest_of(b'')[:4 + len(_DIGEST)])
  if end >= 0 and content[end:] != _digest_of(content[:end]):
    raise ValueError(f'{path}: damaged: it is not what was written; if you have changed it, take '
                     f'the property {_DIGEST.decode()} out')


def _convert(function, shapes, kind):
  """The graph of a function, without arrays that are left over."""
  with _silence():
    jax2onnx: Any = importlib.import_module('jax2onnx')
    model = jax2onnx.to_onnx(function, shapes, model_name='mtl_jax', input_names=INPUTS[kind],
                             output_names=OUTPUTS[kind])
  model.graph.ClearField('value_info')  # shapes of what is between, some of them wrong
  _drop_unused(model.graph)
  return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Keeps back what jax2onnx prints and logs of its plugins, tracebacks among it."""
  with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    logging.disable(logging.CRITICAL)
    try:
      yield
    finally:
      logging.disable(logging.NOTSET)


def _drop_unused(graph) -> set[str]:
  """Drops arrays that nothing reads, of which runtimes would warn; returns what is read."""
  inner = [attribute.g for node in graph.node for attribute in node.attribute
           if attribute.HasField('g')]
  read = {name for node in graph.node for name in node.input}
  read |= {output.name for output in graph.output}
  read = read.union(*map(_drop_unused, inner))
  kept = [array for array in graph.initializer if array.name in read]
  del graph.initializer[:]
  graph.initializer.extend(kept)
  return read


def _adapting(program):
  """(function, shapes of its inputs) of a program that adapts."""
  assert program.adapt is not None
  adapt = program.adapt

  def function(support, labels, query, classifier):
    # Asked without support photos, a runtime goes around the loop.
    adapted = jax.lax.cond(jnp.sum(jnp.where(labels >= 0, 1, 0)) > 0, adapt,
                           lambda classifier, *_: classifier,
                           classifier, program.encode(program.weights, support), labels)
    return adapted, program.predict(adapted, program.encode(program.weights, query))

  n, m, classes = export.symbolic_shape('n, m, classes')
  about = program.about
  return function, [jax.ShapeDtypeStruct((n, *about['image_shape']), jnp.uint8),
                    jax.ShapeDtypeStruct((n,), jnp.int32),
                    jax.ShapeDtypeStruct((m, *about['image_shape']), jnp.uint8),
                    jax.ShapeDtypeStruct((about['feature_dim'] + 1,
                                          about['num_classes'] or classes), jnp.float32)]


def _classifying(program):
  """(function, shapes of its inputs) of a program whose classes are fixed."""
  def function(images):
    return program.predict(program.classifier, program.encode(program.weights, images))

  n, = export.symbolic_shape('n')
  return function, [jax.ShapeDtypeStruct((n, *program.about['image_shape']), jnp.uint8)]


def session(path: str) -> tuple[dict[str, Any], Any]:
  """Opens a file.

  Args:
    path: of an `.onnx`.

  Returns:
    (what it says of itself, an `onnxruntime.InferenceSession` on the CPU).

  Raises:
    ValueError: it is damaged or of another version, or onnxruntime is not installed.
  """
  check_installed('onnxruntime')
  _check(path)
  onnxruntime: Any = importlib.import_module('onnxruntime')
  try:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of an input that may be left out, which is meant so
    opened = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
  except Exception as error:  # onnxruntime's own classes
    raise ValueError(f'{path}: onnxruntime cannot read it: {error}') from error
  return about_file.parse(path, opened.get_modelmeta().custom_metadata_map.get(
      about_file.KEY)), opened
