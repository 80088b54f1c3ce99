"""Meta-transfer learning for few-shot image classification (Sun et al., CVPR 2019), in JAX.

Three ideas, pure functions on trees: `scale_shift`, `base_learner`, `hard_tasks`. Three phases that
compose them: `pretrain`, `meta_train`, `meta_test`. `runs` makes each phase one call on disk.
"""
from mtl_jax import (
  augment,
  backbones,
  base_learner,
  configs,
  data,
  episodes,
  hard_tasks,
  inner_loop,
  learnable,
  network_loop,
  outer_loop,
  runs,
  scale_shift,
  sharding,
  systems,
  types,
)
from mtl_jax.classifiers import load, load_classifier
from mtl_jax.exports import load as load_export
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.runs.xla import enable_compile_cache

__version__ = '0.2.0'

__all__ = ['__version__', 'augment', 'backbones', 'base_learner', 'configs', 'data',
           'enable_compile_cache', 'episodes', 'hard_tasks', 'inner_loop', 'learnable', 'load',
           'load_classifier', 'load_export', 'meta_test', 'meta_train', 'network_loop',
           'outer_loop', 'pretrain', 'runs', 'scale_shift', 'sharding', 'systems', 'types']
