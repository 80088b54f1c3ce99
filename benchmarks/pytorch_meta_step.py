"""One outer step of meta-transfer learning in plain eager PyTorch, as a worker that a driver asks for steps.

The network is ResNet-12 (64-128-256-512, frozen batch norm), scale and shift act on the three main
convolutions of each block, the base-learner takes its inner steps by
`torch.autograd.grad(create_graph=True)`, and the outer gradient is of second order. Nothing is imported but
torch and numpy, so that any Python with the two can run it:

  echo step | python benchmarks/pytorch_meta_step.py --image_size=16

Commands, one a line on stdin; each is answered by one JSON line on stdout:
  step         take one outer step (forward, backward, Adam)     {"seconds": ..., "loss": ...}
  grads FILE   write loss and gradients to FILE, take no step    {"seconds": ..., "loss": ...}
The first line, before any command, describes the worker. End of input ends it.
"""
import argparse
import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)


class ScaleShiftConv(nn.Module):
  """A frozen 3x3 convolution; meta-learned are a scale of each kernel slice and a shift of the bias."""

  def __init__(self, channels_in, channels_out):
    super().__init__()
    self.register_buffer('weight', torch.randn(channels_out, channels_in, 3, 3) / (9 * channels_in) ** 0.5)
    self.register_buffer('bias', torch.zeros(channels_out))
    self.scale = nn.Parameter(torch.ones(channels_out, channels_in, 1, 1))
    self.shift = nn.Parameter(torch.zeros(channels_out))

  def forward(self, x):
    return F.conv2d(x, self.weight * self.scale, self.bias + self.shift, padding=1)


class Block(nn.Module):
  """Three times convolution, batch norm, leaky ReLU; plus a 1x1 shortcut; 2x2 max-pool, rounding down."""

  def __init__(self, channels_in, channels_out, eps):
    super().__init__()
    for i in (1, 2, 3):
      self.add_module(f'conv{i}', ScaleShiftConv(channels_in if i == 1 else channels_out, channels_out))
      self.add_module(f'bn{i}', nn.BatchNorm2d(channels_out, eps=eps, affine=False))
    self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False).requires_grad_(False)
    nn.init.normal_(self.shortcut.weight, std=(0.5 / channels_in) ** 0.5)  # Keeps the features of order one.

  def forward(self, x):
    y = F.leaky_relu(self.bn1(self.conv1(x)), 0.1, inplace=True)
    y = F.leaky_relu(self.bn2(self.conv2(y)), 0.1, inplace=True)
    y = F.leaky_relu(self.bn3(self.conv3(y)), 0.1, inplace=True)
    return F.max_pool2d(y + self.shortcut(x), 2)


class ResNet12(nn.Module):
  """Four blocks and global average pooling: images [B, 3, H, W] -> features [B, 512]."""

  def __init__(self, eps):
    super().__init__()
    for i, (channels_in, channels_out) in enumerate(zip((3,) + WIDTHS[:-1], WIDTHS, strict=True), 1):
      self.add_module(f'block{i}', Block(channels_in, channels_out, eps))
    self.eval()  # Batch norm with its running statistics, frozen.

  def forward(self, x):
    return self.block4(self.block3(self.block2(self.block1(x)))).mean(dim=(2, 3))


class BaseLearner(nn.Module):
  """Linear classifier; its initial value is meta-learned."""

  def __init__(self, way):
    super().__init__()
    self.weight = nn.Parameter(torch.zeros(way, WIDTHS[-1]))
    self.bias = nn.Parameter(torch.zeros(way))


def task_loss(net, base_learner, task, args):
  """Query loss of one task after `inner_steps` steps of gradient descent on its support set."""
  support_images, support_labels, query_images, query_labels = task
  features = net(torch.cat([support_images, query_images]))
  support, query = features.split([len(support_images), len(query_images)])
  weight, bias = base_learner.weight, base_learner.bias
  for _ in range(args.inner_steps):
    loss = F.cross_entropy(F.linear(support, weight, bias), support_labels)
    grad_weight, grad_bias = torch.autograd.grad(loss, (weight, bias), create_graph=True)
    weight, bias = weight - args.inner_lr * grad_weight, bias - args.inner_lr * grad_bias
  return F.cross_entropy(F.linear(query, weight, bias), query_labels)


def accumulate_gradients(net, base_learner, tasks, args):
  """Backpropagates the mean query loss of the meta-batch, task by task (less memory than all at once)."""
  total = 0.0
  for task in tasks:
    loss = task_loss(net, base_learner, task, args) / len(tasks)
    loss.backward()
    total += loss.item()
  return total


def random_tasks(args):
  """Tasks of normal noise; labels lie class after class."""
  classes = torch.arange(args.way)
  shape = (3, args.image_size, args.image_size)
  return [(torch.randn(args.way * args.shot, *shape), classes.repeat_interleave(args.shot),
           torch.randn(args.way * args.query, *shape), classes.repeat_interleave(args.query))
          for _ in range(args.tasks)]


