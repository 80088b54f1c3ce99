"""The outer step over all tasks of a file, in every mode: loss, gradients and Adam."""
import torch
from array_names import entries, load, to_file
from convolutions import ScaleShiftConv
from modes import MODES, chosen, compiled, set_precision
from mtl import Model, by_autograd, by_func, encode, query_loss, query_loss_vmapped
from networks import NETWORKS

WARM_UP_STEPS = 3  # before capturing: libraries choose their algorithms, Adam makes its state


class MetaStep:
  """An outer step over all tasks of a file: loss, gradients and Adam."""

  def __init__(self, arrays, mode, device, *, network, inner_steps, inner_lr, outer_lr=1e-3,
               order='second', norm_epsilon=1e-5, float64=False, width=None):
    """Loads model and tasks.

    Args:
      arrays: name -> NumPy array.
      mode: one of MODES.
      device: of the tensors.
      network: one of NETWORKS.
      inner_steps: number of steps of the inner loop.
      inner_lr: α.
      outer_lr: learning rate of Adam.
      order: 'second' or 'first'.
      norm_epsilon: of batch norm.
      float64: whether to compute in double precision.
      width: channels of the first block, for tests; None as published.
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
    if 'base_learner/bias' in arrays:
      way = len(arrays['base_learner/bias'])
    else:
      way = 1 + arrays['support_labels'].max()
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
    """Returns images [tasks, n, 3, H, W] and labels [tasks, n] of support and query."""
    tasks = []
    for name in ('support', 'query'):
      images = torch.from_numpy(arrays[f'{name}_images']).to(device, self.dtype).movedim(-1, -3)
      flat = images.flatten(0, 1).contiguous(memory_format=self.layout)
      labels = torch.from_numpy(arrays[f'{name}_labels']).to(device).long()
      tasks += [flat.unflatten(0, images.shape[:2]), labels]
    return tasks

  def _loss(self, support_images, support_labels, query_images, query_labels):
    half = self.mode.precision == 'bf16'
    # No cache of cast weights: each is used once, and a cache does not go with CUDA graphs.
    with torch.autocast(support_images.device.type, torch.bfloat16, enabled=half,
                        cache_enabled=False):
      support, query = encode(self.model.network, support_images, query_images,
                              self.inner['order'])
    head = self.model.base_learner
    task = (head.weight, head.bias, support, support_labels, query, query_labels)
    if self.mode.vmapped:
      return query_loss_vmapped(*task, **self.inner)
    gradient = by_func if self.mode.compiled else by_autograd
    return query_loss(*task, **self.inner, gradient=gradient)

  def gradients(self):
    """Computes the gradient of the mean query loss into every parameter's `grad`.

    Returns:
      The loss, a scalar tensor, nats.
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
      Mean query loss before it, nats.
    """
    loss = self.gradients()
    self.update()
    return loss.item()

  def named_gradients(self):
    """Computes loss and gradients at the present parameters, without a step.

    Returns:
      Name -> NumPy array, as in the files.
    """
    loss = self.gradients()
    named = {name: to_file(p.grad, matrix) for name, p, learned, matrix in entries(self.model)
             if learned}
    return {'loss': loss.cpu().numpy(), **named}


class GraphedStep(MetaStep):
  """A MetaStep of two CUDA graphs: loss and gradients, and the step of Adam."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self._warm_up()
    self.optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    self._forward_backward, self._adam = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(self._forward_backward):
      # The gradients stay where they are, and each replay overwrites them.
      self._loss_value = super().gradients()
    with torch.cuda.graph(self._adam):
      self.optimizer.step()
    # A replay allocates nothing, so that no counter sees the memory of the graphs later on.
    self.captured_bytes = torch.cuda.max_memory_allocated()

  def _warm_up(self):
    """Takes steps on another stream, as capturing demands, then restores parameters and state."""
    start = [p.detach().clone() for p in self.learned]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
      for _ in range(WARM_UP_STEPS):
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
      The loss, a scalar tensor, nats; the next call overwrites it.
    """
    self._forward_backward.replay()
    return self._loss_value

  def update(self):
    """Replays the second graph."""
    self._adam.replay()


def meta_step(arrays, mode, device, **settings):
  """Returns the outer step of a mode, ready to run.

  Args:
    arrays: name -> NumPy array.
    mode: one of MODES.
    device: of the tensors.
    **settings: keywords of MetaStep.

  Returns:
    A MetaStep.
  """
  graphs = chosen(MODES, mode, device).graphs
  return (GraphedStep if graphs else MetaStep)(arrays, mode, device, **settings)
