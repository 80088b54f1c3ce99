"""Tensors without a place on the other side, by kind: known kinds are harmless, others refused.

A good import leaves some thirty tensors out. Told one by one they would hide the one that matters.
"""
from collections.abc import Callable, Iterable, Mapping

from mtl_jax.weights import correspondence

LeftOut = dict[str, tuple[str, ...]]  # kind -> the keys (theirs) or paths (ours) of that kind

_COUNTERS = 'counters of batch norm'
_BASE_CLASSIFIER = 'the classifier of the base classes'  # dropped after pre-training
_SECOND_NAMES = 'the second name of the base-learner'
_UNTRAINED = 'a base-learner that was not trained'
_STATISTICS = 'running statistics of batch norm'
_RATES = 'learned rates of the inner loop'
_TEMPERATURE = 'the learned temperature of the features'


def kind_of(format: str, key: str, *, meta_trained: bool) -> str | None:
  """Returns the kind of a tensor in the authors' files that corresponds to nothing here.

  Args:
    format: 'pytorch' or 'tensorflow'.
    key: theirs.
    meta_trained: as in `correspondence.places`.

  Returns:
    A noun for messages; None for a tensor that their network has not, or that has a place here.

  >>> kind_of('pytorch', 'encoder.bn1.num_batches_tracked', meta_trained=True)
  'counters of batch norm'
  """
  if format == 'tensorflow':
    if key in ('weights/w5', 'weights/b5'):
      return _BASE_CLASSIFIER
    return _UNTRAINED if key.startswith('fc_weights/') and not meta_trained else None
  if key.startswith('base_learner.') and not meta_trained:
    return _UNTRAINED
  if key.endswith('.num_batches_tracked'):
    return _COUNTERS
  if key.startswith('pre_fc.'):
    return _BASE_CLASSIFIER
  return _SECOND_NAMES if key in correspondence.SECOND_NAMES else None


def kind_of_ours(format: str, path: str) -> str | None:
  """Returns the kind of a leaf of ours that the authors' files cannot hold, as `kind_of` does.

  Args:
    format: 'pytorch' or 'tensorflow'.
    path: of the leaf; also 'inner_lr/log' and 'temperature/log' of `MetaParams`.

  Returns:
    A noun for messages; None for a leaf without which their network computes something else.
  """
  if format == 'tensorflow' and path.startswith('batch_stats/'):
    return _STATISTICS
  return {'inner_lr/log': _RATES, 'temperature/log': _TEMPERATURE}.get(path)


def group(keys: Iterable[str], kind: Callable[[str], str | None]
          ) -> tuple[LeftOut, tuple[str, ...]]:
  """Sorts tensors without a place by kind.

  Args:
    keys: theirs, or paths of ours.
    kind: `kind_of` or `kind_of_ours`, of a key alone.

  Returns:
    (kind -> keys, those of no known kind), in the order of `keys`.
  """
  known: dict[str, list[str]] = {}
  unknown = []
  for key in keys:
    found = kind(key)
    if found is None:
      unknown.append(key)
    else:
      known.setdefault(found, []).append(key)
  return {found: tuple(same) for found, same in known.items()}, tuple(unknown)


def describe(left_out: Mapping[str, tuple[str, ...]]) -> str:
  """Counts the tensors of each kind, for a message of one line.

  Args:
    left_out: of a `transfer.Transferred` or `transfer.Exported`.

  >>> describe({'counters of batch norm': ('bn1.num_batches_tracked',)})
  'counters of batch norm (1 tensor)'
  """
  return ', '.join(f'{kind} ({len(keys)} tensor{"s" if len(keys) != 1 else ""})'
                   for kind, keys in left_out.items())
