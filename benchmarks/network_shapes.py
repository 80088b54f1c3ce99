"""The convolutions of the networks that both sides have, by the names of the JAX tree.

Random weights are drawn and operations counted from these shapes.
"""
from typing import NamedTuple

NAMES = ('resnet12', 'resnet25')
WIDTHS = {'resnet12': 64, 'resnet25': 160}  # channels of the first block, as published
FEATURES = {'resnet12': 8, 'resnet25': 4}   # feature width, in widths of the first block


class Layer(NamedTuple):
  """A convolution; a 1x1 convolution is a matrix [c_in, c_out] in the tree."""
  path: str                          # 'block1/conv1'
  kernel: tuple[int, int, int, int]  # rows, columns, c_in, c_out
  side_in: int                       # pixels
  side_out: int                      # pixels
  scaled: bool                       # whether scale and shift act on it
  bias: bool
  norm: str | None                   # path of the batch norm behind it
  affine: bool                       # whether that has a scale and an offset

  @property
  def reads_image(self) -> bool:
    """Whether its input is the image, which needs no gradient."""
    return self.kernel[2] == 3


def layers(network: str, image_size: int, width: int | None = None) -> list[Layer]:
  """Lists the convolutions of a network in the order of their computation.

  Args:
    network: one of NAMES.
    image_size: side of the images, pixels.
    width: channels of the first block; None as published.

  Returns:
    One Layer per convolution.

  Raises:
    ValueError: an unknown network.
  """
  if network not in NAMES:
    raise ValueError(f'expected networks among {", ".join(NAMES)}, got {network!r}')
  width = width or WIDTHS[network]
  if network == 'resnet12':
    return _resnet12(image_size, width)
  return _resnet25(image_size, width)


def _resnet12(side, width):
  """Lists four blocks of three 3x3 convolutions and an unscaled 1x1 shortcut."""
  found, channels = [], 3
  for i in range(4):
    block, out = f'block{i + 1}', width * 2**i
    found.append(Layer(f'{block}/shortcut', (1, 1, channels, out), side, side, scaled=False,
                       bias=False, norm=None, affine=False))
    for j in (1, 2, 3):
      found.append(Layer(f'{block}/conv{j}', (3, 3, channels, out), side, side, scaled=True,
                         bias=True, norm=f'{block}/bn{j}', affine=False))
      channels = out
    side //= 2  # a 2x2 max-pool ends the block
  return found


def _resnet25(side, width):
  """Lists a stem and three stages of four basic blocks, of which the first has a shortcut."""
  channels = width // 2
  found = [Layer('stem', (3, 3, 3, channels), side, side, scaled=True, bias=True, norm='stem_bn',
                 affine=True)]
  for i in range(3):
    out = width * 2**i
    for j in range(4):
      block, below = f'stage{i + 1}/block{j + 1}', side
      side = -(-side // 2) if j == 0 else side  # the first block of a stage has stride 2
      convs = [('shortcut', 'shortcut_bn', 1, channels)] if j == 0 else []
      convs += [('conv1', 'bn1', 3, channels), ('conv2', 'bn2', 3, out)]
      for name, norm, size, c_in in convs:
        side_in = side if name == 'conv2' else below
        found.append(Layer(f'{block}/{name}', (size, size, c_in, out), side_in, side, scaled=True,
                           bias=False, norm=f'{block}/{norm}', affine=True))
      channels = out
  return found
