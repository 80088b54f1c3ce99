"""Files that leave this library: a network that still adapts, or a classifier, for jax or ONNX.

    mtl_jax.load('imagenet').export('imagenet.onnx')

`program` says what is computed, `jax_file` and `onnx_file` write and read it.
"""
from mtl_jax.exports.about import FORMAT
from mtl_jax.exports.files import check_place, describe, load, write
from mtl_jax.exports.loaded import Exported
from mtl_jax.exports.program import Program, of_classifier, of_network, of_photos

__all__ = ['FORMAT', 'Exported', 'Program', 'check_place', 'describe', 'load', 'of_classifier',
           'of_network', 'of_photos', 'write']
