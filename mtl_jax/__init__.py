"""Meta-transfer learning for few-shot image classification (Sun et al., CVPR 2019), in JAX.

Three ideas, pure functions on trees: `scale_shift`, `base_learner`, `hard_tasks`. Three phases that compose them:
`pretrain`, `meta_train`, `meta_test`. `runs` makes each phase one call on disk.
"""
from mtl_jax import augment, backbones, base_learner, data, episodes, hard_tasks, scale_shift
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.runs import runs

__all__ = ['augment', 'backbones', 'base_learner', 'data', 'episodes', 'hard_tasks', 'meta_test', 'meta_train',
           'pretrain', 'runs', 'scale_shift']
