"""The six networks in NumPy and float64, layer by layer, written from their definitions."""
import numpy as np


def relu(x):
  return np.maximum(x, 0)


def leaky_relu(x):
  return np.where(x > 0, x, 0.1 * x)


def max_pool(x):
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  return np.max([x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)], axis=0)


def conv3x3(x, layer, stride):
  """Convolution with zeros around x; output (i, j) is centred on input (stride * i, stride * j)."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
  output = np.empty((len(x), len(rows), len(columns), layer['kernel'].shape[-1]))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      patch = padded[:, row:row + 3, column:column + 3]
      output[:, i, j] = np.einsum('bhwc,hwcd->bd', patch, layer['kernel'])
  return output + layer.get('bias', 0)


class NumpyForward:
  """The forward pass of a network by its name.

  After it, `moments` holds the batch's mean and variance at each batch norm.
  """

  def __init__(self, backbone_vars, mode):
    self.params, self.stats = _flat(backbone_vars.params), _flat(backbone_vars.batch_stats)
    self.mode, self.moments = mode, {}

  def forward(self, name, images):
    return getattr(self, name)(images.astype(np.float64))

  def conv(self, x, path, stride=1):
    layer = self.params[path]
    if layer['kernel'].ndim == 4:
      return conv3x3(x, layer, stride)
    return x[:, ::stride, ::stride] @ layer['kernel']

  def norm(self, x, path):
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    self.moments[path] = {'mean': mean, 'var': var}
    if self.mode == 'running':
      mean, var = self.stats[path]['mean'], self.stats[path]['var']
    affine = self.params.get(path, {})
    return (x - mean) / np.sqrt(var + 1e-5) * affine.get('scale', 1) + affine.get('bias', 0)

  def conv4(self, x):
    for block in ('block1', 'block2', 'block3', 'block4'):
      x = max_pool(relu(self.norm(self.conv(x, f'{block}/conv'), f'{block}/bn')))
    return x.reshape(len(x), -1)

  def resnet12(self, x):
    for block in ('block1', 'block2', 'block3', 'block4'):
      shortcut = self.conv(x, f'{block}/shortcut')
      for i in (1, 2, 3):
        x = leaky_relu(self.norm(self.conv(x, f'{block}/conv{i}'), f'{block}/bn{i}'))
      x = max_pool(x + shortcut)
    return x.mean(axis=(1, 2))

  def resnet12_wide(self, x):
    for block in ('block1', 'block2', 'block3', 'block4'):
      shortcut = self.norm(self.conv(x, f'{block}/shortcut'), f'{block}/shortcut_bn')
      x = leaky_relu(self.norm(self.conv(x, f'{block}/conv1'), f'{block}/bn1'))
      x = leaky_relu(self.norm(self.conv(x, f'{block}/conv2'), f'{block}/bn2'))
      x = self.norm(self.conv(x, f'{block}/conv3'), f'{block}/bn3')
      x = max_pool(leaky_relu(x + shortcut))
    return x.mean(axis=(1, 2))

  def resnet18_small(self, x):
    x = relu(self.norm(self.conv(x, 'stem'), 'stem_bn'))
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
      x = self.basic_block(x, f'stage{stage}/block1', stride)
      x = self.basic_block(x, f'stage{stage}/block2', 1)
    return x.mean(axis=(1, 2))

  def resnet25(self, x):
    x = relu(self.norm(self.conv(x, 'stem'), 'stem_bn'))
    for stage in (1, 2, 3):
      for block, stride in ((1, 2), (2, 1), (3, 1), (4, 1)):
        x = self.basic_block(x, f'stage{stage}/block{block}', stride)
    return x.mean(axis=(1, 2))

  def basic_block(self, x, block, stride):
    y = relu(self.norm(self.conv(x, f'{block}/conv1', stride), f'{block}/bn1'))
    y = self.norm(self.conv(y, f'{block}/conv2'), f'{block}/bn2')
    if stride != 1 or x.shape[-1] != y.shape[-1]:
      x = self.norm(self.conv(x, f'{block}/shortcut', stride), f'{block}/shortcut_bn')
    return relu(x + y)

  def wrn28_10(self, x):
    x = self.conv(x, 'stem')
    for stage, first_stride in ((1, 1), (2, 2), (3, 2)):
      for block in (1, 2, 3, 4):
        stride = first_stride if block == 1 else 1
        x = self.pre_activation_block(x, f'stage{stage}/block{block}', stride)
    return relu(self.norm(x, 'last_bn')).mean(axis=(1, 2))

  def pre_activation_block(self, x, block, stride):
    activated = relu(self.norm(x, f'{block}/bn1'))
    y = relu(self.norm(self.conv(activated, f'{block}/conv1', stride), f'{block}/bn2'))
    y = self.conv(y, f'{block}/conv2')
    if block.endswith('block1'):
      x = self.conv(activated, f'{block}/shortcut', stride)
    return y + x


def _flat(tree, prefix=()):
  """{'stage1/block1/conv1': {'kernel': float64 array}, ...} of a nested dict."""
  if not any(isinstance(child, dict) for child in tree.values()):
    layer = {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
    return {'/'.join(prefix): layer}
  flat = {}
  for name, child in tree.items():
    flat |= _flat(child, (*prefix, name))
  return flat
