"""Scale-and-shift convolutions in PyTorch, alone and folded with the frozen batch norm behind them.

Letters: B images, H W pixels, c_in and c_out channels.
"""
import torch
from torch import nn
from torch.nn import functional as F


class ScaleShiftConv(nn.Module):
  """A frozen convolution with a meta-learned scale per kernel slice, and a shift of its bias."""

  def __init__(self, channels_in, channels_out, size=3, stride=1, bias=True):
    super().__init__()
    std = (2 / (size * size * channels_in)) ** 0.5  # He et al.: activations keep their variance
    self.register_buffer('weight', std * torch.randn(channels_out, channels_in, size, size))
    self.register_buffer('bias', torch.zeros(channels_out) if bias else None)
    self.scale = nn.Parameter(torch.ones(channels_out, channels_in, 1, 1))
    self.register_parameter('shift', nn.Parameter(torch.zeros(channels_out)) if bias else None)
    self.geometry = {'stride': stride, 'padding': size // 2}
    self.fold = False   # whether `conv_norm` multiplies the batch norm into the kernel
    self.merged = None  # kernel and bias of `merge`, once nothing is learned any more

  def modulated(self):
    """Returns kernel and bias after scale and shift."""
    return self.weight * self.scale, None if self.bias is None else self.bias + self.shift

  def forward(self, x):
    kernel, bias = self.modulated()
    return F.conv2d(x, kernel, bias, **self.geometry)


def conv_norm(conv, norm, x):
  """Convolves and normalises; with `conv.fold` in one operation, without the activation in between.

  Args:
    conv: a ScaleShiftConv.
    norm: the batch norm behind it, frozen.
    x: [B, c_in, H, W].

  Returns:
    [B, c_out, H', W'].
  """
  if conv.merged or conv.fold:
    kernel, bias = conv.merged or folded(conv, norm)
    return F.conv2d(x, kernel, bias, **conv.geometry)
  return norm(conv(x))


def folded(conv, norm):
  """Computes the one convolution that equals a convolution and the frozen batch norm behind it.

  Args:
    conv: a ScaleShiftConv.
    norm: an nn.BatchNorm2d.

  Returns:
    Its kernel [c_out, c_in, h, w] and bias [c_out], differentiable in scale and shift.
  """
  kernel, bias = conv.modulated()
  gain = torch.rsqrt(norm.running_var + norm.eps)
  if norm.affine:
    gain = gain * norm.weight
  bias = (-norm.running_mean if bias is None else bias - norm.running_mean) * gain
  return kernel * gain[:, None, None, None], bias + norm.bias if norm.affine else bias


def merge(network):
  """Multiplies scale, shift and batch norm into the kernels for good, for evaluation.

  Args:
    network: a ResNet12 or ResNet25; changed in place.
  """
  with torch.no_grad():
    for parent in network.modules():
      for name, conv in parent.named_children():
        if isinstance(conv, ScaleShiftConv):
          conv.merged = folded(conv, getattr(parent, norm_of(name)))


def norm_of(conv_name):
  """Returns the name of the batch norm behind a convolution: conv1 -> bn1, stem -> stem_bn.

  Args:
    conv_name: name of the convolution in its parent.

  Returns:
    Name of the batch norm in the same parent.
  """
  if conv_name.startswith('conv'):
    return conv_name.replace('conv', 'bn')
  return f'{conv_name}_bn'
