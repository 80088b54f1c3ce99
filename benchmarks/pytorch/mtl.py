"""Meta-transfer learning in PyTorch: base-learner, inner loop, and the query loss of one task or of many at once.

Our own version, written to be compared with: the loop is the one that the paper writes down, differentiated by
`torch.autograd.grad`. Shapes below are of one task; all functions also take tasks stacked in front.
"""
import torch
from torch import nn
from torch.nn import functional as F


class Unsupported(Exception):
  """A mode that cannot work on this machine; the message says why."""


class Model(nn.Module):
  """A network and the linear base-learner on its features, whose initial value is meta-learned."""

  def __init__(self, network, way):
    super().__init__()
    self.network = network
    self.base_learner = nn.Linear(network.feature_dim, way)
    nn.init.zeros_(self.base_learner.weight)
    nn.init.zeros_(self.base_learner.bias)


def scores(features, weight, bias):
  """Classifies linearly.

  Args:
    features: [n, d].
    weight: [N, d].
    bias: [N].

  Returns:
    Logits [n, N].
  """
  if features.ndim == 2:
    return F.linear(features, weight, bias)
  return torch.baddbmm(bias.unsqueeze(-2), features, weight.mT)


def support_loss(weight, bias, features, labels):
  """Averages the cross-entropy over the images of a task, and sums over tasks, which leaves their gradients apart.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].

  Returns:
    A scalar.
  """
  logits = scores(features, weight, bias)
  return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction='sum') / labels.shape[-1]


def by_autograd(weight, bias, features, labels, create_graph):
  """Gives the gradient of the support loss by `torch.autograd.grad`.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].
    create_graph: whether the gradient will be differentiated again.

  Returns:
    The gradients with respect to weight and bias.
  """
  if not create_graph:
    weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
  with torch.enable_grad():
    loss = support_loss(weight, bias, features, labels)
  return torch.autograd.grad(loss, (weight, bias), create_graph=create_graph)


def by_func(weight, bias, features, labels, create_graph):
  """Gives the gradient of the support loss by `torch.func.grad`, which `vmap` and `torch.compile` can see through.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].
    create_graph: not read; the graph is there if the arguments have one.

  Returns:
    The gradients with respect to weight and bias.
  """
  del create_graph
  return torch.func.grad(support_loss, (0, 1))(weight, bias, features, labels)


def adapt(weight, bias, features, labels, *, inner_steps, inner_lr, order, gradient=by_autograd):
  """Adapts the base-learner to the support set: θ' <- θ' - α ∇ L_support(θ'), step after step.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].
    inner_steps: number of steps.
    inner_lr: α.
    order: 'second' differentiates through the loop, 'first' holds what it adds to θ constant.
    gradient: `by_autograd` or `by_func`.

  Returns:
    Adapted weight and bias.
  """
  second = order == 'second'
  if not second:
    features = features.detach()
  w, b = (weight, bias) if second else (weight.detach(), bias.detach())
  for _ in range(inner_steps):
    grad_w, grad_b = gradient(w, b, features, labels, second)
    w, b = w - inner_lr * grad_w, b - inner_lr * grad_b
  return (w, b) if second else (weight + (w - weight.detach()), bias + (b - bias.detach()))


def query_loss(weight, bias, support, support_labels, query, query_labels, **inner):
  """Averages the cross-entropy of the query set after adaptation, over images and tasks.

  Args:
    weight: [N, d], of the base-learner; the same for all tasks.
    bias: [N].
    support: features [n, d].
    support_labels: [n].
    query: features [m, d].
    query_labels: [m].
    **inner: as the keywords of `adapt`.

  Returns:
    A scalar.
  """
  many = support.shape[:-2]
  weight, bias = adapt(weight.expand(*many, *weight.shape), bias.expand(*many, *bias.shape), support, support_labels,
                       **inner)
  return F.cross_entropy(scores(query, weight, bias).flatten(0, -2), query_labels.flatten())


def query_loss_vmapped(weight, bias, support, support_labels, query, query_labels, **inner):
  """Gives the `query_loss` of stacked tasks by `torch.func`: gradient and loss of one task, vmapped over tasks.

  Args:
    weight: [N, d].
    bias: [N].
    support: features [tasks, n, d].
    support_labels: [tasks, n].
    query: features [tasks, m, d].
    query_labels: [tasks, m].
    **inner: as the keywords of `adapt`, without `gradient`.

  Returns:
    A scalar.
  """
  def one(*task):
    return query_loss(weight, bias, *task, gradient=by_func, **inner)

  return torch.func.vmap(one)(support, support_labels, query, query_labels).mean()


def encode(network, support_images, query_images, order):
  """Computes the features of the images of one task or of stacked tasks.

  Args:
    network: images [B, 3, H, W] -> [B, d].
    support_images: [n, 3, H, W].
    query_images: [m, 3, H, W].
    order: with 'first' no gradient goes into the support features, which then need no graph.

  Returns:
    Features of support [n, d] and query [m, d].
  """
  support, query = support_images.flatten(0, -4), query_images.flatten(0, -4)
  if order == 'first':
    with torch.no_grad():
      support = network(support)
    query = network(query)
  else:
    support, query = network(torch.cat([support, query])).split([len(support), len(query)])
  return support.unflatten(0, support_images.shape[:-3]), query.unflatten(0, query_images.shape[:-3])
