"""Times the compilation of one outer step (ResNet-12, second order) against the number of inner steps.

  python benchmarks/compile_time.py --inner_steps=10,100 --repeats=3

Each repeat compiles every number of inner steps in turn, without any cache. Nothing is computed.
"""
import argparse
import functools
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import jax
import jax.numpy as jnp

from launch import session
from mtl_jax import backbones
from mtl_jax.phases import meta_train
from mtl_jax.types import Episode


def abstract_tasks(config, size):
  """Shapes of one meta-batch of normalised tasks."""
  def images(per_class):
    return jax.ShapeDtypeStruct((config.meta_batch, config.way * per_class, size, size, 3), jnp.float32)

  def labels(per_class):
    return jax.ShapeDtypeStruct((config.meta_batch, config.way * per_class), jnp.int32)

  return Episode(images(config.shot), labels(config.shot), images(config.query), labels(config.query),
                 jax.ShapeDtypeStruct((config.meta_batch, config.way), jnp.int32))


def compile_seconds(inner_steps, size):
  """Seconds to trace, lower and compile one outer step."""
  jax.clear_caches()
  backbone = backbones.create('resnet12', (size, size, 3))
  config = meta_train.MetaTrainConfig(inner_steps=inner_steps)
  frozen = jax.eval_shape(backbone.init, jax.random.key(0))
  state = jax.eval_shape(lambda v: meta_train.init(backbone, v, config), frozen)
  step = jax.jit(functools.partial(meta_train.outer_step, backbone=backbone, config=config), donate_argnums=0)
  start = time.perf_counter()
  step.lower(state, frozen, abstract_tasks(config, size)).compile()
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--inner_steps', default='10,100', help='numbers of inner steps, comma between them')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--image_size', type=int, default=84)
  args = parser.parse_args()
  session.prepare_jax()
  numbers = [int(number) for number in args.inner_steps.split(',')]
  compile_seconds(numbers[0], 16)  # warms up what is loaded only once
  seconds = {number: [] for number in numbers}
  for _ in range(args.repeats):
    for number in numbers:
      seconds[number].append(compile_seconds(number, args.image_size))
  medians = {number: statistics.median(values) for number, values in seconds.items()}
  print(json.dumps({'jax': jax.__version__, 'seconds': seconds, 'medians': medians,
                    'last_over_first': medians[numbers[-1]] / medians[numbers[0]]}))


if __name__ == '__main__':
  main()
