"""Modes: the ways of computing in PyTorch that the benchmarks compare this library with.

Modes other than `published` and `channels_last` pass all tasks through the network at once and
adapt them together, use Adam's fused kernel, and let cuDNN choose its algorithms by trial. On a
GPU, all but `tf32`, `bf16` and what builds on it run at PyTorch's own default precision.
"""
import importlib.util
import os
import shutil
from typing import NamedTuple

import torch
from mtl import Unsupported

TF32_CAPABILITY = 8  # major compute capability of Ampere, the first GPUs with TF32


class Mode(NamedTuple):
  """A way of computing an outer step."""
  batched: bool = True         # all tasks at once, else one after the other with gradients added up
  channels_last: bool = False  # memory layout
  folded: bool = False         # batch norm multiplied into the kernels, see `conv_norm`
  vmapped: bool = False        # inner loop by torch.func
  compiled: bool = False       # torch.compile of the loss
  precision: str = 'default'   # 'tf32', also of matrix products; 'bf16', autocast of the network
  graphs: bool = False         # the whole step captured as CUDA graphs


MODES = {
    'published': Mode(batched=False),
    'channels_last': Mode(batched=False, channels_last=True),
    'batched': Mode(),
    'batched_channels_last': Mode(channels_last=True),
    'folded': Mode(channels_last=True, folded=True),
    'func': Mode(vmapped=True),
    'compile': Mode(compiled=True),
    'compile_channels_last': Mode(channels_last=True, compiled=True),
    'compile_folded': Mode(channels_last=True, folded=True, compiled=True),
    'tf32': Mode(channels_last=True, precision='tf32'),
    'bf16': Mode(channels_last=True, precision='bf16'),
    'compile_bf16': Mode(channels_last=True, compiled=True, precision='bf16'),
    'compile_folded_bf16': Mode(channels_last=True, folded=True, compiled=True, precision='bf16'),
    'cuda_graphs': Mode(channels_last=True, precision='bf16', graphs=True),
    'cuda_graphs_folded': Mode(channels_last=True, folded=True, precision='bf16', graphs=True),
}


def chosen(modes, mode, device):
  """Returns the Mode of a name, where this machine can run it.

  Args:
    modes: name -> Mode.
    mode: a name.
    device: where it will run.

  Returns:
    The Mode.

  Raises:
    ValueError: `modes` has none of that name.
    Unsupported: it cannot work on this machine.
  """
  if mode not in modes:
    raise ValueError(f'expected mode to be one of {", ".join(modes)}, got {mode!r}')
  found, cuda = modes[mode], torch.device(device).type == 'cuda'
  if not cuda and (found.precision != 'default' or found.graphs):
    raise Unsupported(f'{mode} needs a GPU')
  if cuda and found.precision == 'bf16' and not torch.cuda.is_bf16_supported():
    raise Unsupported('this GPU has no bfloat16')
  if (cuda and found.precision == 'tf32' and
      torch.cuda.get_device_capability()[0] < TF32_CAPABILITY):
    raise Unsupported('this GPU has no TF32')
  if found.compiled and not cuda and shutil.which(os.environ.get('CXX', 'g++')) is None:
    raise Unsupported('torch.compile needs a C++ compiler, found none')
  if found.compiled and cuda and importlib.util.find_spec('triton') is None:
    raise Unsupported('torch.compile needs Triton on a GPU, found none')
  return found


def set_precision(precision, benchmark=True):
  """Sets PyTorch's global switches, anew for each mode.

  Args:
    precision: 'tf32' rounds the factors of float32 matrix products too, as convolutions do by
      default.
    benchmark: whether cuDNN tries its algorithms out.
  """
  torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
  torch.backends.cudnn.benchmark = benchmark


def compiled(function):
  """Compiles a function afresh, for one set of shapes, as a whole or not at all.

  Args:
    function: of tensors.

  Returns:
    A function like it; its first call compiles.
  """
  torch.compiler.reset()
  return torch.compile(function, fullgraph=True, dynamic=False)
