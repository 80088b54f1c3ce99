"""What the layers of the backbones compute: functions of arrays in forms that compile to fast code.

Each equals a function of `lax` or `flax` to rounding; its docstring says what the other form costs.
"""
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from mtl_jax.backbones import depthwise, winograd

_NHWC = ('NHWC', 'HWIO', 'NHWC')
_ONE_PIXEL = ((1, 1), (1, 1))  # padding of a 3x3 kernel that keeps height and width
# With more input channels than an image has, an accelerator is faster by a matrix product.
_FEW_CHANNELS = 3


def conv(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
  """Convolves as `lax.conv_general_dilated` does; on a CPU, common kernels in a form fast there.

  A 3x3 kernel is plain if it is padded by one pixel, neither dilated nor grouped. On a CPU it is
  computed by `conv3x3`, or, where channels and tiles are many, by Winograd's algorithm, which
  rounds five times as coarsely (`winograd`). A plain kernel that strides is then computed at every
  pixel and thinned out: four times the work of that layer in the direct form, yet without the
  gradients that are dozens of times slower in a loop. A depthwise kernel is a sum of shifted
  products there (`depthwise`).

  Args:
    x: [B, H, W, c_in].
    kernel: [kh, kw, c_in, c_out].
    strides: (rows, columns).
    padding: pairs of pixels, or 'SAME'.
    **options: other arguments of `lax.conv_general_dilated`, as `nn.Conv` passes them.

  Returns:
    [B, H', W', c_out].
  """
  if jax.default_backend() == 'cpu':
    return _conv_on_cpu(x, kernel, strides, padding, **options)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv_by_platform(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
                     ) -> jax.Array:
  """Convolves as `conv` does on the device that the program is compiled for, not on this one's.

  One exported program then is fast on every device. Its gradient would keep what the forms of all
  devices keep.

  Args:
    x, kernel, strides, padding, **options: as in `conv`.

  Returns:
    [B, H', W', c_out].
  """
  return jax.lax.platform_dependent(
      x, kernel, cpu=lambda x, kernel: _conv_on_cpu(x, kernel, strides, padding, **options),
      default=lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, strides, padding,
                                                             **options))


def _conv_on_cpu(x, kernel, strides, padding, **options):
  if _is_plain_3x3(x, kernel, strides, padding, options):
    faster: Any = winograd.conv3x3 if _winograd_pays(x, *kernel.shape[2:]) else conv3x3
    return faster(x, kernel)[:, ::strides[0], ::strides[1]]
  if depthwise.is_depthwise(x, kernel, options):
    return depthwise.conv(x, kernel, strides, padding)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv_by_patches(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
                    ) -> jax.Array:
  """Convolves as `conv` does, but plain 3x3 kernels as products of patches (`conv_patches`).

  A `vmap` over kernels, one per task, makes a product a batched product and a convolution a grouped
  convolution, which most devices compute far below their speed.

  Args:
    x: [B, H, W, c_in].
    kernel: [kh, kw, c_in, c_out].
    strides: (rows, columns).
    padding: pairs of pixels, or 'SAME'.
    **options: other arguments of `lax.conv_general_dilated`, as `nn.Conv` passes them.

  Returns:
    [B, H', W', c_out].
  """
  if _is_plain_3x3(x, kernel, strides, padding, options):
    return conv_patches(x, kernel, strides)
  return conv(x, kernel, strides, padding, **options)


