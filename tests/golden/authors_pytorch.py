"""Runs the authors' PyTorch modules and writes what they compute to `authors_pytorch.npz`.

Needs PyTorch and a copy of the authors' repository; the tests (tests/weights) need neither.

  python -m tests.golden.authors_pytorch PATH_OF_THEIR_REPOSITORY
"""
import os
import sys
import types

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from tests.golden import authors_recipe

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'authors_pytorch.npz')
BASE_LR, UPDATE_STEP = 0.01, 100


def model(checkout, name, dtype, mode='meta'):
  """Builds their model with the weights of a recipe."""
  sys.path.insert(0, os.path.join(checkout, 'pytorch'))
  from models.mtl import MtlLearner  # pyright: ignore[reportMissingImports]
  options = types.SimpleNamespace(way=authors_recipe.WAY, base_lr=BASE_LR, update_step=UPDATE_STEP)
  built = MtlLearner(options, mode=mode)
  state = built.state_dict()
  for key, value in state.items():
    if value.is_floating_point():
      state[key] = torch.from_numpy(authors_recipe.tensor(key, tuple(value.shape), name))
  built.load_state_dict(state)
  return built.to(dtype)


def step(checkout, name, dtype, shot):
  """Computes one outer step of theirs.

  Args:
    checkout: folder of their repository.
    name: of the recipe.
    dtype: of PyTorch.
    shot: K.

  Returns:
    Name -> array of features, logits and loss; gradients whole, under 'gradient/KEY'.
  """
  network = model(checkout, name, dtype)
  parts = ((f'support{shot}', shot), ('query', authors_recipe.QUERY))
  support, query = (
      torch.from_numpy(authors_recipe.images(part, n).transpose(0, 3, 1, 2).copy()).to(dtype)
      for part, n in parts)
  support_labels, query_labels = (torch.from_numpy(authors_recipe.labels(n)) for _, n in parts)
  found = {}
  with torch.no_grad():
    network.eval()
    found['running_features'] = network.encoder(query)
    network.train()
    found['support_features'] = network.encoder(support)
    found['query_features'] = network.encoder(query)
  logits = network((support, support_labels, query))
  loss = torch.nn.functional.cross_entropy(logits, query_labels)
  loss.backward()
  found |= {'logits': logits, 'loss': loss}
  trained = dict(network.encoder.named_parameters(prefix='encoder')) | {
      f'base_learner.vars.{i}': p for i, p in enumerate(network.base_learner.vars)}
  found |= {'gradient/' + key: p.grad for key, p in trained.items() if p.grad is not None}
  return {key: value.detach().double().numpy() for key, value in found.items()}


def errors(found, expected):
  """Computes relative errors of features, logits, loss, all gradients as one, the worst gradient.

  The shift of the stem is left out: batch norm takes it out again, so its gradient is rounding
  alone.
  """
  error = authors_recipe.relative_error
  keys = [key for key in expected if key.startswith('gradient/') and not key.endswith('mtl_bias')]
  each = {key: error(found[key], expected[key]) for key in keys}
  found_all, expected_all = (
      np.concatenate([tree[key].reshape(-1) for key in keys if 'encoder' in key])
      for tree in (found, expected))
  rest = {key: error(found[key], expected[key])
          for key in expected if not key.startswith('gradient/')}
  return rest | {'encoder_gradients': error(found_all, expected_all),
                 'worst_gradient': max(each.values())}


def listed_keys(checkout, kind):
  """Returns 'KEY SHAPE' of each tensor that their trainers save; `kind` is 'meta' or 'pre'."""
  state = model(checkout, 'ordinary', torch.float32, kind).state_dict()
  if kind == 'pre':  # they save the encoder alone
    state = {key.removeprefix('encoder.'): value for key, value in state.items()
             if key.startswith('encoder.')}
  return [f'{key} {",".join(map(str, value.shape))}' for key, value in state.items()]


def shortened(key, value):
  """Returns the numbers that stand for an array in the file."""
  if key.startswith('gradient/'):
    return np.append(np.linalg.norm(value), authors_recipe.projected(key, value))
  return authors_recipe.projected_features(value) if key.endswith('features') else value


def main(checkout):
  """Writes the file."""
  written = {f'keys/{kind}': np.array(listed_keys(checkout, kind)) for kind in ('meta', 'pre')}
  for name in authors_recipe.RECIPES:
    for shot in (1, 5):
      exact, single = (step(checkout, name, dtype, shot)
                       for dtype in (torch.float64, torch.float32))
      found = errors(single, exact)
      print(name, shot, 'their float32 against their float64', found, flush=True)
      prefix = f'{name}/{shot}shot/'
      written |= {prefix + key: shortened(key, value) for key, value in exact.items()}
      written |= {f'{prefix}float32/{key}': np.array(value) for key, value in found.items()}
  np.savez_compressed(PATH, **written)  # pyright: ignore[reportArgumentType]


if __name__ == '__main__':
  main(sys.argv[1])
