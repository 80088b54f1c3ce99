"""Which of the authors' tensors corresponds to which leaf of our trees.

Their PyTorch code saves one flat dictionary. After meta-training it is that of the whole model;
before, that of the encoder alone, so that its keys begin without `encoder.` and there are no
`mtl_weight`, `mtl_bias` and `base_learner`.

Their TensorFlow code saves three dictionaries, `weights`, `ss_weights` and `fc_weights`, or
`weights` alone before meta-training. A key here names both, as `weights/block1_conv1`.
"""
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from mtl_jax.weights.layouts import Layout

Format = Literal['pytorch', 'tensorflow']
FORMATS: dict[str, str] = {'pytorch': 'resnet25', 'tensorflow': 'resnet12'}  # -> our network

# PyTorch lists each of the two tensors of the base-learner twice: as a parameter of its module, and
# in the list `vars`. Second name -> first.
SECOND_NAMES = {'base_learner.fc1_w': 'base_learner.vars.0',
                'base_learner.fc1_b': 'base_learner.vars.1'}


class Place(NamedTuple):
  """A tensor on both sides."""
  key: str        # theirs
  path: str       # ours: tree, layers and leaf, such as 'params/stem/kernel'
  layout: Layout  # theirs


def places(format: str, *, meta_trained: bool) -> tuple[Place, ...]:
  """Lists every tensor that has a place on both sides.

  Args:
    format: 'pytorch' (their ResNet-25) or 'tensorflow' (their ResNet-12).
    meta_trained: whether Φ_S and θ are among them.

  Returns:
    One Place per tensor, layer after layer; θ comes last. The trees are those of `BackboneVars`
    ('params', 'batch_stats') and of `MetaParams` ('scale_shift', 'base_learner').

  >>> places('pytorch', meta_trained=True)[2]
  Place(key='encoder.conv1.mtl_weight', path='scale_shift/stem/scale', layout='oihw')
  """
  list_places = {'pytorch': _pytorch, 'tensorflow': _tensorflow}[format]
  return tuple(list_places(meta_trained))


def is_meta_trained(format: str, keys: Iterable[str]) -> bool:
  """Whether a file with these keys holds Φ_S.

  Args:
    format: 'pytorch' or 'tensorflow'.
    keys: theirs.
  """
  if format == 'pytorch':
    return any(key.endswith(('.mtl_weight', '.mtl_bias')) for key in keys)
  return any(key.startswith('ss_weights/') for key in keys)


def _pytorch(meta_trained: bool) -> Iterator[Place]:
  start = 'encoder.' if meta_trained else ''
  yield from _pytorch_conv(start + 'conv1', 'stem', 'oihw', meta_trained, bias=True)
  yield from _pytorch_norm(start + 'bn1', 'stem_bn')
  for stage in (1, 2, 3):
    for block in (1, 2, 3, 4):
      theirs, ours = f'{start}layer{stage}.{block - 1}', f'stage{stage}/block{block}'
      for i in (1, 2):
        yield from _pytorch_conv(f'{theirs}.conv{i}', f'{ours}/conv{i}', 'oihw', meta_trained)
        yield from _pytorch_norm(f'{theirs}.bn{i}', f'{ours}/bn{i}')
      if block == 1:  # the first of a stage widens, so its shortcut has a convolution
        shortcut = f'{theirs}.downsample.0'
        yield from _pytorch_conv(shortcut, f'{ours}/shortcut', 'oi11', meta_trained)
        yield from _pytorch_norm(f'{theirs}.downsample.1', f'{ours}/shortcut_bn')
  if meta_trained:
    yield Place('base_learner.vars.0', 'base_learner/kernel', 'oi')
    yield Place('base_learner.vars.1', 'base_learner/bias', 'same')


def _pytorch_conv(theirs: str, ours: str, layout: Layout, meta_trained: bool, *,
                  bias: bool = False) -> Iterator[Place]:
  yield Place(theirs + '.weight', f'params/{ours}/kernel', layout)
  if bias:
    yield Place(theirs + '.bias', f'params/{ours}/bias', 'same')
  if meta_trained:
    yield Place(theirs + '.mtl_weight', f'scale_shift/{ours}/scale', layout)
    if bias:
      yield Place(theirs + '.mtl_bias', f'scale_shift/{ours}/shift', 'same')


def _pytorch_norm(theirs: str, ours: str) -> Iterator[Place]:
  yield Place(theirs + '.weight', f'params/{ours}/scale', 'same')
  yield Place(theirs + '.bias', f'params/{ours}/bias', 'same')
  yield Place(theirs + '.running_mean', f'batch_stats/{ours}/mean', 'same')
  yield Place(theirs + '.running_var', f'batch_stats/{ours}/var', 'same')


def _tensorflow(meta_trained: bool) -> Iterator[Place]:
  for block in ('block1', 'block2', 'block3', 'block4'):
    for i in (1, 2, 3):
      layer = f'{block}/conv{i}'
      yield Place(f'weights/{block}_conv{i}', f'params/{layer}/kernel', 'same')
      yield Place(f'weights/{block}_bias{i}', f'params/{layer}/bias', 'same')
      if meta_trained:
        yield Place(f'ss_weights/{block}_conv{i}', f'scale_shift/{layer}/scale', 'same')
        yield Place(f'ss_weights/{block}_bias{i}', f'scale_shift/{layer}/shift', 'same')
    # Nothing scales a shortcut, and it has no bias.
    yield Place(f'weights/{block}_conv_res', f'params/{block}/shortcut/kernel', '11io')
  if meta_trained:
    yield Place('fc_weights/w5', 'base_learner/kernel', 'same')
    yield Place('fc_weights/b5', 'base_learner/bias', 'same')
