"""Runs the PyTorch side of the benchmarks on small numbers and writes `pytorch_*.npz`, for tests/benchmarks.

`python -m tests.golden.pytorch_mtl` from the root of the repository writes them anew, where PyTorch is installed; it
also prints how far every other mode is from the written numbers, which should be rounding alone. Modes of torch.compile
take minutes and are left out unless `--compile` is given.
"""
import pathlib
import sys

import numpy as np

from tests.golden import pytorch_recipe as recipe

HERE = pathlib.Path(__file__).parent


def model_arrays(network):
  """Returns the arrays of a network and its base-learner, by name."""
  import pytorch_mtl
  import pytorch_networks
  model = pytorch_mtl.Model(pytorch_networks.NETWORKS[network](recipe.WIDTH, recipe.EPS), recipe.WAY)
  shapes = {entry.name: pytorch_networks.to_file(entry.tensor, entry.matrix).shape
            for entry in pytorch_networks.entries(model)}
  return {name: recipe.array(name, shape) for name, shape in shapes.items()}


def outer_step(network, mode, order):
  """Returns loss and gradients of one outer step by a mode, float64."""
  import pytorch_modes
  step = pytorch_modes.meta_step(model_arrays(network) | recipe.tasks(), mode, 'cpu', network=network, order=order,
                                 norm_epsilon=recipe.EPS, float64=True, width=recipe.WIDTH, **recipe.STEP)
  return step.named_gradients()


def inner_loop(mode, order):
  """Returns loss and gradients of an inner loop by a mode, float64."""
  import pytorch_inner_loop
  return pytorch_inner_loop.InnerLoop(recipe.features(), mode, 'cpu', order=order, float64=True,
                                      **recipe.LOOP).named_gradients()


def furthest(found, expected):
  """Returns the largest |found - expected| / |expected| over the arrays."""
  assert set(found) == set(expected)
  return max(np.linalg.norm(found[name] - expected[name]) / max(np.linalg.norm(expected[name]), 1e-300)
             for name in expected)


def write(name, modes, compute):
  """Writes what the first mode gives in both orders, and prints how far the others are from it."""
  import pytorch_mtl
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
        print(f'{name} {order} {mode}: {furthest(compute(mode, order), expected):.1e} from it', flush=True)
      except pytorch_mtl.Unsupported as e:
        print(f'{name} {order} {mode}: {e}')
  np.savez_compressed(HERE / f'pytorch_{name}.npz', sources=recipe.sources(), **written)


def main():
  """Writes the files."""
  sys.path.insert(0, str(HERE.parents[1] / 'benchmarks'))
  import pytorch_inner_loop
  import pytorch_modes
  write('inner_loop', pytorch_inner_loop.InnerLoop.MODES, inner_loop)
  for network in recipe.NETWORKS:
    write(network, pytorch_modes.MODES, lambda mode, order, network=network: outer_step(network, mode, order))


if __name__ == '__main__':
  main()
