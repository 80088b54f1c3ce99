"""PyTorch's side of the benchmarks: a process that prepares and runs what a driver asks for.

Any Python with PyTorch and NumPy (and Pillow, for `input` from files) can run it; it imports
nothing of this library, and its folder is a script's, no package:

  echo '{"do": "setup", "measure": "peak", "size": 512, "dtype": "float32"}' |
      python benchmarks/pytorch/worker.py

The protocol is in benchmarks/README.md.
"""
import argparse
import ctypes
import gc
import json
import os
import sys
import time

import numpy as np
import torch
from device import device_name, peak_bytes, reset_peak, synchronize
from feature_loop import InnerLoop
from image_loader import Input
from mtl import Unsupported
from outer_step import meta_step
from product import Peak
from split_accuracy import MetaTest

MEASURES = {'meta_step': meta_step, 'inner_loop': InnerLoop, 'meta_test': MetaTest, 'input': Input,
            'peak': Peak}


class Worker:
  """Answers requests; holds what was set up last."""

  def __init__(self, device):
    self.device, self.measure = device, None

  def answer(self, request):
    """Carries a request out.

    Args:
      request: an object with `do` and settings.

    Returns:
      The object to answer it with.
    """
    try:
      does = {'setup': self.setup, 'run': self.run, 'save': self.save}
      do = request['do']
      settings = {name: value for name, value in request.items() if name != 'do'}
      if do not in does:
        raise ValueError(f'expected do to be one of {", ".join(does)}, got {do!r}')
      return does[do](**settings)
    except Unsupported as e:
      return {'skip': one_line(e)}
    except Exception as e:  # the driver decides what an error means; the next setup may work
      return {'error': f'{type(e).__name__}: {one_line(e)}'}

  def setup(self, measure, mode=None, inputs=None, **settings):
    """Prepares a measure in place of the one before it.

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
    """Returns memory to the system, lest it count as that of the next measure."""
    self.measure = None
    gc.collect()
    if torch.device(self.device).type == 'cuda':
      torch.cuda.empty_cache()
    if sys.platform == 'linux':
      trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # of glibc alone
      if trim:
        trim(0)


def one_line(error):
  """Returns the first line of a message.

  Args:
    error: an exception.

  Returns:
    Text without a line break.
  """
  return (str(error).strip().splitlines() or [''])[0]


def main():
  """Describes this worker, then answers requests until their end."""
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

  def tell(answer):
    print(json.dumps(answer), file=answers, flush=True)

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