def load_tasks(arrays):
  """Tasks of an inputs file: images NHWC -> NCHW."""
  names = ('support_images', 'support_labels', 'query_images', 'query_labels')
  per_task = zip(*(torch.from_numpy(arrays[name]) for name in names), strict=True)
  nchw = lambda images: images.permute(0, 3, 1, 2).to(torch.get_default_dtype()).contiguous()  # noqa: E731
  return [(nchw(s), sl.long(), nchw(q), ql.long()) for s, sl, q, ql in per_task]


def named_tensors(net, base_learner):
  """(name in the files, tensor, whether it is meta-learned) for every array of the model."""
  for block_name, block in net.named_children():
    for i in (1, 2, 3):
      conv, bn = getattr(block, f'conv{i}'), getattr(block, f'bn{i}')
      yield f'{block_name}/conv{i}/kernel', conv.weight, False
      yield f'{block_name}/conv{i}/bias', conv.bias, False
      yield f'{block_name}/bn{i}/mean', bn.running_mean, False
      yield f'{block_name}/bn{i}/var', bn.running_var, False
      yield f'scale_shift/{block_name}/conv{i}/scale', conv.scale, True
      yield f'scale_shift/{block_name}/conv{i}/shift', conv.shift, True
    yield f'{block_name}/shortcut/kernel', block.shortcut.weight, False
  yield 'base_learner/kernel', base_learner.weight, True
  yield 'base_learner/bias', base_learner.bias, True


def from_file_layout(array):
  """[h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]; vectors stay."""
  return array.transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim])


def to_file_layout(array):
  """The inverse of `from_file_layout`."""
  return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def load_model(arrays, net, base_learner):
  """Copies an inputs file into the model; what is meta-learned may be absent (initial value then)."""
  for name, tensor, meta_learned in named_tensors(net, base_learner):
    if name in arrays:
      values = torch.from_numpy(from_file_layout(arrays[name]).copy())
      tensor.data.copy_(values.reshape(tensor.shape))  # The 1x1 shortcut is a matrix [in, out] in the file.
    elif not meta_learned:
      raise ValueError(f'expected an array {name!r} in the inputs file, found none')


def write_gradients(path, loss, net, base_learner):
  """Writes loss and gradients under the names and layouts of the inputs file."""
  grads = {name: to_file_layout(tensor.grad.numpy())
           for name, tensor, meta_learned in named_tensors(net, base_learner) if meta_learned}
  np.savez(path, loss=np.asarray(loss), **grads)


def parse_args():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--inputs', help='npz file with weights and tasks; random ones without it')
  parser.add_argument('--image_size', type=int, default=84, help='height and width of the random images')
  parser.add_argument('--tasks', type=int, default=2, help='tasks per outer step, if random')
  parser.add_argument('--way', type=int, default=5)
  parser.add_argument('--shot', type=int, default=1)
  parser.add_argument('--query', type=int, default=15)
  parser.add_argument('--inner_steps', type=int, default=20)
  parser.add_argument('--inner_lr', type=float, default=0.01)
  parser.add_argument('--outer_lr', type=float, default=1e-3)
  parser.add_argument('--bn_eps', type=float, default=1e-5, help='epsilon of batch norm')
  parser.add_argument('--channels_last', action='store_true', help='memory layout NHWC instead of NCHW')
  parser.add_argument('--float64', action='store_true', help='double precision, to compare gradients')
  parser.add_argument('--threads', type=int, help='threads of PyTorch; its own choice without it')
  return parser.parse_args()


def build(args):
  """Model, tasks and optimizer from the arguments."""
  torch.manual_seed(0)
  net, base_learner, tasks = ResNet12(args.bn_eps), BaseLearner(args.way), None
  if args.inputs:
    arrays = np.load(args.inputs)
    load_model(arrays, net, base_learner)
    tasks = load_tasks(arrays)
  tasks = tasks or random_tasks(args)
  if args.channels_last:
    net = net.to(memory_format=torch.channels_last)
    tasks = [(s.contiguous(memory_format=torch.channels_last), sl,
              q.contiguous(memory_format=torch.channels_last), ql) for s, sl, q, ql in tasks]
  learned = [p for p in (*net.parameters(), *base_learner.parameters()) if p.requires_grad]
  return net, base_learner, tasks, torch.optim.Adam(learned, lr=args.outer_lr)


def main():
  args = parse_args()
  if args.threads:
    torch.set_num_threads(args.threads)
  if args.float64:
    torch.set_default_dtype(torch.float64)
  net, base_learner, tasks, optimizer = build(args)
  print(json.dumps({'name': 'pytorch', 'versions': {'torch': torch.__version__, 'numpy': np.__version__},
                    'threads': torch.get_num_threads(),
                    'layout': 'channels_last' if args.channels_last else 'NCHW'}), flush=True)
  for line in sys.stdin:
    command, _, path = line.strip().partition(' ')
    start = time.perf_counter()
    if command not in ('step', 'grads'):
      print(json.dumps({'error': f"expected 'step' or 'grads FILE', got {line.strip()!r}"}), flush=True)
      continue
    optimizer.zero_grad()
    loss = accumulate_gradients(net, base_learner, tasks, args)
    if command == 'step':
      optimizer.step()
    else:
      write_gradients(path, loss, net, base_learner)
    print(json.dumps({'seconds': time.perf_counter() - start, 'loss': loss}), flush=True)


if __name__ == '__main__':
  main()
