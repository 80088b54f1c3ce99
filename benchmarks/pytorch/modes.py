"""The ways of computing one outer step that the benchmarks compare with.

Modes other than `published` (and `channels_last`) take all tasks through the network in one pass and adapt them
together, use Adam's fused kernel, and let cuDNN choose its algorithms by trial. On a GPU, all but `tf32`, `bf16` and
what builds on it run at PyTorch's own default precision.
"""
import importlib.util
import os
import shutil
from typing import NamedTuple

import torch
from mtl import Model, Unsupported, by_autograd, by_func, encode, query_loss, query_loss_vmapped
from networks import NETWORKS, ScaleShiftConv, entries, load, to_file


class Mode(NamedTuple):
  """A way of computing an outer step."""
  batched: bool = True          # all tasks at once, else one after the other with gradients added up
  channels_last: bool = False   # memory layout
  folded: bool = False          # batch norm multiplied into the kernels, see `conv_norm`
  vmapped: bool = False         # inner loop by torch.func
  compiled: bool = False        # torch.compile of the loss
  precision: str = 'default'    # 'tf32', also of matrix products; 'bf16', autocast of the network
  graphs: bool = False          # the whole step captured as CUDA graphs


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
  """Looks a mode up.

  Args:
    modes: name -> Mode.
    mode: a name.
    device: where it will run.

  Returns:
    The Mode.

  Raises:
    ValueError: there is none of that name.
    Unsupported: it cannot work on this machine.
  """
  if mode not in modes:
    raise ValueError(f'expected mode to be one of {", ".join(modes)}, got {mode!r}')
  found, cuda = modes[mode], torch.device(device).type == 'cuda'
  if not cuda and (found.precision != 'default' or found.graphs):
    raise Unsupported(f'{mode} needs a GPU')
  if cuda and found.precision == 'bf16' and not torch.cuda.is_bf16_supported():
    raise Unsupported('this GPU has no bfloat16')
  if cuda and found.precision == 'tf32' and torch.cuda.get_device_capability()[0] < 8:
    raise Unsupported('this GPU has no TF32')
  if found.compiled and not cuda and shutil.which(os.environ.get('CXX', 'g++')) is None:
    raise Unsupported('torch.compile needs a C++ compiler, found none')
  if found.compiled and cuda and importlib.util.find_spec('triton') is None:
    raise Unsupported('torch.compile needs Triton on a GPU, found none')
  return found


def set_precision(precision, benchmark=True):
  """Sets what is global in PyTorch, anew for each mode.

  Args:
    precision: 'tf32' lets matrix products of float32 round their factors, as convolutions do by default.
    benchmark: whether cuDNN tries its algorithms out.
  """
  torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
  torch.backends.cudnn.benchmark = benchmark


def compiled(function):
  """Compiles afresh, for one set of shapes, the whole function or not at all.

  Args:
    function: of tensors.

  Returns:
    A function like it; its first call compiles.
  """
  torch.compiler.reset()
  return torch.compile(function, fullgraph=True, dynamic=False)


