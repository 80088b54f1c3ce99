"""The order of axes of a tensor in other people's files, and the way to ours and back."""
from typing import Literal

import numpy as np

# Ours is [h, w, in, out] of a convolution, [in, out] of a 1x1 kernel or a dense layer, and a vector
# where there is one axis. 'oihw' and 'oi' are PyTorch's; 'oi11' and '11io' those of 1x1 kernels;
# '1nd' and '11d' have axes of length 1 in front.
Layout = Literal['same', 'oihw', 'oi11', '11io', 'oi', '1nd', '11d']

_TO_OURS = {'same': lambda a: a,
            'oihw': lambda a: a.transpose(2, 3, 1, 0),
            'oi11': lambda a: a[:, :, 0, 0].T,
            '11io': lambda a: a[0, 0],
            'oi': lambda a: a.T,
            '1nd': lambda a: a[0],
            '11d': lambda a: a[0, 0]}
_TO_THEIRS = {'same': lambda a: a,
              'oihw': lambda a: a.transpose(3, 2, 0, 1),
              'oi11': lambda a: a.T[:, :, None, None],
              '11io': lambda a: a[None, None],
              'oi': lambda a: a.T,
              '1nd': lambda a: a[None],
              '11d': lambda a: a[None, None]}


def to_ours(array: np.ndarray, layout: Layout) -> np.ndarray:
  """Permutes the axes of a tensor of theirs into our order.

  Args:
    array: as in their file.
    layout: its order of axes.

  Returns:
    A view.
  """
  return _TO_OURS[layout](array)


def to_theirs(array: np.ndarray, layout: Layout) -> np.ndarray:
  """Permutes the axes of a leaf of ours into their order; undoes `to_ours`.

  Args:
    array: as in our trees.
    layout: their order of axes.

  Returns:
    A view.
  """
  return _TO_THEIRS[layout](array)
