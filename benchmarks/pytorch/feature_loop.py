"""The inner loop alone, from features: its query loss and the gradients, in several modes."""
import functools

import torch
from modes import Mode, chosen, compiled, set_precision
from mtl import by_autograd, by_func, query_loss, query_loss_vmapped


class InnerLoop:
  """The mean query loss after adaptation, with its gradient in features and base-learner."""

  MODES = {'unrolled': Mode(batched=False), 'batched': Mode(), 'func': Mode(vmapped=True),
           'compile': Mode(compiled=True)}

  def __init__(self, arrays, mode, device, *, inner_steps, inner_lr, order='second',
               float64=False):
    """Loads features and base-learner.

    Args:
      arrays: `support` [tasks, n, d], `query` [tasks, m, d], their labels, `kernel` [d, N] and
        `bias` [N].
      mode: one of MODES.
      device: of the tensors.
      inner_steps: number of steps of the inner loop.
      inner_lr: α.
      order: 'second' or 'first'.
      float64: whether to compute in double precision.
    """
    self.mode = chosen(self.MODES, mode, device)
    set_precision('default')
    dtype = torch.float64 if float64 else torch.float32
    self.labels = [torch.from_numpy(arrays[f'{name}_labels']).to(device).long()
                   for name in ('support', 'query')]
    # PyTorch's linear layers are [N, d].
    arrays = {**arrays, 'kernel': arrays['kernel'].T.copy()}
    self.leaves = {name: torch.from_numpy(arrays[name]).to(device, dtype).requires_grad_()
                   for name in ('support', 'query', 'kernel', 'bias')}
    inner = {'inner_steps': inner_steps, 'inner_lr': inner_lr, 'order': order}
    if self.mode.vmapped:
      self.loss = functools.partial(query_loss_vmapped, **inner)
    else:
      gradient = by_func if self.mode.compiled else by_autograd
      self.loss = functools.partial(query_loss, gradient=gradient, **inner)
    if self.mode.compiled:
      self.loss = compiled(self.loss)

  def _value(self):
    x, (support_labels, query_labels) = self.leaves, self.labels
    tasks = (x['support'], support_labels, x['query'], query_labels)
    if self.mode.batched:
      return self.loss(x['kernel'], x['bias'], *tasks)
    return torch.stack([self.loss(x['kernel'], x['bias'], *task)
                        for task in zip(*tasks, strict=True)]).mean()

  def _value_and_gradients(self):
    loss = self._value()
    return loss, torch.autograd.grad(loss, list(self.leaves.values()), materialize_grads=True)

  def run(self):
    """Computes value and gradients.

    Returns:
      The loss, nats.
    """
    return self._value_and_gradients()[0].item()

  def named_gradients(self):
    """Computes value and gradients.

    Returns:
      `loss`, `support`, `query`, `kernel` and `bias` as NumPy arrays.
    """
    loss, gradients = self._value_and_gradients()
    named = {name: g.cpu().numpy() for name, g in zip(self.leaves, gradients, strict=True)}
    return {'loss': loss.detach().cpu().numpy(), **named, 'kernel': named['kernel'].T}
