"""Times one outer step of meta-training, this library against plain PyTorch, in turns on the same inputs.

  python benchmarks/meta_step.py --torch_python=PATH_TO_PYTHON_WITH_TORCH --pairs=5 --image_size=84

Both sides are workers (jax_meta_step.py, pytorch_meta_step.py) that read commands on stdin and answer in
JSON, and both load the same weights and tasks from one file. The driver warms both up, then asks A, B, A, B,
... for a step, so that a machine that slows down slows both. `--check` first compares the gradients.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
WIDTHS = (64, 128, 256, 512)


class Worker:
  """A process that answers each line on its stdin by one JSON line on its stdout."""

  def __init__(self, command):
    self.command = command
    try:
      self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as e:
      raise RuntimeError(f'expected a Python to run, got {command[0]!r}: {e.strerror}') from e

  def read(self):
    line = self.process.stdout.readline()
    if not line:
      raise RuntimeError(f'worker ended with status {self.process.wait()}: {" ".join(self.command)}')
    answer = json.loads(line)
    if 'error' in answer:
      raise RuntimeError(f'worker says: {answer["error"]}')
    return answer

  def ask(self, command):
    try:
      print(command, file=self.process.stdin, flush=True)
    except BrokenPipeError:
      pass  # The worker has ended; `read` says so.
    return self.read()

  def close(self):
    if self.process.poll() is None:
      self.process.communicate()  # End of input ends the worker.


def random_weights(rng):
  """ResNet-12 under the names of its JAX tree; gains that keep activations of order one."""
  weights = {}
  for block, (channels_in, width) in enumerate(zip((3,) + WIDTHS[:-1], WIDTHS, strict=True), 1):
    for i in (1, 2, 3):
      fan_in = 9 * (channels_in if i == 1 else width)
      weights[f'block{block}/conv{i}/kernel'] = rng.normal(size=(3, 3, fan_in // 9, width)) / fan_in ** 0.5
      weights[f'block{block}/conv{i}/bias'] = 0.1 * rng.normal(size=width)
      weights[f'block{block}/bn{i}/mean'] = 0.1 * rng.normal(size=width)
      weights[f'block{block}/bn{i}/var'] = rng.uniform(0.5, 1.5, size=width)
    weights[f'block{block}/shortcut/kernel'] = (
        rng.normal(size=(channels_in, width)) * (0.5 / channels_in) ** 0.5)
  return weights


def random_tasks(rng, args):
  """Tasks whose classes differ in their mean image, so that there is something to learn."""
  size, classes = args.image_size, np.arange(args.way, dtype=np.int32)
  means = rng.normal(size=(args.tasks, args.way, size, size, 3))
  tasks = {}
  for name, per_class in (('support', args.shot), ('query', args.query)):
    noise = rng.normal(size=(args.tasks, args.way * per_class, size, size, 3))
    tasks[f'{name}_images'] = (np.repeat(means, per_class, axis=1) + noise) / 2 ** 0.5
    tasks[f'{name}_labels'] = np.tile(np.repeat(classes, per_class), (args.tasks, 1))
  return tasks


def write_inputs(path, args):
  """Writes weights and tasks as float32, labels as int32."""
  rng = np.random.default_rng(args.seed)
  arrays = random_weights(rng) | random_tasks(rng, args)
  np.savez(path, **{k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in arrays.items()})


def start_workers(args, inputs):
  """Starts both workers on the same inputs: {'jax': Worker, 'pytorch': Worker}."""
  shared = [f'--inputs={inputs}', f'--inner_steps={args.inner_steps}', f'--inner_lr={args.inner_lr}',
            f'--outer_lr={args.outer_lr}', f'--bn_eps={args.bn_eps}']
  shared += ['--float64'] if args.float64 else []
  torch_only = ['--channels_last'] if args.channels_last else []
  return {'jax': Worker([args.jax_python, str(HERE / 'jax_meta_step.py'), *shared]),
          'pytorch': Worker([args.torch_python, str(HERE / 'pytorch_meta_step.py'), *shared, *torch_only])}


def compare_gradients(workers, folder):
  """Norm of the difference of each gradient, as a share of its norm; both sides at the initial values.

  In float32 a few activations beside a kink (leaky ReLU, max-pool) fall on either side of it, which moves
  gradients by some 1e-3; in float64 this is too rare to happen.
  """
  for name, worker in workers.items():
    worker.ask(f'grads {folder}/{name}.npz')
  ours, theirs = (np.load(f'{folder}/{name}.npz') for name in ('jax', 'pytorch'))
  if set(ours.files) != set(theirs.files):
    odd = sorted(set(ours.files) ^ set(theirs.files))
    raise RuntimeError(f'expected the same names of gradients from both sides, only one has {odd}')
  return {name: float(np.linalg.norm(ours[name] - theirs[name]) / max(np.linalg.norm(theirs[name]), 1e-30))
          for name in ours.files}


def measure(workers, args):
  """Seconds and losses by worker, the workers in turn; warm-up steps apart."""
  seconds, losses = {n: [] for n in workers}, {n: [] for n in workers}
  warmup = {}
  for name, worker in workers.items():
    warmup[name] = [worker.ask('step') for _ in range(args.warmup)]
    losses[name] += [answer['loss'] for answer in warmup[name]]
  for pair in range(args.pairs):
    for name, worker in workers.items():
      time.sleep(0.3)  # The other side's thread pool goes to sleep.
      answer = worker.ask('step')
      seconds[name].append(answer['seconds'])
      losses[name].append(answer['loss'])
    print(f'pair {pair + 1}: ' + ', '.join(f'{n} {seconds[n][-1]:.3f} s' for n in workers), flush=True)
  first = {name: answers[0]['seconds'] for name, answers in warmup.items() if answers}
  return seconds, losses, first


def machine():
  """One line on the machine."""
  model = platform.processor() or platform.machine()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as f:
      model = next((line.split(':')[1].strip() for line in f if line.startswith('model name')), model)
  return f'{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}'


def summarize(seconds, losses, first, about, args):
  """The object that goes to --out."""
  stats = {name: {'median': statistics.median(s), 'min': min(s), 'max': max(s), 'seconds': s,
                  'first_step': first.get(name), 'losses': losses[name], **about[name]}
           for name, s in seconds.items()}
  ratios = [b / a for a, b in zip(seconds['jax'], seconds['pytorch'], strict=True)]
  gaps = [abs(a - b) / abs(b) for a, b in zip(losses['jax'], losses['pytorch'], strict=True)]
  return {'benchmark': 'meta_step', 'machine': machine(), 'workers': stats,
          'pytorch_over_jax': {'median': statistics.median(ratios), 'min': min(ratios), 'max': max(ratios)},
          'largest_relative_loss_difference': max(gaps),
          'settings': {k: v for k, v in vars(args).items() if k not in ('jax_python', 'torch_python', 'out')}}


def report(summary):
  print(summary['machine'])
  for name, worker in summary['workers'].items():
    versions = ', '.join(f'{k} {v}' for k, v in worker['versions'].items())
    first = f', first step {worker["first_step"]:.1f}' if worker['first_step'] is not None else ''
    print(f'{name:8s} median {worker["median"]:.3f} s '
          f'(min {worker["min"]:.3f}, max {worker["max"]:.3f}{first}); {versions}')
  ratio, loss = summary['pytorch_over_jax'], summary['largest_relative_loss_difference']
  print(f'pytorch / jax: median of pairs {ratio["median"]:.2f} '
        f'(min {ratio["min"]:.2f}, max {ratio["max"]:.2f}); losses agree to {loss:.1e}')


def parse_args():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--torch_python', required=True, help='Python that has torch and numpy')
  parser.add_argument('--jax_python', default=sys.executable, help='Python that has this library')
  parser.add_argument('--pairs', type=int, default=5, help='timed steps of each side')
  parser.add_argument('--warmup', type=int, default=2, help='untimed steps of each side, the first compiles')
  parser.add_argument('--image_size', type=int, default=84)
  parser.add_argument('--tasks', type=int, default=2, help='tasks per outer step')
  parser.add_argument('--way', type=int, default=5)
  parser.add_argument('--shot', type=int, default=1)
  parser.add_argument('--query', type=int, default=15)
  parser.add_argument('--inner_steps', type=int, default=20)
  parser.add_argument('--inner_lr', type=float, default=0.01)
  parser.add_argument('--outer_lr', type=float, default=1e-3)
  parser.add_argument('--bn_eps', type=float, default=1e-5)
  parser.add_argument('--channels_last', action='store_true', help='PyTorch in its other memory layout')
  parser.add_argument('--check', action='store_true', help='compare loss and gradients before timing')
  parser.add_argument('--float64', action='store_true', help='double precision, for a sharp --check')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--out', help='JSON file for the result')
  return parser.parse_args()


def run(args):
  """The whole comparison; returns the object for --out."""
  with tempfile.TemporaryDirectory() as folder:
    write_inputs(f'{folder}/inputs.npz', args)
    workers = start_workers(args, f'{folder}/inputs.npz')
    try:
      about = {name: worker.read() for name, worker in workers.items()}
      differences = compare_gradients(workers, folder) if args.check else {}
      summary = summarize(*measure(workers, args), about, args)
    finally:
      for worker in workers.values():
        worker.close()
  return summary | {'relative_gradient_differences': differences}


def main():
  args = parse_args()
  if args.pairs < 1:
    sys.exit(f'meta_step: expected --pairs of at least 1, got {args.pairs}')
  if args.image_size < 16:
    sys.exit(f'meta_step: expected --image_size of at least 16 (four 2x2 pools), got {args.image_size}')
  try:
    summary = run(args)
  except RuntimeError as e:
    sys.exit(f'meta_step: {e}')
  report(summary)
  differences = summary['relative_gradient_differences']
  if differences:
    worst, median = max(differences, key=differences.get), statistics.median(differences.values())
    print(f'relative differences: loss {differences["loss"]:.1e}, gradients {median:.1e} in the median, '
          f'{differences[worst]:.1e} at worst ({worst})')
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(summary, indent=2) + '\n')


if __name__ == '__main__':
  main()
