"""Runs the authors' PyTorch modules and writes what they compute to `authors_pytorch.npz`, for tests/weights.

Needs PyTorch and a copy of the authors' repository; nothing of either is needed by the tests.

  python -m tests.golden.authors PATH_OF_THEIR_REPOSITORY
"""
import os
import sys
import types

import numpy as np
import torch

from tests.golden import recipe

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'authors_pytorch.npz')
BASE_LR, UPDATE_STEP = 0.01, 100


def model(checkout, name, dtype, mode='meta'):
  """Builds their model with the weights of a recipe."""
  sys.path.insert(0, os.path.join(checkout, 'pytorch'))
  from models.mtl import MtlLearner
  built = MtlLearner(types.SimpleNamespace(way=recipe.WAY, base_lr=BASE_LR, update_step=UPDATE_STEP), mode=mode)
  state = built.state_dict()
  for key, value in state.items():
    if value.is_floating_point():
      shared = {'base_learner.fc1_w': 'base_learner.vars.0', 'base_learner.fc1_b': 'base_learner.vars.1'}.get(key, key)
      state[key] = torch.from_numpy(recipe.tensor(shared, tuple(value.shape), name))
  built.load_state_dict(state)
  return built.to(dtype)


def step(checkout, name, dtype, shot):
  """Returns name -> array of all that one outer step of theirs computes; gradients whole, under 'gradient/KEY'."""
  network = model(checkout, name, dtype)
  support, query = (torch.from_numpy(recipe.images(part, n).transpose(0, 3, 1, 2).copy()).to(dtype)
                    for part, n in ((f'support{shot}', shot), ('query', recipe.QUERY)))
  found = {}
  with torch.no_grad():
    network.eval()
    found['running_features'] = network.encoder(query)
    network.train()
    found['support_features'], found['query_features'] = network.encoder(support), network.encoder(query)
  logits = network((support, torch.from_numpy(recipe.labels(shot)), query))
  loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(recipe.labels(recipe.QUERY)))
  loss.backward()
  found |= {'logits': logits, 'loss': loss}
  trained = dict(network.encoder.named_parameters(prefix='encoder')) | {
      f'base_learner.vars.{i}': p for i, p in enumerate(network.base_learner.vars)}
  found |= {'gradient/' + key: p.grad for key, p in trained.items() if p.grad is not None}
  return {key: value.detach().double().numpy() for key, value in found.items()}


def errors(found, expected):
  """Returns relative errors of the features, logits and loss, of all gradients as one, and of the worst tensor.

  The shift of the stem is left out: batch norm takes it out again, so that its gradient is rounding alone.
  """
  keys = [key for key in expected if key.startswith('gradient/') and not key.endswith('mtl_bias')]
  each = {key: recipe.relative_error(found[key], expected[key]) for key in keys}
  found_all, expected_all = (np.concatenate([tree[key].reshape(-1) for key in keys if 'encoder' in key])
                             for tree in (found, expected))
  rest = {key: recipe.relative_error(found[key], expected[key]) for key in expected if not key.startswith('gradient/')}
  return rest | {'encoder_gradients': recipe.relative_error(found_all, expected_all),
                 'worst_gradient': max(each.values())}


def main(checkout):
  """Writes the file."""
  written = {}
  for kind, mode in (('meta', 'meta'), ('pre', 'pre')):
    state = model(checkout, 'ordinary', torch.float32, mode).state_dict()
    state = {key.removeprefix('encoder.'): v for key, v in state.items() if key.startswith('encoder.')} \
        if kind == 'pre' else state  # as their trainers save them
    written[f'keys/{kind}'] = np.array([f'{key} {",".join(map(str, value.shape))}' for key, value in state.items()])
  for name in recipe.RECIPES:
    for shot in (1, 5):
      exact, single = (step(checkout, name, dtype, shot) for dtype in (torch.float64, torch.float32))
      print(name, shot, 'their float32 against their float64', errors(single, exact), flush=True)
      for key, value in exact.items():
        if key.startswith('gradient/'):
          value = np.append(np.linalg.norm(value), recipe.projected(key, value))
        elif key.endswith('features'):
          value = recipe.projected_features(value)
        written[f'{name}/{shot}shot/{key}'] = value
      written |= {f'{name}/{shot}shot/float32/{key}': value for key, value in errors(single, exact).items()}
  np.savez_compressed(PATH, **written)


if __name__ == '__main__':
  main(sys.argv[1])
