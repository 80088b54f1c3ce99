"""One outer step of meta-transfer learning by this library, as a worker that a driver asks for steps.

It speaks the protocol of pytorch_meta_step.py, on the same inputs file. `step` runs `meta_train.outer_step`, the very
function that meta-training scans over.
"""
import argparse
import functools
import json
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import jax

from launch import session
from mtl_jax import backbones, base_learner, scale_shift
from mtl_jax.backbones.resnet12 import ResNet12
from mtl_jax.phases import meta_train
from mtl_jax.types import BackboneVars, Episode, MetaParams, MetaState


def parse_args():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--inputs', required=True, help='npz file with weights and tasks')
  parser.add_argument('--inner_steps', type=int, default=20)
  parser.add_argument('--inner_lr', type=float, default=0.01)
  parser.add_argument('--outer_lr', type=float, default=1e-3)
  parser.add_argument('--bn_eps', type=float, default=1e-5, help='epsilon of batch norm; the library has 1e-5')
  parser.add_argument('--float64', action='store_true', help='double precision, to compare gradients')
  return parser.parse_args()


def nest(arrays, prefix=''):
  """Nested dicts from the arrays whose names begin with `prefix`."""
  tree = {}
  for name, array in arrays.items():
    if name.startswith(prefix):
      *parents, last = name[len(prefix):].split('/')
      functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = array
  return tree


def load(path, dtype):
  """Backbone, tasks and the initial meta-parameters of an inputs file."""
  arrays = {name: array if array.dtype.kind == 'i' else array.astype(dtype) for name, array in np.load(path).items()}
  tasks = Episode(*(arrays.pop(f'{name}') for name in
                    ('support_images', 'support_labels', 'query_images', 'query_labels')), None)
  way = int(tasks.support_labels.max()) + 1
  tasks = tasks._replace(class_ids=np.tile(np.arange(way), (len(tasks.support_labels), 1)))
  stats = nest({name: array for name, array in arrays.items() if name.endswith(('/mean', '/var'))})
  params = nest({name: array for name, array in arrays.items() if name.endswith(('/kernel', '/bias'))})
  backbone = backbones.from_linen(ResNet12(dtype=dtype), tasks.query_images.shape[2:], last_block='block4',
                                  unscaled=('shortcut',))
  meta_params = MetaParams(scale_shift.init(jax.tree.map(jax.numpy.asarray, params), backbone.scaled_layers), {},
                           base_learner.init(backbone.feature_dim, way), {})
  meta_params = jax.tree.map(lambda leaf: leaf.astype(dtype), meta_params)
  return backbone, BackboneVars(params, stats), tasks, meta_params


def write_gradients(path, loss, gradient):
  """Writes loss and gradients under the names of the inputs file."""
  leaves = jax.tree_util.tree_flatten_with_path(gradient._asdict())[0]
  named = {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}
  np.savez(path, loss=np.asarray(loss), **named)


def main():
  args = parse_args()
  session.prepare_jax()
  jax.config.update('jax_enable_x64', args.float64)
  backbone, frozen, tasks, meta_params = load(args.inputs, np.float64 if args.float64 else np.float32)
  way = meta_params.base_learner.bias.shape[0]
  config = meta_train.MetaTrainConfig(
      way=way, shot=tasks.support_labels.shape[1] // way, query=tasks.query_labels.shape[1] // way,
      inner_steps=args.inner_steps, inner_lr=args.inner_lr, outer_lr=args.outer_lr, meta_batch=len(tasks.class_ids))
  frozen, tasks = jax.device_put((frozen, tasks))
  step = jax.jit(functools.partial(meta_train.outer_step, backbone=backbone, config=config), donate_argnums=0)
  value_and_grad = jax.jit(jax.value_and_grad(
      functools.partial(meta_train.outer_loss, backbone=backbone, config=config), has_aux=True))
  state = MetaState(jax.numpy.zeros((), 'int32'), meta_params, meta_train.make_optimizer(config).init(meta_params))
  print(json.dumps({'name': 'jax', 'versions': {'jax': jax.__version__, 'numpy': np.__version__},
                    'threads': os.cpu_count(), 'device': jax.devices()[0].device_kind}), flush=True)
  for line in sys.stdin:
    command, _, path = line.strip().partition(' ')
    start = time.perf_counter()
    if command == 'step':
      state, metrics, _ = step(state, frozen, tasks)
      loss = float(metrics['loss'])
    elif command == 'grads':
      (loss, _), gradient = value_and_grad(state.meta_params, frozen, tasks)
      loss = float(loss)
      write_gradients(path, loss, gradient)
    else:
      print(json.dumps({'error': f"expected 'step' or 'grads FILE', got {line.strip()!r}"}), flush=True)
      continue
    print(json.dumps({'seconds': time.perf_counter() - start, 'loss': loss}), flush=True)


if __name__ == '__main__':
  main()
