"""Meta-transfer learning in PyTorch: base-learner, inner loop, and query loss of one or many tasks.

An implementation of our own, written to be compared with: the loop is the one that the paper writes
down, differentiated by `torch.autograd.grad`. The shapes below are those of one task; all functions
also take tasks stacked in front.

Letters: N classes of a task, n support and m query images, d feature width, H W pixels.
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
  """Computes the logits of a linear classifier.

  Args:
    features: [n, d].
    weight: [N, d].
    bias: [N].

  Returns:
    [n, N].
  """
  if features.ndim == 2:
    return F.linear(features, weight, bias)
  return torch.baddbmm(bias.unsqueeze(-2), features, weight.mT)


def support_loss(weight, bias, features, labels):
  """Computes the cross-entropy, averaged over the images of a task and summed over tasks.

  As a sum over tasks, the gradient with respect to the weights of one task is that of its own loss.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].

  Returns:
    A scalar, nats.
  """
  logits = scores(features, weight, bias)
  total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction='sum')
  return total / labels.shape[-1]


def by_autograd(weight, bias, features, labels, create_graph):
  """Computes the gradient of the support loss by `torch.autograd.grad`.

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
  """Computes the gradient of the support loss by `torch.func.grad`.

  `vmap` and `torch.compile` can see through this form, but not through `by_autograd`.

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].
    create_graph: not read; there is a graph if the arguments have one.

  Returns:
    The gradients with respect to weight and bias.
  """
  del create_graph
  return torch.func.grad(support_loss, (0, 1))(weight, bias, features, labels)


def adapt(weight, bias, features, labels, *, inner_steps, inner_lr, order, gradient=by_autograd):
  """Adapts the base-learner to the support set by gradient descent.

      θ' <- θ' - α ∇ L_support(θ'),   starting at θ' = θ   (equation 2 of the paper)

  Args:
    weight: [N, d].
    bias: [N].
    features: [n, d].
    labels: [n].
    inner_steps: number of steps.
    inner_lr: α.
    order: 'second' differentiates through the loop; 'first' holds the change θ' - θ constant.
    gradient: `by_autograd` or `by_func`.

  Returns:
    Adapted weight and bias.
  """
  second = order == 'second'
  # Without second order nothing of the loop is differentiated, so that it needs no graph.
  if not second:
    features = features.detach()
  w, b = (weight, bias) if second else (weight.detach(), bias.detach())
  for _ in range(inner_steps):
    grad_w, grad_b = gradient(w, b, features, labels, second)
    w, b = w - inner_lr * grad_w, b - inner_lr * grad_b
  # In first order the value is that of θ', and the gradient that of θ.
  return (w, b) if second else (weight + (w - weight.detach()), bias + (b - bias.detach()))


def query_loss(weight, bias, support, support_labels, query, query_labels, **inner):
  """Computes the cross-entropy of the query set after adaptation, averaged over images and tasks.

  Args:
    weight: [N, d], of the base-learner; the same for all tasks.
    bias: [N].
    support: features [n, d].
    support_labels: [n].
    query: features [m, d].
    query_labels: [m].
    **inner: keywords of `adapt`.

  Returns:
    A scalar, nats.
  """
  many = support.shape[:-2]
  start = weight.expand(*many, *weight.shape), bias.expand(*many, *bias.shape)
  weight, bias = adapt(*start, support, support_labels, **inner)
  return F.cross_entropy(scores(query, weight, bias).flatten(0, -2), query_labels.flatten())


def query_loss_vmapped(weight, bias, support, support_labels, query, query_labels, **inner):
  """Computes the `query_loss` of stacked tasks by `torch.func.vmap` over the loss of one task.

  Args:
    weight: [N, d], of the base-learner; the same for all tasks.
    bias: [N].
    support: features [tasks, n, d].
    support_labels: [tasks, n].
    query: features [tasks, m, d].
    query_labels: [tasks, m].
    **inner: keywords of `adapt`, without `gradient`.

  Returns:
    A scalar, nats.
  """
  def one(*task):
    return query_loss(weight, bias, *task, gradient=by_func, **inner)

  return torch.func.vmap(one)(support, support_labels, query, query_labels).mean()


def encode(network, support_images, query_images, order):
  """Computes the features of the images of one task or of stacked tasks.

  Args:
    network: maps images [B, 3, H, W] to features [B, d].
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
    features = network(torch.cat([support, query]))
    support, query = features.split([len(support), len(query)])
  return (support.unflatten(0, support_images.shape[:-3]),
          query.unflatten(0, query_images.shape[:-3]))
