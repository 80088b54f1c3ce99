"""Which of the authors' tensors stands where in our trees.

Their PyTorch code saves one flat dictionary; before meta-training that of the encoder alone, so its keys have no
`encoder.` and there are no `mtl_weight`, `mtl_bias` and `base_learner`. Their TensorFlow code saves three dictionaries,
`weights`, `ss_weights` and `fc_weights`; here a key is written `weights/block1_conv1`. Before meta-training there is
`weights` alone.
"""
from collections.abc import Iterable
from typing import NamedTuple

FORMATS = {'pytorch': 'resnet25', 'tensorflow': 'resnet12'}  # whose file -> our name of the network in it
# PyTorch lists the two tensors of the base-learner under two names each.
SECOND_NAMES = {'base_learner.fc1_w': 'base_learner.vars.0', 'base_learner.fc1_b': 'base_learner.vars.1'}


class Place(NamedTuple):
  """One tensor on both sides."""
  key: str     # theirs
  path: str    # ours: tree, layers and leaf, as in 'params/stem/kernel'; batch_stats, scale_shift, base_learner
  layout: str  # 'same'; 'oihw': theirs is [out, in, h, w] and ours [h, w, in, out]; 'oi11': [out, in, 1, 1] and
               # [in, out]; '11io': [1, 1, in, out] and [in, out]; 'oi': [out, in] and [in, out]


def places(format: str, *, meta_trained: bool) -> tuple[Place, ...]:
  """Lists every tensor that has a place on both sides.

  Args:
    format: 'pytorch' (the ResNet-25) or 'tensorflow' (the ResNet-12).
    meta_trained: whether Φ_S and θ are among them.

  Returns:
    One Place per tensor, in the order of the layers.

  >>> places('pytorch', meta_trained=True)[2]
  Place(key='encoder.conv1.mtl_weight', path='scale_shift/stem/scale', layout='oihw')
  """
  return tuple({'pytorch': _pytorch, 'tensorflow': _tensorflow}[format](meta_trained))


def is_meta_trained(format: str, keys: Iterable[str]) -> bool:
  """Tells whether a file with these keys holds Φ_S.

  Args:
    format: 'pytorch' or 'tensorflow'.
    keys: theirs.
  """
  if format == 'pytorch':
    return any(key.endswith(('.mtl_weight', '.mtl_bias')) for key in keys)
  return any(key.startswith('ss_weights/') for key in keys)


def has_no_place(format: str, key: str, *, meta_trained: bool) -> bool:
  """Tells whether a tensor belongs to the authors' files and has nothing that corresponds to it here.

  These are the classifier of the base classes, which is dropped after pre-training; counters of batch norm; the second
  name under which PyTorch lists the base-learner; and a base-learner that was not trained.

  Args:
    format: 'pytorch' or 'tensorflow'.
    key: theirs.
    meta_trained: as in `places`.
  """
  if format == 'tensorflow':
    return key in ('weights/w5', 'weights/b5') or not meta_trained and key.startswith('fc_weights/')
  untrained = not meta_trained and key.startswith('base_learner.')
  return untrained or key.endswith('.num_batches_tracked') or key.startswith('pre_fc.') or key in SECOND_NAMES


def _pytorch(meta_trained):
  start = 'encoder.' if meta_trained else ''
  yield from _pytorch_conv(start + 'conv1', 'stem', 'oihw', meta_trained, bias=True)
  yield from _pytorch_norm(start + 'bn1', 'stem_bn')
  for stage in (1, 2, 3):
    for block in (1, 2, 3, 4):
      theirs, ours = f'{start}layer{stage}.{block - 1}', f'stage{stage}/block{block}'
      for i in (1, 2):
        yield from _pytorch_conv(f'{theirs}.conv{i}', f'{ours}/conv{i}', 'oihw', meta_trained)
        yield from _pytorch_norm(f'{theirs}.bn{i}', f'{ours}/bn{i}')
      if block == 1:
        yield from _pytorch_conv(f'{theirs}.downsample.0', f'{ours}/shortcut', 'oi11', meta_trained)
        yield from _pytorch_norm(f'{theirs}.downsample.1', f'{ours}/shortcut_bn')
  if meta_trained:
    yield Place('base_learner.vars.0', 'base_learner/kernel', 'oi')
    yield Place('base_learner.vars.1', 'base_learner/bias', 'same')


def _pytorch_conv(theirs, ours, layout, meta_trained, bias=False):
  yield Place(theirs + '.weight', f'params/{ours}/kernel', layout)
  if bias:
    yield Place(theirs + '.bias', f'params/{ours}/bias', 'same')
  if meta_trained:
    yield Place(theirs + '.mtl_weight', f'scale_shift/{ours}/scale', layout)
    if bias:
      yield Place(theirs + '.mtl_bias', f'scale_shift/{ours}/shift', 'same')


def _pytorch_norm(theirs, ours):
  yield Place(theirs + '.weight', f'params/{ours}/scale', 'same')
  yield Place(theirs + '.bias', f'params/{ours}/bias', 'same')
  yield Place(theirs + '.running_mean', f'batch_stats/{ours}/mean', 'same')
  yield Place(theirs + '.running_var', f'batch_stats/{ours}/var', 'same')


def _tensorflow(meta_trained):
  for block in ('block1', 'block2', 'block3', 'block4'):
    for i in (1, 2, 3):
      yield Place(f'weights/{block}_conv{i}', f'params/{block}/conv{i}/kernel', 'same')
      yield Place(f'weights/{block}_bias{i}', f'params/{block}/conv{i}/bias', 'same')
      if meta_trained:
        yield Place(f'ss_weights/{block}_conv{i}', f'scale_shift/{block}/conv{i}/scale', 'same')
        yield Place(f'ss_weights/{block}_bias{i}', f'scale_shift/{block}/conv{i}/shift', 'same')
    yield Place(f'weights/{block}_conv_res', f'params/{block}/shortcut/kernel', '11io')
  if meta_trained:
    yield Place('fc_weights/w5', 'base_learner/kernel', 'same')
    yield Place('fc_weights/b5', 'base_learner/bias', 'same')
