"""Between the modules of a PyTorch model and the named arrays of npz files.

The path of an array in a file is the path of its module, with slashes; layouts are those of JAX.
"""
from typing import NamedTuple

import torch
from convolutions import ScaleShiftConv
from torch import nn


class Entry(NamedTuple):
  """An array of a model."""
  name: str            # in the files
  tensor: torch.Tensor
  learned: bool        # whether it is meta-learned
  matrix: bool         # a 1x1 kernel or a linear layer: [in, out] in the files


def entries(model):
  """Lists the arrays of a model with their names in the files.

  Args:
    model: a module with `network` and `base_learner`.

  Yields:
    An Entry per array.
  """
  for path, module in model.network.named_modules():
    path = path.replace('.', '/')
    if isinstance(module, ScaleShiftConv):
      matrix = module.weight.shape[-1] == 1
      yield Entry(f'{path}/kernel', module.weight, False, matrix)
      yield Entry(f'scale_shift/{path}/scale', module.scale, True, matrix)
      if module.bias is not None:
        yield Entry(f'{path}/bias', module.bias, False, False)
        yield Entry(f'scale_shift/{path}/shift', module.shift, True, False)
    elif isinstance(module, nn.Conv2d):
      yield Entry(f'{path}/kernel', module.weight, False, True)
    elif isinstance(module, nn.BatchNorm2d):
      named = {'mean': module.running_mean, 'var': module.running_var, 'scale': module.weight,
               'bias': module.bias}
      yield from (Entry(f'{path}/{name}', tensor, False, False) for name, tensor in named.items()
                  if tensor is not None)
  yield Entry('base_learner/kernel', model.base_learner.weight, True, True)
  yield Entry('base_learner/bias', model.base_learner.bias, True, False)


def load(model, arrays):
  """Copies the arrays of a file into a model; meta-learned ones may be absent and then stay.

  Args:
    model: as in `entries`.
    arrays: name -> NumPy array; kernels are [h, w, in, out], or [in, out] where they are 1x1.

  Raises:
    ValueError: an array is missing or has another shape.
  """
  for name, tensor, learned, matrix in entries(model):
    expected = tuple(to_file(tensor, matrix).shape)
    if name in arrays:
      if arrays[name].shape != expected:
        raise ValueError(f'expected {name} of shape {expected}, got {arrays[name].shape}')
      values = torch.from_numpy(arrays[name])
      values = values.T if matrix else values.permute(3, 2, 0, 1) if values.ndim == 4 else values
      tensor.data.copy_(values.reshape(tensor.shape))
    elif not learned:
      raise ValueError(f'expected an array {name!r} in the inputs, found none')


def to_file(tensor, matrix):
  """Converts a tensor of a model to the layout of the files.

  Args:
    tensor: [out, in, h, w], [out, in] or [out].
    matrix: as in Entry.

  Returns:
    NumPy array [h, w, in, out], [in, out] or [out].
  """
  tensor = tensor.detach().cpu()
  if matrix:
    return tensor.flatten(1).T.numpy()
  return tensor.permute(2, 3, 1, 0).numpy() if tensor.ndim == 4 else tensor.numpy()
