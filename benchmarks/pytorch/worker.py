"""PyTorch's side of the benchmarks: a process that prepares and runs what a driver asks for, line by line.

Any Python with PyTorch and NumPy (and Pillow, for `input` from files) can run it; nothing of this library is imported:

  echo '{"do": "setup", "measure": "peak", "size": 512, "dtype": "float32"}' | python benchmarks/pytorch/worker.py

The protocol is in benchmarks/README.md.
"""
import argparse
import ctypes
import gc
import json
import os
import platform
import sys
import time

import numpy as np
import torch
from inner_loop import InnerLoop
from input import Input
from modes import meta_step, set_precision
from mtl import Unsupported
from tasks import MetaTest


class Peak:
  """One product of two square matrices."""

  def __init__(self, arrays, mode, device, *, size, dtype):
    """Makes the matrices.

    Args:
      arrays: not read.
      mode: not read.
      device: of the matrices.
      size: side of the matrices.
      dtype: name of their type, or 'tf32' for float32 with rounded factors.
    """
    del arrays, mode
    set_precision(dtype)
    dtype = getattr(torch, 'float32' if dtype == 'tf32' else dtype)
    self.left, self.right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    self.out, self.device = torch.empty_like(self.left), device

  def run(self):
    """Multiplies.

    Returns:
      Operations per second.
    """
    synchronize(self.device)
    start = time.perf_counter()
    torch.mm(self.left, self.right, out=self.out)
    synchronize(self.device)
    return 2 * len(self.left) ** 3 / (time.perf_counter() - start)


MEASURES = {'meta_step': meta_step, 'inner_loop': InnerLoop, 'meta_test': MetaTest, 'input': Input, 'peak': Peak}


class Worker:
  """Answers requests; holds what was set up last."""

  def __init__(self, device):
    self.device, self.measure = device, None

  def answer(self, request):
    """Does what a request says.

    Args:
      request: an object with `do` and settings.

    Returns:
      The object to answer it with.
    """
    try:
      does = {'setup': self.setup, 'run': self.run, 'save': self.save}
      do, settings = request['do'], {name: value for name, value in request.items() if name != 'do'}
      if do not in does:
        raise ValueError(f'expected do to be one of {", ".join(does)}, got {do!r}')
      return does[do](**settings)
    except Unsupported as e:
      return {'skip': one_line(e)}
    except Exception as e:  # the driver decides what an error means; the next setup may do
      return {'error': f'{type(e).__name__}: {one_line(e)}'}

  def setup(self, measure, mode=None, inputs=None, **settings):
    """Drops what was there and prepares a measure.

    Args:
      measure: one of MEASURES.
      mode: one of its modes.
      inputs: npz file.
      **settings: of the measure.

    Returns:
      `seconds` that it took.
    """
    self._drop()
    start = time.perf_counter()
    if measure not in MEASURES:
      raise ValueError(f'expected measure to be one of {", ".join(MEASURES)}, got {measure!r}')
    arrays = {}
    if inputs:
      with np.load(inputs) as file:
        arrays = dict(file)
    torch.manual_seed(0)
    self.measure = MEASURES[measure](arrays, mode, self.device, **settings)
    synchronize(self.device)
    return {'seconds': time.perf_counter() - start}

  def run(self):
    """Runs the measure once.

    Returns:
      `seconds`, `value` and `peak_bytes`.
    """
    measure = self._ready('run')
    reset_peak(self.device)
    start = time.perf_counter()
    value = measure.run()
    synchronize(self.device)
    seconds = time.perf_counter() - start
    captured = getattr(measure, 'captured_bytes', 0)
    return {'seconds': seconds, 'value': value, 'peak_bytes': peak_bytes(self.device, captured)}

  def save(self, path):
    """Writes loss and gradients to a file, without a step.

    Args:
      path: of the npz file.

    Returns:
      The loss as `value`.
    """
    named = self._ready('named_gradients').named_gradients()
    np.savez(path, **named)
    return {'value': float(named['loss'])}

  def _ready(self, method):
    if not hasattr(self.measure, method):
      raise ValueError('expected a setup before it, of a measure that can do it')
    return self.measure

  def _drop(self):
    """Gives memory back to the system, so that it does not count as that of the next measure."""
    self.measure = None
    gc.collect()
    if torch.device(self.device).type == 'cuda':
      torch.cuda.empty_cache()
    if sys.platform == 'linux':
      trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
      if trim:
        trim(0)


def synchronize(device):
  """Waits for a GPU.

  Args:
    device: on a CPU there is nothing to wait for.
  """
  if torch.device(device).type == 'cuda':
    torch.cuda.synchronize()


def reset_peak(device):
  """Starts counting peak memory anew.

  Args:
    device: whose memory.
  """
  if torch.device(device).type == 'cuda':
    torch.cuda.reset_peak_memory_stats()
  elif os.path.exists('/proc/self/clear_refs'):
    with open('/proc/self/clear_refs', 'w') as file:
      file.write('5')


def peak_bytes(device, captured=0):
  """Reads the peak of allocated memory of a GPU, or of the resident set of this process.

  Args:
    device: whose memory.
    captured: what counters do not see, at least.

  Returns:
    Bytes, or None where the system does not tell.
  """
  if torch.device(device).type == 'cuda':
    return max(torch.cuda.max_memory_allocated(), captured)
  if not os.path.exists('/proc/self/clear_refs'):
    return None
  with open('/proc/self/status') as file:
    return next((1024 * int(line.split()[1]) for line in file if line.startswith('VmHWM:')), None)


def device_name(device):
  """Names the processor.

  Args:
    device: a torch device.

  Returns:
    Its model.
  """
  if torch.device(device).type == 'cuda':
    return torch.cuda.get_device_name()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      return next((line.split(':')[1].strip() for line in file if line.startswith('model name')), platform.machine())
  return platform.processor() or platform.machine()


def one_line(error):
  """Takes the first line of a message.

  Args:
    error: an exception.

  Returns:
    It.
  """
  return (str(error).strip().splitlines() or [''])[0]


def main():
  """Says what this worker is, then answers requests until their end."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--device', help='cpu or cuda; the GPU where there is one')
  parser.add_argument('--threads', type=int, help='threads of PyTorch; its own choice without it')
  args = parser.parse_args()
  if args.threads:
    torch.set_num_threads(args.threads)
  # What libraries and compilers print must not fall between the answers.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  worker = Worker(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
  tell = lambda answer: print(json.dumps(answer), file=answers, flush=True)  # noqa: E731
  tell({'name': 'pytorch', 'versions': {'torch': torch.__version__, 'numpy': np.__version__},
        'threads': torch.get_num_threads(), 'device': device_name(worker.device)})
  for line in sys.stdin:
    try:
      request = json.loads(line)
    except ValueError:
      tell({'error': f'expected a JSON object, got {line.strip()!r}'})
      continue
    tell(worker.answer(request))


if __name__ == '__main__':
  main()
