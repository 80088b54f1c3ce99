"""Tensors under the authors' names and in their layouts, of any width: what their trainers save."""
import os

import numpy as np

from tests.golden import recipe

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'golden', 'authors_pytorch.npz')
_FIRST_NAMES = {'base_learner.fc1_w': 'base_learner.vars.0', 'base_learner.fc1_b': 'base_learner.vars.1'}


def pytorch(*, meta_trained=True, divisor=1, way=5, recipe_name='ordinary'):
  """What `state_dict()` of their model gives, or that of its encoder after pre-training.

  Keys and shapes are those that their modules had when the golden file was made, channels divided by `divisor`.
  """
  listed = np.load(GOLDEN)['keys/meta' if meta_trained else 'keys/pre']
  tensors = {}
  for key, shape in (line.split(' ') for line in listed.tolist()):
    sizes = [int(n) for n in shape.split(',') if n]
    shape = tuple(n // divisor if n % 80 == 0 else way if n == 5 else n for n in sizes)
    tensors[key] = (np.array(7) if key.endswith('.num_batches_tracked') else
                    recipe.tensor(_FIRST_NAMES.get(key, key), shape, recipe_name))
  return tensors


def tensorflow(*, meta_trained=True, width=4, way=5, seed=0):
  """The three dictionaries of their TensorFlow code: name -> key -> array; before meta-training `weights` alone."""
  random = np.random.default_rng(seed)
  weights, scales = {}, {}
  channels = [3, *(width * 2**i for i in range(4))]
  for block, (c_in, c_out) in enumerate(zip(channels, channels[1:], strict=False), 1):
    for conv, inputs in ((1, c_in), (2, c_out), (3, c_out)):
      kernel = random.normal(size=(3, 3, inputs, c_out)) * np.sqrt(2 / (9 * inputs))
      weights |= {f'block{block}_conv{conv}': kernel, f'block{block}_bias{conv}': 0.1 * random.normal(size=c_out)}
      scales |= {f'block{block}_conv{conv}': 1 + 0.1 * random.normal(size=(1, 1, inputs, c_out)),
                 f'block{block}_bias{conv}': 0.1 * random.normal(size=c_out)}
    weights[f'block{block}_conv_res'] = random.normal(size=(1, 1, c_in, c_out)) / np.sqrt(c_in)
  weights |= {'w5': random.normal(size=(8 * width, 64)), 'b5': random.normal(size=64)}
  dictionaries = {'weights': weights}
  if meta_trained:
    classifier = {'w5': 0.3 * random.normal(size=(8 * width, way)), 'b5': 0.1 * random.normal(size=way)}
    dictionaries |= {'ss_weights': scales, 'fc_weights': classifier}
  return {name: {key: array.astype(np.float32) for key, array in dictionary.items()}
          for name, dictionary in dictionaries.items()}
