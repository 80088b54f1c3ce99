"""The content of an inputs file as this library takes it: a network with Θ and Φ_S, and a pool."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ours.trees import backbone_of, nest
from mtl_jax import scale_shift
from mtl_jax.types import Backbone, BackboneVars, ImagePool, Normalization, Tree

# Of images whose values mean nothing.
NORMALIZATION = Normalization(np.full(3, 0.5, np.float32), np.full(3, 0.5, np.float32))


class Network(NamedTuple):
  """A network with the weights of an inputs file."""
  backbone: Backbone
  backbone_vars: BackboneVars    # Θ
  scale_shift: Tree              # Φ_S at its start, the identity
  arrays: dict[str, np.ndarray]  # all that the file holds


def read_arrays(path: str) -> dict[str, np.ndarray]:
  """Reads the arrays of an npz file: name -> array.

  Args:
    path: of the file.
  """
  with np.load(path) as file:
    return dict(file)


def load_network(settings: dict, dtype: str) -> Network:
  """Loads the network of an inputs file.

  Args:
    settings: of the measure: `inputs` (path), `network` (name) and perhaps `norm_epsilon`.
    dtype: 'float32', 'bfloat16' or 'float64'.

  Returns:
    A Network; in float64 all floats of the file are converted.
  """
  arrays = read_arrays(settings['inputs'])
  image = arrays.get('query_images', arrays.get('images'))
  backbone = backbone_of(settings['network'], arrays, image.shape[-3:], dtype,
                         settings.get('norm_epsilon'))
  if dtype == 'float64':
    arrays = {name: array if array.dtype.kind in 'iu' else array.astype(np.float64)
              for name, array in arrays.items()}
  stats = _with_endings(arrays, ('/mean', '/var'))
  params = _with_endings(arrays, ('/kernel', '/bias', '/scale'))
  phi = scale_shift.init(jax.tree.map(jnp.asarray, params), backbone.scaled_layers)
  return Network(backbone, BackboneVars(params, stats), phi, arrays)


def load_pool(settings: dict, name: str = 'images') -> ImagePool:
  """Loads the split of an inputs file.

  Args:
    settings: of the measure: `inputs` (path).
    name: 'images', or 'features', which have nothing left to normalise.

  Returns:
    An ImagePool on the device.
  """
  arrays = read_arrays(settings['inputs'])
  _, offsets, sizes = np.unique(arrays['classes'], return_index=True, return_counts=True)
  return ImagePool(jnp.asarray(arrays[name]), jnp.asarray(offsets.astype(np.int32)),
                   jnp.asarray(sizes.astype(np.int32)),
                   NORMALIZATION if name == 'images' else None)


def _with_endings(arrays, endings):
  return nest({name: array for name, array in arrays.items() if name.endswith(endings)})