def _is_plain_3x3(x, kernel, strides, padding, options):
  """Whether a convolution has a 3x3 kernel, padding of one pixel, no dilation and no groups."""
  if padding == 'SAME':
    # With a stride, 'SAME' pads an even side at its end alone.
    one_pixel = tuple(strides) == (1, 1)
  else:
    one_pixel = tuple(map(tuple, padding)) == _ONE_PIXEL
  grouped = options.get('feature_group_count', 1) != 1 or kernel.shape[2] != x.shape[3]
  dilations = (options.get(name) or (1,) for name in ('lhs_dilation', 'rhs_dilation'))
  dilated = any(set(dilation) != {1} for dilation in dilations)
  return kernel.shape[:2] == (3, 3) and one_pixel and not grouped and not dilated


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves with a 3x3 kernel, stride 1, zero padding of one pixel, with gradients fast on CPU.

  XLA's CPU compiler brings the convolutions of a gradient into its fast form in straight-line code,
  yet not in the body of a `lax.scan`, where they run some 60 times slower. Here both gradients are
  written in that form to begin with, or the gradient of the kernel in Winograd's. It differentiates
  in reverse mode, any number of times, and not in forward mode.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].

  Returns:
    [B, H, W, c_out].
  """
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), _ONE_PIXEL, dimension_numbers=_NHWC)


def _conv3x3_forward(x, kernel):
  return conv3x3(x, kernel), (x, kernel)


def _conv3x3_backward(residuals, cotangent):
  x, kernel = residuals
  # The gradient to the inputs is a convolution with the kernel turned by 180 degrees.
  x_bar = conv3x3(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
  if _winograd_pays(x, *kernel.shape[2:], gradient=True):
    return x_bar, winograd.kernel_gradient(x, cotangent)
  # The batch is summed over, so it takes the place of the input channels:
  # [c_in, H, W, B] * [H, W, B, c_out].
  kernel_bar = jax.lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0), cotangent.transpose(1, 2, 0, 3), (1, 1), _ONE_PIXEL,
      dimension_numbers=_NHWC)
  return x_bar, kernel_bar.transpose(1, 2, 0, 3)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _winograd_pays(x, c_in, c_out, *, gradient=False):
  """Whether Winograd's form is the faster one on a CPU; the limits were measured on two cores."""
  if export.is_symbolic_dim(x.shape[0]):
    return False  # its parts are cut for one number of images; an exported program takes any
  # The gradient of a kernel needs no transposed maps in Winograd's form, so it pays sooner.
  least, most = (64, 64) if gradient else (128, 256)
  wide = min(c_in, c_out) >= least and max(c_in, c_out) >= most
  # On maps of one pixel it never pays; on maps of two, XLA's own form is up to 30 times slower.
  many = winograd.tiles(x) >= 40 and min(x.shape[1:3]) >= 2
  return wide and many and x.dtype in (jnp.float32, jnp.float64)


def conv_patches(x: jax.Array, kernel: jax.Array, strides: Any = (1, 1)) -> jax.Array:
  """Convolves with a 3x3 kernel and zero padding of one pixel, as one matrix product.

  Args:
    x: [B, H, W, c_in].
    kernel: [3, 3, c_in, c_out].
    strides: (rows, columns).

  Returns:
    [B, ceil(H / rows), ceil(W / columns), c_out].
  """
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), *_ONE_PIXEL, (0, 0)))
  shifted = [padded[:, i:i + height:strides[0], j:j + width:strides[1]]
             for i in range(3) for j in range(3)]
  return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def dot(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
  """Multiplies as `lax.dot_general` does, for the last axis of x and the first of the kernel.

  On an accelerator, an image's three channels are summed in three products (`sum_of_products`). The
  compiler fuses them with what comes next, in less time than it takes to write the result of a
  matrix product and to read it again.

  Args:
    x: [..., c_in].
    kernel: [c_in, c_out].
    dimension_numbers: of `lax.dot_general`, as `nn.Dense` passes them.
    **options: other arguments of `lax.dot_general`; the sum of products takes none of them and
      rounds as float32 does.

  Returns:
    [..., c_out].
  """
  if kernel.shape[0] > _FEW_CHANNELS or jax.default_backend() == 'cpu':
    return jax.lax.dot_general(x, kernel, dimension_numbers, **options)
  return sum_of_products(x, kernel)


def sum_of_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes x @ kernel as a sum over channels, in float32 at least.

  Args:
    x: [..., c_in].
    kernel: [c_in, c_out].

  Returns:
    [..., c_out], of the type of x.
  """
  wide, rows = (a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in (x, kernel))
  rows = jnp.expand_dims(rows, tuple(range(1, x.ndim)))  # [c_in, 1, ..., c_out]
  products = [wide[..., i:i + 1] * row for i, row in enumerate(rows)]
  return functools.reduce(operator.add, products).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def relu(x: jax.Array, slope: float = 0.0) -> jax.Array:
  """Multiplies negative values by a slope: a ReLU, or a leaky one.

  Its derivative is read off the output, which is kept for the next convolution in any case; if it
  were read off the input, XLA would keep that for the backward pass too. At 0 the derivative is the
  slope, as in PyTorch.

  Args:
    x: any shape.
    slope: 0 or more.

  Returns:
    An array like x.
  """
  # With a slope of 0, the product would turn -inf into nan.
  return jnp.where(x > 0, x, slope * x) if slope else jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(slope, primals, tangents):
  (x,), (tangent,) = primals, tangents
  y = relu(x, slope)
  return y, jnp.where(y > 0, tangent, slope * tangent if slope else 0)


@jax.custom_jvp
def relu6(x: jax.Array) -> jax.Array:
  """Clips to [0, 6]; the derivative is read off the output, as in `relu`, and is 0 at both ends.

  Args:
    x: any shape.

  Returns:
    An array like x.
  """
  return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals, tangents):
  y = relu6(primals[0])
  return y, jnp.where((y > 0) & (y < 6), tangents[0], 0)
