"""Tensors under the authors' names and in their layouts, of any width, as their trainers save."""
import os

import numpy as np

from tests.golden import authors_recipe

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'golden',
                      'authors_pytorch.npz')


def pytorch(*, meta_trained=True, divisor=1, way=5, recipe='ordinary'):
  """Returns `state_dict()` of their model, or that of its encoder after pre-training.

  Keys and shapes are those that their modules had when the golden file was made, channels divided
  by `divisor`.
  """
  listed = np.load(GOLDEN)['keys/meta' if meta_trained else 'keys/pre']
  tensors = {}
  for key, shape in (line.split(' ') for line in listed.tolist()):
    # All channels are multiples of 80; a size of 5 is the number of classes.
    sizes = [int(n) for n in shape.split(',') if n]
    shape = tuple(n // divisor if n % 80 == 0 else way if n == 5 else n for n in sizes)
    tensors[key] = (np.array(7) if key.endswith('.num_batches_tracked') else
                    authors_recipe.tensor(key, shape, recipe))
  return tensors


def tensorflow(*, meta_trained=True, width=4, way=5, seed=0):
  """Returns the dictionaries of their TensorFlow code, name -> key -> float32 array.

  Before meta-training there is `weights` alone.
  """
  random = np.random.default_rng(seed)
  weights, scales = {}, {}
  channels = [3, *(width * 2**i for i in range(4))]
  for block, (c_in, c_out) in enumerate(zip(channels, channels[1:], strict=False), 1):
    for conv, inputs in ((1, c_in), (2, c_out), (3, c_out)):
      kernel = random.normal(size=(3, 3, inputs, c_out)) * np.sqrt(2 / (9 * inputs))
      weights[f'block{block}_conv{conv}'] = kernel
      weights[f'block{block}_bias{conv}'] = 0.1 * random.normal(size=c_out)
      scales[f'block{block}_conv{conv}'] = 1 + 0.1 * random.normal(size=(1, 1, inputs, c_out))
      scales[f'block{block}_bias{conv}'] = 0.1 * random.normal(size=c_out)
    weights[f'block{block}_conv_res'] = random.normal(size=(1, 1, c_in, c_out)) / np.sqrt(c_in)
  # The classifier of the 64 base classes, which is not used after pre-training.
  weights |= {'w5': random.normal(size=(8 * width, 64)), 'b5': random.normal(size=64)}
  dictionaries = {'weights': weights}
  if meta_trained:
    classifier = {'w5': 0.3 * random.normal(size=(8 * width, way)),
                  'b5': 0.1 * random.normal(size=way)}
    dictionaries |= {'ss_weights': scales, 'fc_weights': classifier}
  return {name: {key: array.astype(np.float32) for key, array in dictionary.items()}
          for name, dictionary in dictionaries.items()}


def flat_tensorflow(**options):
  """Returns `tensorflow(...)` under one name per array, such as 'weights/block1_conv1'."""
  return {f'{name}/{key}': array for name, part in tensorflow(**options).items()
          for key, array in part.items()}
