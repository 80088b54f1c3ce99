"""ResNet-12 and the authors' ResNet-25 in PyTorch with scale-and-shift convolutions.

Modules carry the names of this library's trees: `stage1.block1.conv1` here is
`stage1/block1/conv1` there. Batch norm is frozen on its running statistics throughout.
"""
import torch
from convolutions import ScaleShiftConv, conv_norm
from torch import nn
from torch.nn import functional as F


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
  """Three times convolution, batch norm, leaky ReLU; plus a 1x1 shortcut; 2x2 max-pool."""

  def __init__(self, channels_in, channels_out, eps):
    super().__init__()
    for i in (1, 2, 3):
      conv = ScaleShiftConv(channels_in if i == 1 else channels_out, channels_out)
      self.add_module(f'conv{i}', conv)
      self.add_module(f'bn{i}', nn.BatchNorm2d(channels_out, eps, affine=False))
    self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False).requires_grad_(False)

  def forward(self, x):
    y = F.leaky_relu(conv_norm(self.conv1, self.bn1, x), 0.1, inplace=True)
    y = F.leaky_relu(conv_norm(self.conv2, self.bn2, y), 0.1, inplace=True)
    y = F.leaky_relu(conv_norm(self.conv3, self.bn3, y), 0.1, inplace=True)
    return F.max_pool2d(self.shortcut(x).add_(y), 2)  # odd sizes are rounded down


class ResNet25(nn.Module):
  """A stem and three stages of four basic blocks, each at half the size: [B, 3, H, W] -> features.

  Features are [B, 4 * width]. The stem has half the width and is the one convolution with a bias.
  Every convolution is scaled.
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
