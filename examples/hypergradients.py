"""Differentiating through the inner loop, by whatever enters it: python examples/hypergradients.py

`base_learner.adapt` is a pure function, so the query loss after adaptation has a gradient by the
inner learning rate (one for all steps, or one for each), by the initial classifier, and, implicitly
differentiated, at the minimum that a regularised loop converges to. Pixels are the features here.
In meta-training each of these is a flag: --learn_inner_lr, --learn_classifier, --gradient_order.
"""
import jax
import jax.numpy as jnp

from mtl_jax import base_learner, data, episodes

INNER_LR = 0.0005

glyphs = data.load('glyphs')
task = episodes.sample(jax.random.key(0), glyphs.train, way=5, shot=1, query=15)
support, query = (images.reshape(len(images), -1) / 255 for images in (task.support, task.query))
theta = base_learner.init(support.shape[1], way=5)


def loss(theta, inner_lr, num_steps=20, **options):
  """The query loss of the task after adaptation from θ at these inner rates."""
  adapted = base_learner.adapt(theta, support, task.support_labels, query, inner_lr=inner_lr,
                               num_steps=num_steps, **options)
  return base_learner.cross_entropy(adapted.query_logits, task.query_labels)


def descend(tree, gradient, rate):
  """One step of gradient descent."""
  return jax.tree.map(lambda p, g: p - rate * g, tree, gradient)


# One rate for all steps (--learn_inner_lr=scalar), and one for each (--learn_inner_lr=per_step).
rate_gradients, after_rates = [], []
for rates in (jnp.float32(INNER_LR), jnp.full(20, INNER_LR)):
  before, gradient = jax.value_and_grad(loss, argnums=1)(theta, rates)
  rate_gradients.append(gradient)
  after_rates.append(loss(theta, rates - 1e-7 * gradient))

# The initial classifier; gradient_order='first' would leave out what passes through the loop.
before, theta_gradient = jax.value_and_grad(loss)(theta, INNER_LR)
after_theta = loss(descend(theta, theta_gradient, 1e-3), INNER_LR)

# The minimum of a regularised loop: time and memory of its gradient do not depend on the number of
# steps. It is exact at the minimum only, so take enough of them: what is left of the way there is
# at most exp(-inner_lr * num_steps * regularization), here exp(-10).
converge = {'num_steps': 10_000, 'regularization': 2.0}
at_minimum, implicit = jax.value_and_grad(loss)(theta, INNER_LR, gradient_order='implicit',
                                                **converge)
after_implicit = loss(descend(theta, implicit, 1e-3), INNER_LR, **converge)

print(f'loss {before:.4f}; after a step on the rate {after_rates[0]:.4f}, on the rates '
      f'{after_rates[1]:.4f}, on the classifier {after_theta:.4f}')
print(f'loss at the minimum {at_minimum:.4f}; after a step on the classifier {after_implicit:.4f}')
