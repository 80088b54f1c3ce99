"""What a meta-step must compute and move at least: multiply-adds and bytes, from the shapes alone.

A convolution has three passes: forward; gradient to its input, save where that is the image;
gradient to its kernel, where scale and shift act on it. Each takes rows * columns * c_in * c_out
multiply-adds per output pixel (padding counted in), and touches two maps: its input and its output.
Batch norm, activations and pooling are left out, as fused into these passes.
"""
from typing import NamedTuple

from benchmarks import network_shapes


class Count(NamedTuple):
  """Multiply-adds of one meta-step, over all its tasks."""
  forward: int
  to_inputs: int   # gradients to the inputs of convolutions
  to_kernels: int  # gradients to their kernels, from which those of the scales follow
  inner_loop: int  # base-learner in dual form, with its gradient

  @property
  def flops(self) -> int:
    """Floating-point operations: two per multiply-add."""
    return 2 * sum(self)


def meta_step(network: str, image_size: int, *, tasks: int, way: int, shot: int, query: int,
              inner_steps: int, width: int | None = None) -> Count:
  """Counts the multiply-adds of value and gradient of the outer loss.

  Args:
    network: one of `network_shapes.NAMES`.
    image_size: side of the images, pixels.
    tasks: number of tasks of the meta-batch.
    way: N.
    shot: K.
    query: Q, per class.
    inner_steps: T.
    width: channels of the first block; None as published.

  Returns:
    A Count.
  """
  found = network_shapes.layers(network, image_size, width)
  images = tasks * way * (shot + query)
  features = network_shapes.FEATURES[network] * (width or network_shapes.WIDTHS[network])
  return Count(
      images * sum(map(_pass, found)),
      images * sum(_pass(layer) for layer in found if not layer.reads_image),
      images * sum(_pass(layer) for layer in found if layer.scaled),
      tasks * inner_loop(way * shot, way * query, features, way, inner_steps))


def inner_loop(support: int, query: int, features: int, way: int, steps: int) -> int:
  """Counts the multiply-adds of the dual inner loop of one task, with its second-order gradient.

  They are products of features (G, the first logits, the adapted classifier and its logits) and one
  product [n, n] x [n, N] per step. A product has a gradient to each of its two factors, so that
  value and gradient together take three times the value.

  Args:
    support: n, number of support images.
    query: m, number of query images.
    features: d.
    way: N.
    steps: T.

  Returns:
    Multiply-adds.
  """
  products = support * features * (support + 2 * way) + query * features * way
  return 3 * (products + steps * support * support * way)


def map_bytes(network: str, image_size: int, images: int, *, width: int | None = None,
              value_bytes: int = 4) -> int:
  """Counts the bytes of maps that the passes of all convolutions must move.

  Each pass touches one input map and one output map.

  Args:
    network: one of `network_shapes.NAMES`.
    image_size: side of the images, pixels.
    images: number of images of the meta-step.
    width: channels of the first block; None as published.
    value_bytes: bytes of one value, 4 or 2.

  Returns:
    Bytes. Kernels are left out; they are small beside the maps of many images.
  """
  total = 0
  for layer in network_shapes.layers(network, image_size, width):
    maps = layer.side_in**2 * layer.kernel[2] + layer.side_out**2 * layer.kernel[3]
    total += maps * (1 + (not layer.reads_image) + layer.scaled)
  return total * images * value_bytes


def kept_bytes(network: str, image_size: int, images: int, *, width: int | None = None,
               value_bytes: int = 4) -> int:
  """Counts the bytes that wait for the backward pass: inputs of scaled convolutions but the image.

  Activations keep the same maps, where their gradient follows from their output, as that of leaky
  ReLU does.

  Args:
    network: one of `network_shapes.NAMES`.
    image_size: side of the images, pixels.
    images: number of images of the meta-step.
    width: channels of the first block; None as published.
    value_bytes: bytes of one value, 4 or 2.

  Returns:
    Bytes.
  """
  inputs = [layer for layer in network_shapes.layers(network, image_size, width)
            if layer.scaled and not layer.reads_image]
  # A shortcut and the convolution beside it read the same map.
  distinct = {(layer.path.rpartition('/')[0], layer.path.endswith('conv2'),
               layer.path.endswith('conv3')): layer for layer in inputs}
  values = sum(layer.side_in**2 * layer.kernel[2] for layer in distinct.values())
  return values * images * value_bytes


def _pass(layer):
  """Counts the multiply-adds of one pass over one image."""
  rows, columns, c_in, c_out = layer.kernel
  return layer.side_out**2 * rows * columns * c_in * c_out
