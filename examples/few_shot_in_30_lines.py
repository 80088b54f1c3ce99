"""Meta-gradients of one few-shot task, in thirty lines: python examples/few_shot_in_30_lines.py

Everything is a pure function on trees, written for one episode: `jit`, `vmap` and `grad` are yours.
"""
import jax

from mtl_jax import augment, backbones, base_learner, data, episodes, scale_shift

glyphs = data.load('glyphs')
backbone = backbones.create('conv4', (32, 32, 3))
frozen = backbone.init(jax.random.key(0))  # Θ; a trained one: runs.load('runs/pre').backbone_vars
phi = scale_shift.init(frozen.params, backbone.scaled_layers)  # Φ_S
theta = base_learner.init(backbone.feature_dim, way=5)         # θ


def features(phi, images):
  modulated = frozen._replace(params=scale_shift.modulate(frozen.params, phi))
  normalized = augment.normalize(images, glyphs.train.normalization)
  return backbone.features(modulated, normalized, batch_stats_mode='running')


def query_loss(phi, theta, inner_lr, task):
  adapted = base_learner.adapt(theta, features(phi, task.support), task.support_labels,
                               features(phi, task.query), inner_lr=inner_lr, num_steps=20)
  return base_learner.cross_entropy(adapted.query_logits, task.query_labels)


task = episodes.sample(jax.random.key(1), glyphs.train, way=5, shot=1, query=15)
loss, gradients = jax.jit(jax.value_and_grad(query_loss, argnums=(0, 1, 2)))(phi, theta, 0.05, task)
print(f'query loss {loss:.3f}; its gradient by the inner learning rate {gradients[2]:.3f}')
