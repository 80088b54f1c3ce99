"""Runs the PyTorch side of the benchmarks on small numbers and writes `pytorch_*.npz`.

`python -m tests.golden.pytorch_mtl` from the root of the repository writes them anew, where PyTorch
is installed. It also prints how far the numbers are from those of the file that it replaces, and
how far every other mode is from the written numbers: both should be rounding alone. Modes of
torch.compile take minutes and are left out unless `--compile` is given.
"""
import pathlib
import sys

import numpy as np

from tests.golden import pytorch_recipe as recipe

HERE = pathlib.Path(__file__).parent


def model_arrays(network):
  """Returns the arrays of a network and its base-learner, by name."""
  import array_names
  import mtl
  import networks
  model = mtl.Model(networks.NETWORKS[network](recipe.WIDTH, recipe.EPS), recipe.WAY)
  shapes = {entry.name: array_names.to_file(entry.tensor, entry.matrix).shape
            for entry in array_names.entries(model)}
  return {name: recipe.array(name, shape) for name, shape in shapes.items()}


def step_gradients(network, mode, order):
  """Returns loss and gradients of one outer step in a mode, float64."""
  import outer_step
  step = outer_step.meta_step(
      model_arrays(network) | recipe.tasks(), mode, 'cpu', network=network, order=order,
      norm_epsilon=recipe.EPS, float64=True, width=recipe.WIDTH, **recipe.STEP)
  return step.named_gradients()


def loop_gradients(mode, order):
  """Returns loss and gradients of an inner loop in a mode, float64."""
  import feature_loop
  return feature_loop.InnerLoop(recipe.features(), mode, 'cpu', order=order, float64=True,
                                **recipe.LOOP).named_gradients()


def furthest(found, expected):
  """Returns the largest |found - expected| / |expected| over the arrays."""
  assert set(found) == set(expected)
  tiny = 1e-300  # an array of zeros divides nothing by zero
  return max(np.linalg.norm(found[name] - expected[name]) /
             max(np.linalg.norm(expected[name]), tiny) for name in expected)


def write(name, modes, compute):
  """Writes the numbers of the first mode in both orders; prints how far the others are from it."""
  import mtl
  written = {}
  for order in recipe.ORDERS:
    first, *others = modes
    expected = compute(first, order)
    written |= {f'{order}/{key}': value for key, value in expected.items()}
    print(f'{name} {order} {first}: loss {expected["loss"]:.6f}', flush=True)
    for mode in others:
      if 'compile' in mode and '--compile' not in sys.argv:
        continue
      try:
        print(f'{name} {order} {mode}: {furthest(compute(mode, order), expected):.1e} from it',
              flush=True)
      except mtl.Unsupported as e:
        print(f'{name} {order} {mode}: {e}')
  path = HERE / f'pytorch_{name}.npz'
  if path.exists():
    with np.load(path) as file:
      before = {key: file[key] for key in file.files if key != 'sources'}
    print(f'{name}: {furthest(written, before):.1e} from the file before', flush=True)
  np.savez_compressed(path, sources=recipe.sources(), **written)


def main():
  """Writes the files."""
  sys.path.insert(0, str(recipe.FOLDER))  # the PyTorch side is a folder of scripts, no package
  import feature_loop
  import modes
  write('inner_loop', feature_loop.InnerLoop.MODES, loop_gradients)
  for network in recipe.NETWORKS:
    write(network, modes.MODES,
          lambda mode, order, network=network: step_gradients(network, mode, order))


if __name__ == '__main__':
  main()
