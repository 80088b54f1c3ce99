"""Times drawing, augmenting and normalising one batch of tasks on the device.

  python benchmarks/sampling.py --tasks=4 --image_size=84 --images=38400

The tasks are 5-way 1-shot with 15 queries (80 images each), drawn from a uint8 pool of 64 classes of noise.
"""
import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

import jax
import jax.numpy as jnp
import numpy as np

from launch import session
from mtl_jax.phases import meta_train
from mtl_jax.types import ImagePool


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--tasks', type=int, default=4)
  parser.add_argument('--image_size', type=int, default=84)
  parser.add_argument('--images', type=int, default=38400, help='images in the pool')
  parser.add_argument('--repeats', type=int, default=50)
  args = parser.parse_args()
  session.prepare_jax()
  config = meta_train.MetaTrainConfig(meta_batch=args.tasks, crop_padding=args.image_size // 8)
  noise = np.random.default_rng(0).integers(0, 256, (args.images, args.image_size, args.image_size, 3), np.uint8)
  per_class = args.images // 64
  pool = ImagePool(jnp.asarray(noise), jnp.arange(64) * per_class, jnp.full(64, per_class))
  mean = std = jnp.full(3, 0.5)

  @jax.jit
  def draw(key, pool):
    return meta_train.draw_tasks(key, pool, mean, std, jnp.zeros(64, jnp.int32), jnp.asarray(False), config=config)

  jax.block_until_ready(draw(jax.random.key(0), pool))
  seconds = []
  for i in range(args.repeats):
    start = time.perf_counter()
    jax.block_until_ready(draw(jax.random.key(i), pool))
    seconds.append(time.perf_counter() - start)
  print(json.dumps({'jax': jax.__version__, 'images': args.tasks * config.way * (config.shot + config.query),
                    'median_ms': 1e3 * statistics.median(seconds), 'min_ms': 1e3 * min(seconds),
                    'max_ms': 1e3 * max(seconds)}))


if __name__ == '__main__':
  main()
