"""Writes `weights/*.pth` with PyTorch; the tests know what they hold and read them without it.

`python -m tests.golden.torch_files` from the root of the repository writes them anew.
"""
import os
from collections import OrderedDict

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'weights')


def tensors(torch):
  """Returns a tensor of every type, and several places in a storage that they share."""
  base = torch.arange(60, dtype=torch.float32) / 4
  return OrderedDict([
      ('float', torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8),
      ('double', torch.arange(5, dtype=torch.float64) / 3),
      ('half', torch.arange(7).half() / 2),
      ('bfloat16', (torch.arange(9) * 1.5 - 4).bfloat16().reshape(3, 3)),
      ('long', torch.tensor(2**40 + 1)),
      ('int', torch.arange(-3, 3, dtype=torch.int32)),
      ('short', torch.arange(-3, 3, dtype=torch.int16)),
      ('char', torch.arange(-3, 3, dtype=torch.int8)),
      ('byte', torch.arange(250, 256).to(torch.uint8)),
      ('bool', torch.tensor([True, False, True])),
      ('empty', torch.zeros(0, 3)),
      ('rows', base.reshape(6, 10)[2:4]),
      ('columns', base.reshape(6, 10)[:, 1::3]),
      ('transposed', base.reshape(3, 4, 5).permute(2, 0, 1)),
      ('number', base[59]),
      ('parameter', torch.nn.Parameter(torch.arange(4, dtype=torch.float32) + 0.5)),
  ])


def network(torch):
  """Returns a state dict as modules make it, with what they note beside it."""
  module = torch.nn.Sequential(OrderedDict(
      conv=torch.nn.Conv2d(2, 3, 2, bias=False), norm=torch.nn.BatchNorm2d(3)))
  state = module.state_dict()
  for i, value in enumerate(state.values()):
    value.copy_(torch.arange(value.numel()).reshape(value.shape) + i)
  return state


def main():
  """Writes every content in both formats of torch.save."""
  import torch  # pyright: ignore[reportMissingImports]
  state = network(torch)
  parallel = OrderedDict((f'module.{name}', value) for name, value in state.items())
  nested = {'epoch': 3, 'note': 'x', 'best': 0.5, 'done': None, 'net': state,
            'optimizer': {'state': {0: {'momentum': state['norm.weight'] * 2}},
                          'param_groups': [{'lr': 0.1}]}}
  contents = {'types': ({'params': tensors(torch)}, {}), 'parallel': (parallel, {}),
              'nested': (nested, {}),
              'protocol4': ({'state_dict': state, 'epoch': 1}, {'pickle_protocol': 4})}
  for name, (content, options) in contents.items():
    torch.save(content, os.path.join(FOLDER, f'{name}_zip.pth'), **options)
    torch.save(content, os.path.join(FOLDER, f'{name}_legacy.pth'),
               _use_new_zipfile_serialization=False, **options)


if __name__ == '__main__':
  main()
