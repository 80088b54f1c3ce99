"""A small task given as features, and its inner loop in NumPy."""
import jax.numpy as jnp
import numpy as np

from mtl_jax import base_learner
from mtl_jax.types import BaseLearner

WAY, SHOT, QUERY, DIM = 3, 2, 4, 5
ARGUMENTS = ('kernel', 'bias', 'support_features', 'query_features', 'inner_lr')


def softmax(z):
  e = np.exp(z - z.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def problem(seed=0, dim=DIM, support_labels=None):
  """A random small task in float64: initial classifier, support and query."""
  rng = np.random.default_rng(seed)
  return {
      'kernel': 0.3 * rng.normal(size=(dim, WAY)), 'bias': 0.3 * rng.normal(size=WAY),
      'support_features': rng.normal(size=(WAY * SHOT, dim)),
      'query_features': rng.normal(size=(WAY * QUERY, dim)),
      'support_labels': (np.array([2, 0, 1, 1, 0, 2]) if support_labels is None
                         else support_labels),
      'query_labels': np.repeat(np.arange(WAY), QUERY)}


def numpy_adapt(p, inner_lr, num_steps):
  """θ' <- θ' - α Xᵀ(p - y)/n, num_steps times: (kernel, bias, losses before each step)."""
  w, b, x, y = p['kernel'], p['bias'], p['support_features'], np.eye(WAY)[p['support_labels']]
  losses = []
  for lr in np.broadcast_to(inner_lr, num_steps):
    probabilities = softmax(x @ w + b)
    losses.append(-np.mean(np.log(probabilities[np.arange(len(x)), p['support_labels']])))
    residual = (probabilities - y) / len(x)
    w, b = w - lr * x.T @ residual, b - lr * residual.sum(axis=0)
  return w, b, np.array(losses)


def run(adapt, p, inner_lr, num_steps, **kwargs):
  """Adapts to the task `p`: an AdaptResult."""
  return adapt(BaseLearner(p['kernel'], p['bias']), p['support_features'],
               jnp.asarray(p['support_labels']), p['query_features'], inner_lr=inner_lr,
               num_steps=num_steps, **kwargs)


def query_loss(adapt, p, num_steps, **kwargs):
  """The query loss as a function of the five ARGUMENTS that have gradients, in their order."""
  def loss(kernel, bias, support, query, inner_lr):
    q = p | {'kernel': kernel, 'bias': bias, 'support_features': support, 'query_features': query}
    result = run(adapt, q, inner_lr, num_steps, **kwargs)
    return base_learner.cross_entropy(result.query_logits, p['query_labels'])
  return loss


def arguments(p, inner_lr):
  """The values of ARGUMENTS."""
  return tuple(jnp.asarray(p[name]) for name in ARGUMENTS[:4]) + (jnp.asarray(inner_lr),)


def per_step_lr(num_steps):
  """One learning rate per step."""
  return np.linspace(0.5, 0.1, num_steps)
