"""ResNet-12 and the authors' ResNet-25 in PyTorch with scale-and-shift convolutions, and their arrays in npz files.

Modules carry the names of this library's trees, so the path of an array in a file is the path of its module:
`stage1.block1.conv1` here is `stage1/block1/conv1` there. Batch norm is frozen on its running statistics throughout.
Nothing is imported but torch, so that any Python with torch and numpy can run the benchmarks.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class ScaleShiftConv(nn.Module):
  """A frozen convolution; meta-learned are a scale of each kernel slice and, where it has a bias, a shift of that."""

  def __init__(self, channels_in, channels_out, size=3, stride=1, bias=True):
    super().__init__()
    std = (2 / (size * size * channels_in)) ** 0.5
    self.register_buffer('weight', std * torch.randn(channels_out, channels_in, size, size))
    self.register_buffer('bias', torch.zeros(channels_out) if bias else None)
    self.scale = nn.Parameter(torch.ones(channels_out, channels_in, 1, 1))
    self.register_parameter('shift', nn.Parameter(torch.zeros(channels_out)) if bias else None)
    self.geometry = {'stride': stride, 'padding': size // 2}
    self.fold = False  # whether `conv_norm` multiplies the batch norm into the kernel
    self.merged = None  # kernel and bias with all that follows multiplied in, once nothing is learned any more

  def modulated(self):
    """Returns kernel and bias after scale and shift."""
    return self.weight * self.scale, None if self.bias is None else self.bias + self.shift

  def forward(self, x):
    kernel, bias = self.modulated()
    return F.conv2d(x, kernel, bias, **self.geometry)


def conv_norm(conv, norm, x):
  """Convolves and normalises; with `conv.fold` in one operation, which spares the activation in between.

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
  """Writes a convolution and the frozen batch norm behind it as one convolution.

  Args:
    conv: a ScaleShiftConv.
    norm: an nn.BatchNorm2d.

  Returns:
    Its kernel and bias, differentiable in scale and shift.
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
  """Gives the name of the batch norm behind a convolution: conv1 -> bn1, stem -> stem_bn.

  Args:
    conv_name: name of the convolution in its parent.

  Returns:
    Name of the batch norm in the same parent.
  """
  return conv_name.replace('conv', 'bn') if conv_name.startswith('conv') else f'{conv_name}_bn'


def global_average(x):
  """Averages over pixels, summing in float32 at least.

  Args:
    x: [B, C, H, W].

  Returns:
    [B, C], float32 or float64.
  """
  return x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


class ResNet12(nn.Module):
  """Four blocks and global average pooling: images [B, 3, H, W] -> features [B, 8 * width]."""

  def __init__(self, width=64, eps=1e-5):
    super().__init__()
    widths = [width * 2**i for i in range(4)]
    self.feature_dim = widths[-1]
    for i, (channels_in, channels_out) in enumerate(zip([3, *widths[:-1]], widths, strict=True), 1):
      self.add_module(f'block{i}', _ThreeConvs(channels_in, channels_out, eps))
    self.eval()

  def forward(self, x):
    return global_average(self.block4(self.block3(self.block2(self.block1(x)))))


class _ThreeConvs(nn.Module):
  """Three times convolution, batch norm, leaky ReLU; plus a 1x1 shortcut; 2x2 max-pool, rounding down."""

  def __init__(self, channels_in, channels_out, eps):
    super().__init__()
    for i in (1, 2, 3):
      self.add_module(f'conv{i}', ScaleShiftConv(channels_in if i == 1 else channels_out, channels_out))
      self.add_module(f'bn{i}', nn.BatchNorm2d(channels_out, eps, affine=False))
    self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False).requires_grad_(False)

  def forward(self, x):
    y = F.leaky_relu(conv_norm(self.conv1, self.bn1, x), 0.1, inplace=True)
    y = F.leaky_relu(conv_norm(self.conv2, self.bn2, y), 0.1, inplace=True)
    y = F.leaky_relu(conv_norm(self.conv3, self.bn3, y), 0.1, inplace=True)
    return F.max_pool2d(self.shortcut(x).add_(y), 2)


class ResNet25(nn.Module):
  """A stem and three stages of four basic blocks, each stage at half the size: [B, 3, H, W] -> [B, 4 * width].

  The stem, of half the width, is the one convolution with a bias. Every convolution is scaled.
  """

  def __init__(self, width=160, eps=1e-5):
    super().__init__()
    channels = max(1, width // 2)
    self.stem, self.stem_bn = ScaleShiftConv(3, channels), _frozen_norm(channels, eps)
    for i in range(3):
      blocks = nn.Sequential()
      for j in range(1, 5):
        blocks.add_module(f'block{j}', _Basic(channels, width * 2**i, 2 if j == 1 else 1, eps))
        channels = width * 2**i
      self.add_module(f'stage{i + 1}', blocks)
    self.feature_dim = channels
    self.eval()

  def forward(self, x):
    x = F.relu(conv_norm(self.stem, self.stem_bn, x), inplace=True)
    return global_average(self.stage3(self.stage2(self.stage1(x))))


class _Basic(nn.Module):
  """Convolution, batch norm, ReLU, convolution, batch norm; plus the shortcut; ReLU."""

  def __init__(self, channels_in, channels_out, stride, eps):
    super().__init__()
    self.conv1 = ScaleShiftConv(channels_in, channels_out, stride=stride, bias=False)
    self.bn1 = _frozen_norm(channels_out, eps)
    self.conv2 = ScaleShiftConv(channels_out, channels_out, bias=False)
    self.bn2 = _frozen_norm(channels_out, eps)
    self.shortcut = None
    if stride != 1 or channels_in != channels_out:
      self.shortcut = ScaleShiftConv(channels_in, channels_out, 1, stride, bias=False)
      self.shortcut_bn = _frozen_norm(channels_out, eps)

  def forward(self, x):
    y = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)
    y = conv_norm(self.conv2, self.bn2, y)
    y += x if self.shortcut is None else conv_norm(self.shortcut, self.shortcut_bn, x)
    return F.relu(y, inplace=True)


def _frozen_norm(channels, eps):
  return nn.BatchNorm2d(channels, eps).requires_grad_(False)


NETWORKS = {'resnet12': ResNet12, 'resnet25': ResNet25}


class Entry(NamedTuple):
  """One array of a model."""
  name: str            # in the files
  tensor: torch.Tensor
  learned: bool
  matrix: bool         # a 1x1 kernel or a linear layer: [in, out] in the files


def entries(model):
  """Lists the arrays of a model with their names in the files.

  Args:
    model: a module with `network` and perhaps `base_learner`.

  Yields:
    An Entry per array.
  """
  for path, module in model.network.named_modules():
    path = path.replace('.', '/')
    if isinstance(module, ScaleShiftConv):
      matrix = module.weight.shape[-1] == 1
      yield Entry(f'{path}/kernel', module.weight, False, matrix)
      yield Entry(f'scale_shift/{path}/scale', module.scale, True, matrix)
      if module.bias is not None:
        yield Entry(f'{path}/bias', module.bias, False, False)
        yield Entry(f'scale_shift/{path}/shift', module.shift, True, False)
    elif isinstance(module, nn.Conv2d):
      yield Entry(f'{path}/kernel', module.weight, False, True)
    elif isinstance(module, nn.BatchNorm2d):
      named = {'mean': module.running_mean, 'var': module.running_var, 'scale': module.weight, 'bias': module.bias}
      yield from (Entry(f'{path}/{name}', t, False, False) for name, t in named.items() if t is not None)
  yield Entry('base_learner/kernel', model.base_learner.weight, True, True)
  yield Entry('base_learner/bias', model.base_learner.bias, True, False)


def load(model, arrays):
  """Copies arrays of a file into a model; what is meta-learned may be absent, and then stays as it is.

  Args:
    model: as in `entries`.
    arrays: name -> NumPy array; kernels are [h, w, in, out], or [in, out] where they are 1x1.

  Raises:
    ValueError: an array is missing or has another shape.
  """
  for name, tensor, learned, matrix in entries(model):
    expected = tuple(to_file(tensor, matrix).shape)
    if name in arrays:
      if arrays[name].shape != expected:
        raise ValueError(f'expected {name} of shape {expected}, got {arrays[name].shape}')
      values = torch.from_numpy(arrays[name])
      values = values.T if matrix else values.permute(3, 2, 0, 1) if values.ndim == 4 else values
      tensor.data.copy_(values.reshape(tensor.shape))
    elif not learned:
      raise ValueError(f'expected an array {name!r} in the inputs, found none')


def to_file(tensor, matrix):
  """Turns a tensor of a model into the layout of the files.

  Args:
    tensor: [out, in, h, w], [out, in] or [out].
    matrix: as in Entry.

  Returns:
    NumPy array [h, w, in, out], [in, out] or [out].
  """
  tensor = tensor.detach().cpu()
  if matrix:
    return tensor.flatten(1).T.numpy()
  return tensor.permute(2, 3, 1, 0).numpy() if tensor.ndim == 4 else tensor.numpy()