class MetaStep:
  """One outer step over all tasks of a file: loss, gradients and Adam."""

  def __init__(self, arrays, mode, device, *, network, inner_steps, inner_lr, outer_lr=1e-3, order='second',
               norm_epsilon=1e-5, float64=False, width=None):
    """Loads model and tasks.

    Args:
      arrays: name -> NumPy array.
      mode: one of MODES.
      device: of the tensors.
      network: one of NETWORKS.
      inner_steps: steps of the inner loop.
      inner_lr: its learning rate.
      outer_lr: learning rate of Adam.
      order: 'second' or 'first'.
      norm_epsilon: of batch norm.
      float64: whether to compute in double precision.
      width: of the network, for tests; None as published.
    """
    self.mode = chosen(MODES, mode, device)
    set_precision(self.mode.precision, benchmark=mode != 'published')
    self.dtype = torch.float64 if float64 else torch.float32
    self.model = self._model(arrays, NETWORKS[network], device, norm_epsilon, width)
    self.tasks = self._tasks(arrays, device)
    self.inner = {'inner_steps': inner_steps, 'inner_lr': inner_lr, 'order': order}
    self.loss = compiled(self._loss) if self.mode.compiled else self._loss
    self.learned = [p for p in self.model.parameters() if p.requires_grad]
    self.optimizer = torch.optim.Adam(self.learned, lr=outer_lr, fused=self.mode.batched,
                                      capturable=self.mode.graphs)
    self.captured_bytes = 0

  def _model(self, arrays, network, device, eps, width):
    way = len(arrays['base_learner/bias']) if 'base_learner/bias' in arrays else 1 + arrays['support_labels'].max()
    model = Model(network(eps=eps, **({} if width is None else {'width': width})), int(way))
    model = model.to(dtype=self.dtype)
    load(model, arrays)
    for conv in model.modules():
      if isinstance(conv, ScaleShiftConv):
        conv.fold = self.mode.folded
    return model.to(device=device, memory_format=self.layout)

  @property
  def layout(self):
    """Memory format of images and activations."""
    return torch.channels_last if self.mode.channels_last else torch.contiguous_format

  def _tasks(self, arrays, device):
    """Images [tasks, n, 3, H, W] and labels [tasks, n] of support and query."""
    tasks = []
    for name in ('support', 'query'):
      images = torch.from_numpy(arrays[f'{name}_images']).to(device, self.dtype).movedim(-1, -3)
      flat = images.flatten(0, 1).contiguous(memory_format=self.layout)
      tasks += [flat.unflatten(0, images.shape[:2]), torch.from_numpy(arrays[f'{name}_labels']).to(device).long()]
    return tasks

  def _loss(self, support_images, support_labels, query_images, query_labels):
    half = self.mode.precision == 'bf16'
    # No cache of cast weights: each is used once, and a cache does not go with CUDA graphs.
    with torch.autocast(support_images.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
      support, query = encode(self.model.network, support_images, query_images, self.inner['order'])
    head = self.model.base_learner
    task = (head.weight, head.bias, support, support_labels, query, query_labels)
    if self.mode.vmapped:
      return query_loss_vmapped(*task, **self.inner)
    return query_loss(*task, **self.inner, gradient=by_func if self.mode.compiled else by_autograd)

  def gradients(self):
    """Puts the gradient of the mean query loss into every parameter's `grad`.

    Returns:
      The loss, a scalar tensor.
    """
    self.optimizer.zero_grad(set_to_none=True)
    if self.mode.batched:
      loss = self.loss(*self.tasks)
      loss.backward()
      return loss.detach()
    total = torch.zeros((), dtype=self.dtype, device=self.tasks[0].device)
    for task in zip(*self.tasks, strict=True):
      loss = self.loss(*task) / len(self.tasks[0])
      loss.backward()  # frees the graph of this task before the next
      total += loss.detach()
    return total

  def update(self):
    """Takes the step of Adam."""
    self.optimizer.step()

  def run(self):
    """Takes one outer step.

    Returns:
      Mean query loss before it.
    """
    loss = self.gradients()
    self.update()
    return loss.item()

  def named_gradients(self):
    """Computes loss and gradients at the present parameters, without a step.

    Returns:
      name -> NumPy array, as in the files.
    """
    loss = self.gradients()
    named = {name: to_file(p.grad, matrix) for name, p, learned, matrix in entries(self.model) if learned}
    return {'loss': loss.cpu().numpy(), **named}


class GraphedStep(MetaStep):
  """The same with CUDA graphs: one holds loss and gradients, another the step of Adam."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self._warm_up()
    self.optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    self._forward_backward, self._adam = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(self._forward_backward):
      self._loss_value = super().gradients()  # the gradients stay where they are, and each replay overwrites them
    with torch.cuda.graph(self._adam):
      self.optimizer.step()
    self.captured_bytes = torch.cuda.max_memory_allocated()  # a replay allocates nothing, which no counter sees

  def _warm_up(self):
    """Lets libraries choose algorithms and Adam make its state, on another stream as capturing demands; then resets."""
    start = [p.detach().clone() for p in self.learned]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
      for _ in range(3):
        super().gradients()
        self.optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.no_grad():
      for parameter, value in zip(self.learned, start, strict=True):
        parameter.copy_(value)
      for state in self.optimizer.state.values():
        for tensor in state.values():
          tensor.zero_()

  def gradients(self):
    """Replays the first graph.

    Returns:
      The loss, a scalar tensor, overwritten by the next call.
    """
    self._forward_backward.replay()
    return self._loss_value

  def update(self):
    """Replays the second graph."""
    self._adam.replay()


def meta_step(arrays, mode, device, **settings):
  """Makes the outer step of a mode.

  Args:
    arrays: name -> NumPy array.
    mode: one of MODES.
    device: of the tensors.
    **settings: as of MetaStep.

  Returns:
    A MetaStep.
  """
  graphs = chosen(MODES, mode, device).graphs
  return (GraphedStep if graphs else MetaStep)(arrays, mode, device, **settings)
